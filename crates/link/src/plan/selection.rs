//! Selection by proportion: which tokens travel, before anybody asks what they weigh.
//!
//! In this order: scope, part of the cache, score, the first k. k = round_half_even(p n) of the n
//! tokens in scope, at least `min_tokens` and one, at most n. Ties go to the earlier token.

use serde::{Deserialize, Serialize};

use super::{LayerScores, Marks, Scope};
use crate::Error;
use crate::select::{Scene, selector_by_name};

/// What is configured about selection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionConfig {
    /// A name of [`SELECTORS`](crate::select::SELECTORS).
    pub mode: String,
    /// p, above 0 and at most 1.
    pub proportion: f64,
    /// The tokens that compete.
    pub scope: Scope,
    /// One list for all layers, or one for each.
    pub index_scope: IndexScope,
    /// At least so many tokens, where the scope has them.
    pub min_tokens: usize,
    /// The part of the scope that is looked at before anything is scored; none for all of it.
    pub kv_cache: Option<CachePart>,
}

impl Default for SelectionConfig {
    fn default() -> Self {
        SelectionConfig {
            mode: "back".into(),
            proportion: 1.0,
            scope: Scope::default(),
            index_scope: IndexScope::default(),
            min_tokens: 1,
            kv_cache: None,
        }
    }
}

/// Who shares a list of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexScope {
    /// All layers: as many times fewer bytes of lists as there are layers.
    #[default]
    Shared,
    /// Each layer has its own.
    PerLayer,
}

/// A part of the tokens in scope, by position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachePart {
    /// How much of it, above 0 and at most 1.
    pub proportion: f64,
    /// Which end.
    pub order: CacheOrder,
}

/// An end of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheOrder {
    /// The first tokens.
    Front,
    /// The last tokens.
    Back,
}

/// What was selected.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// Ascending tokens: one list for all layers, or one for each.
    pub lists: Vec<Vec<u32>>,
    /// Figures for the record.
    pub stats: SelectionStats,
}

/// What a record says about a selection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionStats {
    /// T.
    pub tokens: usize,
    /// n, tokens in scope after the part of the cache.
    pub scope_tokens: usize,
    /// Tokens of the longest list.
    pub selected_tokens: usize,
    /// `selected_tokens / scope_tokens`, the effective proportion.
    pub fraction: f64,
    /// Whether `min_tokens` raised k above what the proportion says.
    pub min_tokens_bound: bool,
    /// Scores of the tokens in scope, averaged over layers; none where nothing was scored.
    pub score: Option<ScoreStats>,
}

/// Mean, least and largest of the finite scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The names say it.
pub struct ScoreStats {
    pub mean: f64,
    pub min: f64,
    pub max: f64,
}

impl SelectionConfig {
    /// Chooses the tokens of one example. `layers` are the sharer's that travel.
    ///
    /// With p = 1 nothing is scored: the lists are the scope, whatever the mode, so that the result
    /// is that of no selection to the last bit.
    ///
    /// # Errors
    /// [`Error::Value`] for a proportion outside of its range, [`Error::UnknownName`], those of
    /// the scope and of the selector.
    pub fn select(
        &self,
        scene: &Scene<'_>,
        marks: &Marks<'_>,
        layers: &[usize],
    ) -> Result<Selected, Error> {
        check_proportion("token_select_proportion", self.proportion)?;
        let selector = selector_by_name(&self.mode)?;
        let scope = self.scope(marks)?;
        if marks.tokens != scene.tokens() {
            let (expected, got) = (scene.tokens(), marks.tokens);
            return Err(Error::Length { what: "marks of the scope", expected, got });
        }
        if self.proportion == 1.0 {
            let lists = vec![scope.clone(); self.lists(layers)];
            return Ok(self.selected(lists, &scope, marks.tokens, None));
        }
        let scores = LayerScores::of(selector, scene, layers)?;
        let k = self.k(scope.len());
        let lists: Vec<_> = match self.index_scope {
            IndexScope::Shared => vec![first_k(&scores.shared(&scope), &scope, k)],
            IndexScope::PerLayer => {
                (0..layers.len()).map(|i| first_k(scores.layer(i), &scope, k)).collect()
            }
        };
        let stats = score_stats(&scores, &scope);
        Ok(self.selected(lists, &scope, marks.tokens, stats))
    }

    /// The tokens that compete: the scope, and the part of it that is looked at.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Length`].
    pub fn scope(&self, marks: &Marks<'_>) -> Result<Vec<u32>, Error> {
        let mut scope = self.scope.tokens(marks)?;
        if let Some(part) = self.kv_cache {
            check_proportion("kv_cache_proportion", part.proportion)?;
            let keep = count(part.proportion, scope.len()).clamp(1.min(scope.len()), scope.len());
            match part.order {
                CacheOrder::Front => scope.truncate(keep),
                CacheOrder::Back => drop(scope.drain(..scope.len() - keep)),
            }
        }
        Ok(scope)
    }

    fn k(&self, scope_tokens: usize) -> usize {
        count(self.proportion, scope_tokens).max(self.min_tokens).max(1).min(scope_tokens)
    }

    fn lists(&self, layers: &[usize]) -> usize {
        if self.index_scope == IndexScope::Shared { 1 } else { layers.len() }
    }

    fn selected(
        &self,
        lists: Vec<Vec<u32>>,
        scope: &[u32],
        tokens: usize,
        score: Option<ScoreStats>,
    ) -> Selected {
        let selected_tokens = lists.iter().map(Vec::len).max().unwrap_or(0);
        let scope_tokens = scope.len();
        let stats = SelectionStats {
            tokens,
            scope_tokens,
            selected_tokens,
            fraction: selected_tokens as f64 / scope_tokens.max(1) as f64,
            min_tokens_bound: self.k(scope_tokens) > count(self.proportion, scope_tokens),
            score,
        };
        Selected { lists, stats }
    }
}

/// The `k` highest of the tokens in scope, ascending; masked ones never.
fn first_k(scores: &[f32], scope: &[u32], k: usize) -> Vec<u32> {
    let score = |token: &u32| scores[*token as usize];
    let mut tokens: Vec<u32> =
        scope.iter().copied().filter(|token| score(token) > f32::NEG_INFINITY).collect();
    if k < tokens.len() {
        tokens.select_nth_unstable_by(k, |a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        tokens.truncate(k);
        tokens.sort_unstable();
    }
    tokens
}

/// round_half_even(p n); p is at most 1, so it fits.
fn count(proportion: f64, tokens: usize) -> usize {
    (proportion * tokens as f64).round_ties_even() as usize
}

fn check_proportion(key: &'static str, proportion: f64) -> Result<(), Error> {
    if proportion > 0.0 && proportion <= 1.0 {
        return Ok(());
    }
    Err(Error::value(key, "a share above 0 and at most 1", proportion))
}

fn score_stats(scores: &LayerScores, scope: &[u32]) -> Option<ScoreStats> {
    let layers = 0..scores.layers().len();
    let all = layers.flat_map(|place| {
        let layer = scores.layer(place);
        scope.iter().map(move |token| f64::from(layer[*token as usize]))
    });
    let finite: Vec<f64> = all.filter(|score| score.is_finite()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    let min = finite.iter().copied().reduce(f64::min)?;
    let max = finite.iter().copied().reduce(f64::max)?;
    Some(ScoreStats { mean, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn k_rounds_halves_to_even_within_its_bounds() {
        let k = |proportion, min_tokens, n| {
            SelectionConfig { proportion, min_tokens, ..SelectionConfig::default() }.k(n)
        };
        assert_eq!([k(0.5, 1, 5), k(0.5, 1, 7), k(0.25, 1, 10)], [2, 4, 2]);
        assert_eq!([k(0.01, 1, 10), k(0.01, 64, 10), k(0.25, 64, 117)], [1, 10, 64]);
        assert_eq!(k(0.5, 1, 0), 0);
    }

    proptest! {
        #[test]
        fn the_first_k_are_those_of_a_full_sort(
            raw in prop::collection::vec(-3i8..4, 1..60),
            k in 1usize..60,
        ) {
            let scores: Vec<f32> = raw.iter().map(|x| f32::from(*x)).collect();
            let scope: Vec<u32> = (0..scores.len() as u32).filter(|t| t % 5 != 2).collect();
            let mut sorted = scope.clone();
            sorted.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
            sorted.truncate(k);
            sorted.sort_unstable();
            prop_assert_eq!(first_k(&scores, &scope, k), sorted);
        }
    }
}
