//! What travels under a cap: ranking, ties and the byte budget, once for every selector.
//!
//! Two ways lead to a message. [`SelectionConfig::select`] takes a proportion of the tokens, all with
//! one [`Recipe`]. [`allocate`] takes a cap in bytes and gives each token a recipe or none, so that
//! the message is never over the cap and loses as little as it can. Sizes are those of the
//! container to the byte ([`ByteModel`]).
//!
//! Read first: [`ByteModel`], [`Recipe`], [`allocate`].
//!
//! ```
//! use smidgen_link::KvShape;
//! use smidgen_link::plan::{self, ContainerModel, Layout, Precision, Recipe, RdHull};
//!
//! let shape = KvShape { layers: 6, kv_heads: 2, key_dim: 32, value_dim: 32 };
//! let recipes = [Precision::Int4, Precision::Int8].map(|p| Recipe::uniform(6, p, p)).to_vec();
//! let model = ContainerModel::new(shape, 48, Layout::default(), recipes)?;
//! let scope: Vec<u32> = (0..48).collect();
//! let weights: Vec<f64> = scope.iter().map(|token| f64::from(*token).powi(2)).collect();
//!
//! let cap_bytes = plan::full_bytes(shape, 48) / 4;
//! let plan = plan::allocate(&RdHull, &model, &scope, &weights, &[0.02, 0.001], cap_bytes)?;
//! assert!(plan.stats.actual_bytes <= cap_bytes);
//! assert_eq!(plan.groups[0].tokens.last(), Some(&47));
//! # Ok::<(), smidgen_link::Error>(())
//! ```

mod allocators;
mod budget;
mod calibration;
mod container;
mod index;
mod model;
mod problem;
mod recipe;
mod schedule;
mod scope;
mod scores;
mod selection;

pub use crate::wire::{Granularity, Precision};
pub use allocators::{
    ALLOCATORS, Allocator, DEFAULT_ALLOCATOR, RdDp, RdGreedyV0, RdHull, RdLagrange,
    allocator_by_name,
};
pub use budget::Budget;
pub use calibration::{CALIBRATION_JSON, Calibration, CalibrationSums};
pub use container::{ContainerModel, Layout, full_bytes};
pub use model::{ByteModel, Group, Piece, Tokens, planned_bytes};
pub use problem::{Choice, Problem};
pub(crate) use recipe::block_step;
pub use recipe::{LayerPrecision, Recipe};
pub use schedule::{LayerOverride, LayerSchedule};
pub use scope::{Marks, Scope};
pub use scores::{LayerScores, weights_by_rank};
pub use selection::{
    CacheOrder, CachePart, IndexScope, ScoreStats, Selected, SelectionConfig, SelectionStats,
};

use serde::{Deserialize, Serialize};

use crate::Error;

/// What is sent under a cap.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Tokens by recipe, none of them empty; no group where nothing is sent.
    pub groups: Vec<PlannedGroup>,
    /// Figures for the record.
    pub stats: PlanStats,
}

/// Tokens that travel with one recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedGroup {
    /// Its number among the recipes of the model.
    pub recipe: usize,
    /// Ascending.
    pub tokens: Vec<u32>,
}

/// What a record says about a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanStats {
    /// Whether anything is sent, and why not.
    pub outcome: Outcome,
    /// The most that the message may weigh.
    pub cap_bytes: u64,
    /// What it was planned with, an upper bound.
    pub planned_bytes: u64,
    /// What it weighs; 0 where nothing is sent.
    pub actual_bytes: u64,
    /// `cap_bytes - actual_bytes`.
    pub slack_bytes: u64,
    /// The least message with one token in scope; 0 where no token is in scope.
    pub smallest_bytes: u64,
    /// Tokens in scope.
    pub scope_tokens: usize,
    /// Tokens of each recipe.
    pub tokens_by_recipe: Vec<u64>,
    /// Tokens in scope that are not sent.
    pub dropped_tokens: u64,
    /// D as a share of what dropping everything would lose; 0 where there is nothing to lose.
    pub loss_share: f64,
}

/// How a plan came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A message is sent.
    Sent,
    /// The cap is below the smallest message: nothing is sent, 0 bytes.
    CapTooSmall,
    /// No token has a weight: nothing is sent, 0 bytes.
    NothingToGain,
}

/// Chooses what to send of the tokens in `scope`: `weights` are theirs, `distortions` those of the
/// model's recipes, and the message weighs at most `cap_bytes`.
///
/// # Errors
/// Those of [`Problem::new`] and of the allocator; [`Error::Length`] where the weights are not one
/// per token; [`Error::OverCap`] where the byte model contradicts itself.
pub fn allocate(
    allocator: &dyn Allocator,
    model: &dyn ByteModel,
    scope: &[u32],
    weights: &[f64],
    distortions: &[f64],
    cap_bytes: u64,
) -> Result<Plan, Error> {
    let (expected, got) = (scope.len(), weights.len());
    if expected != got {
        return Err(Error::Length { what: "weights of the tokens in scope", expected, got });
    }
    let problem = Problem::new(model, weights.to_vec(), distortions.to_vec(), cap_bytes)?;
    let smallest_bytes = smallest_bytes(model, scope)?;
    let none = vec![None; scope.len()];
    let mut choice = match smallest_bytes <= cap_bytes {
        true => allocator.allocate(&problem)?,
        false => none.clone(),
    };
    if choice == none && smallest_bytes <= cap_bytes {
        choice = one_token(&problem, model, scope)?;
    }
    let groups = groups(&choice, scope, model.recipes());
    let actual_bytes = bytes(model, &groups)?;
    if actual_bytes > cap_bytes {
        let what = format!("a plan of `{}`", allocator.name());
        return Err(Error::OverCap { what, cap_bytes, got_bytes: actual_bytes });
    }
    let tokens_by_recipe = problem.counts(&choice);
    let all = problem.weights.iter().sum::<f64>();
    let outcome = match (groups.is_empty(), problem.order.is_empty()) {
        (false, _) => Outcome::Sent,
        (true, true) => Outcome::NothingToGain,
        (true, false) => Outcome::CapTooSmall,
    };
    let stats = PlanStats {
        outcome,
        cap_bytes,
        planned_bytes: problem.bytes(&choice),
        actual_bytes,
        slack_bytes: cap_bytes - actual_bytes,
        smallest_bytes,
        scope_tokens: scope.len(),
        dropped_tokens: scope.len() as u64 - tokens_by_recipe.iter().sum::<u64>(),
        tokens_by_recipe,
        loss_share: if all > 0.0 { problem.loss(&choice) / all } else { 0.0 },
    };
    Ok(Plan { groups, stats })
}

/// Exact bytes of a message; 0 for no groups, for then nothing is sent.
///
/// # Errors
/// Those of [`ByteModel::wire_bytes`].
pub fn bytes(model: &dyn ByteModel, groups: &[PlannedGroup]) -> Result<u64, Error> {
    if groups.is_empty() {
        return Ok(0);
    }
    let groups = groups
        .iter()
        .map(|group| Group { recipe: group.recipe, tokens: Tokens::Shared(&group.tokens) });
    model.wire_bytes(&groups.collect::<Vec<_>>())
}

/// The least message with one token: the first of the scope, for its list is the shortest.
fn smallest_bytes(model: &dyn ByteModel, scope: &[u32]) -> Result<u64, Error> {
    let Some(first) = scope.first() else { return Ok(0) };
    let one = |recipe| {
        let tokens = Tokens::Shared(std::slice::from_ref(first));
        model.wire_bytes(&[Group { recipe, tokens }])
    };
    let all = (0..model.recipes()).map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().min().unwrap_or(0))
}

/// The choice of one token by exact sizes: a list may be a byte shorter than what plans go by.
fn one_token(problem: &Problem, model: &dyn ByteModel, scope: &[u32]) -> Result<Choice, Error> {
    let mut choice = vec![None; scope.len()];
    let mut recipes: Vec<usize> = (0..model.recipes()).collect();
    let distortion = |m: &usize| problem.distortions[*m];
    recipes.sort_by(|a, b| distortion(a).total_cmp(&distortion(b)).then(a.cmp(b)));
    recipes.retain(|m| distortion(m) < 1.0);
    for place in &problem.order {
        let tokens = Tokens::Shared(std::slice::from_ref(&scope[*place as usize]));
        for recipe in &recipes {
            if model.wire_bytes(&[Group { recipe: *recipe, tokens }])? <= problem.cap_bytes {
                choice[*place as usize] = Some(*recipe as u8);
                return Ok(choice);
            }
        }
    }
    Ok(choice)
}

fn groups(choice: &[Option<u8>], scope: &[u32], recipes: usize) -> Vec<PlannedGroup> {
    let of = |recipe: usize| {
        let here = choice.iter().zip(scope).filter(|(m, _)| **m == Some(recipe as u8));
        PlannedGroup { recipe, tokens: here.map(|(_, token)| *token).collect() }
    };
    (0..recipes).map(of).filter(|group| !group.tokens.is_empty()).collect()
}
