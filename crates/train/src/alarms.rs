//! What is out of the ordinary in a run: loss spikes, gradients without measure, predictions that
//! have collapsed, blocks that no longer learn, and learning by heart.
//!
//! Alarms only watch. Each goes off once where its limit is crossed, and again after it was quiet.
//! What they remember is part of a checkpoint, so a resumed run gives the same alarms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::AlarmConfig;

/// Updates before a loss or a norm can be judged by those before it.
const LEAST_UPDATES: u64 = 20;
/// Norms that the median is taken of.
const NORMS: usize = 64;
/// A block whose gradient is less than this share of the whole learns nothing.
const DEAD_SHARE: f64 = 1e-7;

/// What the alarms of a run remember.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watched {
    /// Norms of the gradients of the last steps.
    pub norms: Vec<f64>,
    /// Validations in a row at which a block had no gradient.
    pub dead: BTreeMap<String, u32>,
    /// The alarms that are going off now.
    pub ringing: Vec<Kind>,
    /// How often each went off.
    pub counts: BTreeMap<Kind, u64>,
    /// How often the run went back because of a spike.
    pub rollbacks: u32,
}

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A loss far over the running mean.
    Spike,
    /// A gradient norm far over the running median.
    GradNorm,
    /// Predictions that are always sure.
    Entropy,
    /// A block without a gradient.
    Dead,
    /// A validation loss far over the training loss.
    Gap,
}

impl Kind {
    /// The name in metrics and outcomes.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Spike => "spike",
            Kind::GradNorm => "grad_norm",
            Kind::Entropy => "entropy",
            Kind::Dead => "dead",
            Kind::Gap => "gap",
        }
    }
}

/// An alarm that has just gone off.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alarm {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl Watched {
    /// A loss beside the running mean before it.
    pub(crate) fn loss(
        &mut self,
        limits: &AlarmConfig,
        updates: u64,
        loss: f64,
        mean: f64,
    ) -> Option<Alarm> {
        let known = limits.spike > 0.0 && updates >= LEAST_UPDATES && loss.is_finite();
        let high = known && loss > limits.spike * mean;
        self.ring(Kind::Spike, high, || {
            format!("the loss of {loss:.3} is {:.1} times its running mean", loss / mean)
        })
    }

    /// A gradient norm beside those of the steps before it; it is one of them afterwards.
    pub(crate) fn grad_norm(&mut self, limits: &AlarmConfig, norm: f64) -> Option<Alarm> {
        if limits.grad_norm == 0.0 || !norm.is_finite() {
            return None;
        }
        let usual = median(&self.norms);
        let known = self.norms.len() as u64 >= LEAST_UPDATES;
        if self.norms.len() == NORMS {
            self.norms.remove(0);
        }
        self.norms.push(norm);
        self.ring(Kind::GradNorm, known && norm > limits.grad_norm * usual, || {
            format!(
                "the gradient norm of {norm:.3} is {:.1} times the usual {usual:.3}",
                norm / usual
            )
        })
    }

    /// Mean entropy of predictions, in nats.
    pub(crate) fn entropy(&mut self, limits: &AlarmConfig, entropy: f64) -> Option<Alarm> {
        self.ring(Kind::Entropy, entropy < limits.entropy, || {
            format!("the predictions have collapsed: their mean entropy is {entropy:.4} nats")
        })
    }

    /// Validation loss over the running training loss, in nats.
    pub(crate) fn gap(&mut self, limits: &AlarmConfig, gap: f64) -> Option<Alarm> {
        self.ring(Kind::Gap, limits.gap > 0.0 && gap > limits.gap, || {
            format!("the validation loss is {gap:.3} over the training loss: the text is being learnt by heart")
        })
    }

    /// Gradient norms of the blocks at a validation; those that stayed at nothing are told together.
    pub(crate) fn blocks(
        &mut self,
        limits: &AlarmConfig,
        norms: &BTreeMap<String, f64>,
    ) -> Option<Alarm> {
        let whole = norms.values().map(|norm| norm * norm).sum::<f64>().sqrt();
        if limits.dead == 0 || !(whole.is_finite() && whole > 0.0) {
            return None;
        }
        for (block, norm) in norms {
            if *norm < DEAD_SHARE * whole {
                *self.dead.entry(block.clone()).or_default() += 1;
            } else {
                self.dead.remove(block);
            }
        }
        let dead = self.dead.iter().filter(|(_, count)| **count >= limits.dead);
        let dead: Vec<&str> = dead.map(|(block, _)| block.as_str()).collect();
        let (any, text) = (!dead.is_empty(), dead.join(", "));
        self.ring(Kind::Dead, any, || {
            format!("no gradient reaches {text}, for {} validations", limits.dead)
        })
    }

    /// Whether an alarm is to be told: where its limit is crossed, once.
    fn ring(&mut self, kind: Kind, on: bool, text: impl FnOnce() -> String) -> Option<Alarm> {
        let was = self.ringing.contains(&kind);
        self.ringing.retain(|ringing| *ringing != kind || on);
        if !on || was {
            return None;
        }
        self.ringing.push(kind);
        *self.counts.entry(kind).or_default() += 1;
        Some(Alarm { kind, text: text() })
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// The block a parameter belongs to: `layers.3` of `layers.3.attn.q.weight`, and its own name outside.
pub(crate) fn block(name: &str) -> &str {
    let mut dots = name.match_indices('.').map(|(at, _)| at);
    let (first, second) = (dots.next(), dots.next());
    match (first, second) {
        (Some(a), Some(b)) if name[a + 1..b].parse::<u32>().is_ok() => &name[..b],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AlarmConfig =
        AlarmConfig { spike: 2.0, rollback: 0, entropy: 0.1, grad_norm: 5.0, dead: 2, gap: 0.5 };
    const NONE: AlarmConfig =
        AlarmConfig { spike: 0.0, rollback: 0, entropy: 0.0, grad_norm: 0.0, dead: 0, gap: 0.0 };

    fn norms(values: [f64; 2]) -> BTreeMap<String, f64> {
        ["layers.0", "layers.1"].map(String::from).into_iter().zip(values).collect()
    }

    #[test]
    fn each_goes_off_where_its_limit_is_crossed_and_only_once() {
        let mut watched = Watched::default();
        assert!(watched.loss(&LIMITS, 19, 9.0, 1.0).is_none(), "too early to tell");
        let told = watched.loss(&LIMITS, 20, 9.0, 3.0).unwrap();
        assert_eq!((told.kind, told.text.contains("3.0 times")), (Kind::Spike, true));
        assert!(watched.loss(&LIMITS, 21, 9.0, 3.0).is_none(), "it was told");
        assert!(watched.loss(&LIMITS, 22, 1.0, 3.0).is_none());
        assert!(watched.loss(&LIMITS, 23, 9.0, 3.0).is_some(), "it was quiet between");

        assert!((0..20).all(|_| watched.grad_norm(&LIMITS, 1.0).is_none()));
        assert!(watched.grad_norm(&LIMITS, 4.9).is_none());
        assert!(watched.grad_norm(&LIMITS, 5.1).is_some());
        assert!(watched.grad_norm(&LIMITS, f64::NAN).is_none());

        assert!(
            watched.entropy(&LIMITS, 0.2).is_none() && watched.entropy(&LIMITS, 0.05).is_some()
        );
        assert!(watched.gap(&LIMITS, 0.4).is_none() && watched.gap(&LIMITS, 0.6).is_some());
        assert_eq!(watched.counts[&Kind::Spike], 2);
    }

    #[test]
    fn a_block_is_dead_after_some_validations_without_a_gradient() {
        let mut watched = Watched::default();
        assert!(watched.blocks(&LIMITS, &norms([1.0, 0.0])).is_none());
        assert!(watched.blocks(&LIMITS, &norms([1.0, 1e-3])).is_none(), "it moved again");
        assert!(watched.blocks(&LIMITS, &norms([1.0, 0.0])).is_none());
        let told = watched.blocks(&LIMITS, &norms([1.0, 1e-9])).unwrap();
        assert!(told.text.contains("layers.1, for 2"), "{}", told.text);
        assert!(watched.blocks(&LIMITS, &norms([0.0, 0.0])).is_none(), "nothing to compare with");
    }

    #[test]
    fn limits_of_zero_never_go_off() {
        let mut watched = Watched::default();
        for _ in 0..40 {
            assert!(watched.loss(&NONE, 100, 1e9, 1.0).is_none());
            assert!(
                watched.grad_norm(&NONE, 1e9).is_none() && watched.entropy(&NONE, 0.0).is_none()
            );
            assert!(watched.gap(&NONE, 1e9).is_none());
            assert!(watched.blocks(&NONE, &norms([1.0, 0.0])).is_none());
        }
        assert_eq!(watched, Watched::default());
    }

    #[test]
    fn blocks_have_the_names_of_their_layers() {
        assert_eq!(block("layers.12.attn.q.weight"), "layers.12");
        assert_eq!(block("embed.weight"), "embed.weight");
        assert_eq!(block("hidden.gate.weight"), "hidden.gate.weight");
        assert_eq!(block("norm"), "norm");
    }

    #[test]
    fn old_norms_are_forgotten() {
        let mut watched = Watched::default();
        (0..200).for_each(|i| drop(watched.grad_norm(&LIMITS, f64::from(i))));
        assert_eq!((watched.norms.len(), watched.norms[0]), (NORMS, 136.0));
    }
}
