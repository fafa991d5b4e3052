//! Scores of all layers that travel, checked once, and what plans make of them.

use crate::Error;
use crate::select::{Scene, Selector};

/// The scores of one example.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerScores {
    selector: String,
    layers: Vec<usize>,
    tokens: usize,
    /// `[layers, T]`.
    values: Vec<f32>,
}

impl LayerScores {
    /// Asks a selector about every layer of `layers`, which are the sharer's that travel.
    ///
    /// # Errors
    /// Those of the selector; [`Error::Score`] for a score that is neither finite nor minus
    /// infinity.
    pub fn of(
        selector: &dyn Selector,
        scene: &Scene<'_>,
        layers: &[usize],
    ) -> Result<LayerScores, Error> {
        let tokens = scene.tokens();
        let mut values = vec![0.0; layers.len() * tokens];
        if tokens > 0 {
            for (layer, out) in layers.iter().zip(values.chunks_mut(tokens)) {
                selector.score(scene, *layer, out)?;
            }
        }
        LayerScores::new(selector.name(), layers.to_vec(), tokens, values)
    }

    /// Scores from elsewhere, `values: [layers, T]`.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Score`].
    pub fn new(
        selector: &str,
        layers: Vec<usize>,
        tokens: usize,
        values: Vec<f32>,
    ) -> Result<LayerScores, Error> {
        let (expected, got) = (layers.len() * tokens, values.len());
        if expected != got {
            return Err(Error::Length { what: "scores", expected, got });
        }
        let wrong = |score: &f32| score.is_nan() || *score == f32::INFINITY;
        if let Some(place) = values.iter().position(wrong) {
            let (layer, token) = (layers[place / tokens], place % tokens);
            return Err(Error::Score {
                selector: selector.into(),
                layer,
                token,
                got: values[place],
            });
        }
        Ok(LayerScores { selector: selector.into(), layers, tokens, values })
    }

    /// The sharer's layers that were asked about.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The scores of the layer at a place of [`LayerScores::layers`], `[T]`.
    pub fn layer(&self, place: usize) -> &[f32] {
        &self.values[place * self.tokens..][..self.tokens]
    }

    /// One score per token: those of each layer brought to mean 0 and spread 1 over the finite ones
    /// of `scope`, then averaged. A token masked in one layer is masked; those outside of the scope
    /// are masked too.
    pub fn shared(&self, scope: &[u32]) -> Vec<f32> {
        let mut mean = vec![f32::NEG_INFINITY; self.tokens];
        scope.iter().for_each(|token| mean[*token as usize] = 0.0);
        let count = self.layers.len() as f32;
        for place in 0..self.layers.len() {
            let scores = self.layer(place);
            let (centre, scale) = moments(scores, scope);
            for token in scope {
                let (score, mean) = (scores[*token as usize], &mut mean[*token as usize]);
                // Minus infinity times a scale of 0 would be no number.
                *mean += match score.is_finite() {
                    true => ((f64::from(score) - centre) * scale) as f32 / count,
                    false => score,
                };
            }
        }
        mean
    }

    /// The weights of an allocator's loss, `[scope]`: squared scores summed over layers; 0 for a
    /// masked token.
    ///
    /// # Errors
    /// [`Error::Value`] where a score is negative: it is a rank, and no size of a change.
    pub fn weights(&self, scope: &[u32]) -> Result<Vec<f64>, Error> {
        let mut weights = vec![0.0; scope.len()];
        for place in 0..self.layers.len() {
            let scores = self.layer(place);
            for (weight, token) in weights.iter_mut().zip(scope) {
                match f64::from(scores[*token as usize]) {
                    f64::NEG_INFINITY => *weight = f64::NEG_INFINITY,
                    score if score < 0.0 => {
                        let expected = "a selector whose scores are sizes";
                        return Err(Error::value("token_precision_mode", expected, &self.selector));
                    }
                    score => *weight += score * score,
                }
            }
        }
        Ok(weights.iter().map(|weight| weight.max(0.0)).collect())
    }
}

/// Weights that keep the order of `scores` and nothing else: T for the highest, ties to the earlier
/// token, 0 for a masked one. With one recipe to choose from an allocator then sends the first of
/// the ranking that fit under its cap.
pub fn weights_by_rank(scores: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> =
        (0..scores.len()).filter(|token| scores[*token] > f32::NEG_INFINITY).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let mut weights = vec![0.0; scores.len()];
    for (rank, token) in order.into_iter().enumerate() {
        weights[token] = (scores.len() - rank) as f64;
    }
    weights
}

/// Mean and the inverse of the spread of the finite scores in scope; 0 where they are all equal.
fn moments(scores: &[f32], scope: &[u32]) -> (f64, f64) {
    let finite = || {
        let scores = scope.iter().map(|token| f64::from(scores[*token as usize]));
        scores.filter(|score| score.is_finite())
    };
    let count = finite().count().max(1) as f64;
    let mean = finite().sum::<f64>() / count;
    let variance = finite().map(|score| (score - mean) * (score - mean)).sum::<f64>() / count;
    (mean, if variance > 0.0 { variance.sqrt().recip() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f32]) -> Result<LayerScores, Error> {
        LayerScores::new("test", vec![3, 5], values.len() / 2, values.to_vec())
    }

    #[test]
    fn layers_count_alike_whatever_their_scale() {
        let scores = scores(&[1.0, 2.0, 3.0, 900.0, 0.0, 500.0]).unwrap();
        let shared = scores.shared(&[0, 1, 2]);
        let spread = (2.0f32 / 3.0).sqrt();
        assert!((shared[2] - (1.0 / spread + (500.0 - 466.666_67) / 368.178_7) / 2.0).abs() < 1e-5);
        assert!(scores.shared(&[0, 2])[1] == f32::NEG_INFINITY);
    }

    #[test]
    fn a_masked_token_is_masked_for_all_layers_and_weighs_nothing() {
        let low = f32::NEG_INFINITY;
        let scores = scores(&[1.0, low, 3.0, 2.0, 5.0, 1.0]).unwrap();
        let shared = scores.shared(&[0, 1, 2]);
        assert_eq!(shared.iter().map(|x| x.is_finite()).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(scores.weights(&[0, 1, 2]).unwrap(), [5.0, 0.0, 10.0]);
        assert_eq!(weights_by_rank(&[1.0, low, 3.0, 1.0]), [3.0, 0.0, 4.0, 2.0]);
    }

    #[test]
    fn what_is_no_score_is_named() {
        for wrong in [f32::NAN, f32::INFINITY] {
            let error = scores(&[0.0, 0.0, 0.0, wrong]).unwrap_err().to_string();
            assert!(error.ends_with("at layer 5, token 1"), "{error}");
        }
        let negative = scores(&[1.0, -1.0]).unwrap().weights(&[0]);
        assert!(negative.unwrap_err().to_string().contains("got test"));
        let equal = scores(&[4.0; 4]).unwrap().shared(&[0, 1]);
        assert_eq!(equal, [0.0, 0.0]);
        let masked = scores(&[4.0, f32::NEG_INFINITY, 4.0, 4.0]).unwrap().shared(&[0, 1]);
        assert_eq!(masked, [0.0, f32::NEG_INFINITY]);
    }
}
