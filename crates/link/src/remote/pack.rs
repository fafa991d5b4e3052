//! What of a sharer's cache travels: all of it, the tokens a selector puts first, or what a cap has
//! room for.

use std::time::{Duration, Instant};

use serde::Serialize;
use smidgen_model::KeySpace;
use smidgen_tensor::Device;

use super::learnt::Learnt;
use crate::message::{self, Needed, Received};
use crate::plan::{
    Calibration, ContainerModel, LayerOverride, LayerSchedule, LayerScores, Layout, Marks, RdHull,
    Recipe, SelectionConfig, allocate, block_step, weights_by_rank,
};
use crate::select::{Needs, Scene, selector_by_name};
use crate::wire::{Plan, Precision};
use crate::{Error, KvView};

/// Ascending tokens, and what each layer of them is sent in.
type Groups = Vec<(Vec<u32>, Recipe)>;

/// What is asked of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Packing {
    /// Of keys and values: candidates under a cap, at most five; the format of all tokens, and no other,
    /// without one.
    pub formats: Vec<[Precision; 2]>,
    /// What some layers have instead, whichever format a token gets; the last that names a layer wins.
    pub layers: Vec<LayerOverride>,
    /// The most that the container may weigh, its header included; of a compact message without its
    /// schema.
    pub cap_bytes: Option<u64>,
    /// Which tokens come first: a name of [`SELECTORS`](crate::select::SELECTORS); none for the last
    /// ones, or under a cap by what was learnt.
    pub select: Option<String>,
    /// The share of the tokens that travels where there is no cap; above 0 and at most 1.
    pub share: f64,
    /// Layers that the receiver can use before the next ones are there; none for all at once.
    pub block_layers: Option<usize>,
    /// Whether what all messages have in common is sent once, as a schema, and the message without it.
    pub compact: bool,
    /// What is known of the receiver's fuser.
    pub learnt: Learnt,
}

impl Default for Packing {
    /// Every token in int8.
    fn default() -> Packing {
        let formats = vec![[Precision::Int8; 2]];
        Packing {
            formats,
            layers: Vec::new(),
            cap_bytes: None,
            select: None,
            share: 1.0,
            block_layers: None,
            compact: false,
            learnt: Learnt::default(),
        }
    }
}

/// What travels, or why nothing does.
#[derive(Clone, Debug, PartialEq)]
pub enum Packed {
    /// A message.
    Plan {
        /// For the encoder.
        plan: Box<Plan>,
        /// Tokens in it.
        tokens: usize,
        /// The selector that chose them; none where all travel unasked.
        chosen_by: Option<String>,
        /// What the scores took: of tokens, and under a cap of formats. The rest is allocation.
        score: Duration,
    },
    /// Nothing: 0 bytes.
    Nothing(Empty),
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// The least message weighs more than the cap.
    CapTooSmall,
    /// No gate of the receiver's fuser is open.
    NothingNeeded,
    /// What an open gate reads is dropped by the schedule of layers.
    Dropped,
}

impl Empty {
    /// For the receiver.
    pub fn reason(self) -> &'static str {
        match self {
            Empty::CapTooSmall => "the cap is below the smallest message",
            Empty::NothingNeeded => "no gate of the fuser is open",
            Empty::Dropped => "the layers that the fuser reads are dropped",
        }
    }
}

impl Packing {
    /// Checks what does not depend on a cache of so many layers, so that nobody is called in vain.
    ///
    /// # Errors
    /// [`Error::Value`] and [`Error::UnknownName`] for what cannot be asked, [`Error::Needs`] for a
    /// selector that reads what was not learnt, or what only a receiver has.
    pub fn check(&self, layers: usize) -> Result<(), Error> {
        let (most, got) = (if self.cap_bytes.is_some() { 5 } else { 1 }, self.formats.len());
        if got == 0 || got > most {
            return Err(Error::value("format", format!("1 to {most}"), got));
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(Error::value("share", "above 0 and at most 1", self.share));
        }
        let recipes = self.recipes(&vec![[true; 2]; layers])?;
        let weigher = self.weigher(&recipes).map(|(_, weigher)| weigher);
        let selector = selector_by_name(weigher.unwrap_or(self.select()))?;
        match selector.needs() {
            Needs::Nothing | Needs::Sharer => Ok(()),
            Needs::Regressor if self.learnt.delta_hat.is_some() => Ok(()),
            needs => Err(Error::Needs { selector: selector.name(), needs: needs.what() }),
        }
    }

    /// Plans a message of `cache`, of which the layers and halves in `needed` are read.
    ///
    /// # Errors
    /// As for [`Packing::check`], those of selector and allocator.
    pub fn plan(
        &self,
        device: &Device,
        cache: KvView<'_>,
        needed: &Needed,
        space: KeySpace,
    ) -> Result<Packed, Error> {
        let (expected, got) = (cache.shape.layers, needed.len());
        if expected != got {
            return Err(Error::Length { what: "halves of layers that are read", expected, got });
        }
        self.check(got)?;
        if needed.iter().all(|halves| *halves == [false; 2]) {
            return Ok(Packed::Nothing(Empty::NothingNeeded));
        }
        let recipes = self.recipes(needed)?;
        if recipes[0].sent().is_empty() {
            return Ok(Packed::Nothing(Empty::Dropped));
        }
        if self.compact && block_step(&recipes) > 0 {
            let expected = "layers whose keys and values travel alike";
            let got = "gates or formats that differ between layers";
            return Err(Error::value("compact", expected, got));
        }
        let block_layers = self.layers_per_block(&recipes);
        let regressor = self.learnt.delta_hat.as_ref();
        let scene = Scene { regressor, ..Scene::of_sharer(0, 0, cache) };
        let (groups, score) = match self.cap_bytes {
            Some(cap) => self.under(cap, device, &scene, &recipes, block_layers, space)?,
            None => self.at_will(&scene, &recipes[0])?,
        };
        let tokens = groups.iter().map(|(tokens, _)| tokens.len()).sum();
        let plan = message::by_recipes(&groups, block_layers, space).filter(|_| tokens > 0);
        let Some(mut plan) = plan else { return Ok(Packed::Nothing(Empty::CapTooSmall)) };
        // A cap that the field cannot hold is beyond any container.
        plan.about.cap = self.cap_bytes.and_then(|cap| u32::try_from(cap).ok());
        let chosen_by = match self.weigher(&recipes) {
            Some((_, weigher)) => Some(weigher.into()),
            None if self.cap_bytes.is_none() && self.share == 1.0 => None,
            None => Some(self.select().into()),
        };
        Ok(Packed::Plan { plan: Box::new(plan), tokens, chosen_by, score })
    }

    /// The selector, where nothing that was learnt takes its place.
    fn select(&self) -> &str {
        self.select.as_deref().unwrap_or("back")
    }

    /// What was learnt, where it is to choose.
    fn weigher(&self, recipes: &[Recipe]) -> Option<(&Calibration, &str)> {
        let is_asked = self.cap_bytes.is_some() && self.select.is_none();
        self.learnt.weigher(recipes).filter(|_| is_asked)
    }

    /// What each format makes of every layer.
    fn recipes(&self, needed: &Needed) -> Result<Vec<Recipe>, Error> {
        let recipe = |[keys, values]: &[Precision; 2]| {
            let v_scheme = Some(values.name().into());
            let overrides = self.layers.clone();
            let uniform = LayerSchedule::uniform(keys.name());
            LayerSchedule { v_scheme, overrides, ..uniform }.resolve(needed)
        };
        self.formats.iter().map(recipe).collect()
    }

    /// Layers of a block, each of which has one precision for keys and one for values.
    fn layers_per_block(&self, recipes: &[Recipe]) -> usize {
        let step = block_step(recipes);
        let most = match step {
            0 => recipes[0].sent().len(),
            // Where nothing but gates makes layers differ, each is a block of its own.
            _ if self.layers.is_empty() => 1,
            step => step,
        };
        let asked = self.block_layers.unwrap_or(most).clamp(1, most);
        let divides = |layers: &usize| step.is_multiple_of(*layers);
        (1..=asked).rev().find(divides).expect("one divides everything")
    }

    fn at_will(&self, scene: &Scene<'_>, recipe: &Recipe) -> Result<(Groups, Duration), Error> {
        let started = Instant::now();
        let config = SelectionConfig {
            mode: self.select().into(),
            proportion: self.share,
            ..SelectionConfig::default()
        };
        let chosen = config.select(scene, &Marks::of(scene.tokens()), &recipe.sent())?;
        let groups = chosen.lists.into_iter().take(1).map(|tokens| (tokens, recipe.clone()));
        Ok((groups.collect(), started.elapsed()))
    }

    fn under(
        &self,
        cap_bytes: u64,
        device: &Device,
        scene: &Scene<'_>,
        recipes: &[Recipe],
        block_layers: usize,
        space: KeySpace,
    ) -> Result<(Groups, Duration), Error> {
        let started = Instant::now();
        let cache = scene.sharer;
        // The blocks of the encoder, so that its bytes are the model's.
        let (block_layers, compact) = (Some(block_layers), self.compact);
        let layout = Layout { block_layers, compact, ..Layout::default() };
        let model = ContainerModel::new(cache.shape, cache.tokens, layout, recipes.to_vec())?;
        let scope: Vec<u32> = (0..cache.tokens as u32).collect();
        let (weights, distortions) = match self.weigher(recipes) {
            Some((calibration, weigher)) => calibration.weigh(&scope, recipes, scene, weigher)?,
            None => self.by_rank(&scope, device, scene, &model, space)?,
        };
        let score = started.elapsed();
        let chosen = allocate(&RdHull, &model, &scope, &weights, &distortions, cap_bytes)?;
        let groups = chosen.groups.into_iter();
        let groups = groups.map(|group| (group.tokens, recipes[group.recipe].clone()));
        Ok((groups.collect(), score))
    }

    /// Weights of tokens and distortions of formats where nothing was learnt: of the scores of a selector
    /// the order alone counts.
    fn by_rank(
        &self,
        scope: &[u32],
        device: &Device,
        scene: &Scene<'_>,
        model: &ContainerModel,
        space: KeySpace,
    ) -> Result<(Vec<f64>, Vec<f64>), Error> {
        let (cache, recipes) = (scene.sharer, model.recipe_list());
        let distortion = |recipe: &Recipe| {
            let whole = [(scope.to_vec(), recipe.clone())];
            let plan = message::by_recipes(&whole, model.block_layers(), space);
            distortion(device, cache, recipe, &plan.expect("something of a layer is sent"))
        };
        let distortions = recipes.iter().map(distortion).collect::<Result<Vec<_>, _>>()?;
        let scores = LayerScores::of(selector_by_name(self.select())?, scene, &recipes[0].sent())?;
        Ok((weights_by_rank(&scores.shared(scope)), distortions))
    }
}

/// The squared error of a message of every token, as a share of the squares of what is sent: what the
/// sharer itself can know of the loss.
fn distortion(
    device: &Device,
    cache: KvView<'_>,
    recipe: &Recipe,
    plan: &Plan,
) -> Result<f64, Error> {
    let received = Received::through(device, cache, plan)?;
    let got = received.cache.view();
    let (mut error, mut all) = (0.0, 0.0);
    let mut add = |ours: &[f32], theirs: &[f32]| {
        for (x, y) in ours.iter().zip(theirs) {
            error += f64::from(x - y).powi(2);
            all += f64::from(*x).powi(2);
        }
    };
    for (layer, precision) in recipe.layers.iter().enumerate() {
        for token in 0..cache.tokens {
            if precision.key.is_some() {
                add(cache.key(layer, token), got.key(layer, token));
            }
            if precision.value.is_some() {
                add(cache.value(layer, token), got.value(layer, token));
            }
        }
    }
    Ok(if all > 0.0 { (error / all).min(1.0) } else { 0.0 })
}

#[cfg(test)]
mod tests;
