//! How long a run waits for an improvement. Part of a checkpoint, so that a resume waits on.

use serde::{Deserialize, Serialize};

use crate::{StopConfig, Validation};

/// The best figure that counted, and the validations since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patience {
    /// Of the metric, turned so that less is better.
    pub best: Option<f64>,
    /// Validations in a row that did not improve on it by `stop.min_delta`.
    pub waits: u32,
}

impl Patience {
    /// Enters a validation.
    pub(crate) fn enter(&mut self, stop: &StopConfig, score: &Validation) {
        let cost = stop.metric.cost(score).filter(|cost| cost.is_finite());
        match (cost, self.best) {
            (Some(cost), best) if best.is_none_or(|best| cost < best - stop.min_delta) => {
                *self = Patience { best: Some(cost), waits: 0 };
            }
            _ => self.waits += 1,
        }
    }

    /// Whether it is at its end.
    pub(crate) fn is_over(&self, stop: &StopConfig) -> bool {
        self.waits >= stop.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CompileRate, Metric};

    fn score(loss: f64) -> Validation {
        Validation { loss, bpb: Some(loss / 2.0), targets: 1, compile: None }
    }

    /// After how many validations a curve is given up.
    fn ends(stop: &StopConfig, scores: impl IntoIterator<Item = Validation>) -> Option<usize> {
        let mut patience = Patience::default();
        scores.into_iter().position(|score| {
            patience.enter(stop, &score);
            patience.is_over(stop)
        })
    }

    #[test]
    fn ends_after_patience_validations_without_an_improvement() {
        let stop = StopConfig { patience: 2, min_delta: 0.1, ..StopConfig::default() };
        let curve = [3.0, 2.0, 1.95, 1.85, 1.8, 1.79];
        // 1.95 is no improvement over 2.0, 1.85 is one; 1.8 and 1.79 are none over it.
        assert_eq!(ends(&stop, curve.map(score)), Some(5));
        let every = StopConfig { min_delta: 0.0, ..stop };
        assert_eq!(ends(&every, curve.map(score)), None);
        let flat = std::iter::repeat_n(score(1.0), 9);
        assert_eq!(ends(&StopConfig::default(), flat), Some(5));
    }

    #[test]
    fn what_is_no_number_is_no_improvement() {
        let stop = StopConfig { patience: 2, ..StopConfig::default() };
        assert_eq!(ends(&stop, [1.0, f64::NAN, f64::NEG_INFINITY].map(score)), Some(2));
        assert_eq!(ends(&stop, [f64::NAN, 1.0, 0.5].map(score)), None);
    }

    #[test]
    fn each_metric_goes_its_own_way() {
        let stop = StopConfig { patience: 1, metric: Metric::Compile, ..StopConfig::default() };
        let compiled =
            |compiled| CompileRate { samples: 10, parsed: 9, compiled, low: 0.0, high: 1.0 };
        let rates = |all: [u32; 3]| {
            all.map(|n| Validation { compile: Some(compiled(n)), ..score(f64::from(n)) })
        };
        assert_eq!(ends(&stop, rates([1, 2, 3])), None);
        assert_eq!(ends(&stop, rates([3, 2, 9])), Some(1));
        let bpb = StopConfig { metric: Metric::Bpb, ..stop };
        assert_eq!(ends(&bpb, [3.0, 2.0, 1.0].map(score)), None);
        let none = [2.0, 1.0].map(|loss| Validation { bpb: None, ..score(loss) });
        assert_eq!(ends(&bpb, none), Some(0));
    }
}
