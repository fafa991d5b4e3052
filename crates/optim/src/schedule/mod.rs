//! Learning-rate schedules: one multiplier over each group's base rate.
//!
//! A schedule is a pure function of its configuration and the step, so a resume needs no state.
//! Steps count from 0; warm-up is `(t + 1) / W`, so the first step already moves. Past the last step
//! every schedule stays where it ended.

mod one_cycle;

use serde::{Deserialize, Serialize};

pub use one_cycle::{FinalRatioOf, OneCycle};

use crate::Error;

/// How the learning rate goes over a run of T steps, after W steps of linear warm-up.
///
/// ```
/// use smidgen_optim::Schedule;
/// let schedule = Schedule::Cosine { warmup_steps: 10, min_ratio: 0.1 };
/// assert_eq!(schedule.multiplier(0, 101), 0.1);
/// assert_eq!(schedule.multiplier(9, 101), 1.0);
/// assert!((schedule.multiplier(100, 101) - 0.1).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// `min + (1 - min) / 2 * (1 + cos(pi (t - W) / (T - 1 - W)))`.
    Cosine {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// What is left at the last step, as a share of the base rate.
        #[serde(default = "tenth")]
        min_ratio: f64,
    },
    /// `1 - (1 - min) (t - W) / (T - 1 - W)`.
    Linear {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// What is left at the last step, as a share of the base rate.
        #[serde(default = "tenth")]
        min_ratio: f64,
    },
    /// The base rate.
    Constant {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// `sqrt(W / (t + 1))`: a run of any length, decided while it goes.
    InverseSqrt {
        /// Steps of linear warm-up; also where the fall begins.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Warm-up, stable, decay: the base rate, and a fall over the last steps. A run may branch off
    /// the stable part at any time.
    Wsd {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Share of all steps that fall.
        #[serde(default = "fifth")]
        decay_ratio: f64,
        /// How they fall.
        #[serde(default)]
        decay: Decay,
        /// What is left at the last step, as a share of the base rate.
        #[serde(default = "tenth")]
        min_ratio: f64,
    },
    /// Up and down once, with the momentum going the other way.
    OneCycle(OneCycle),
}

/// The way down at the end of [`Schedule::Wsd`], over f from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// `1 - f`.
    #[default]
    Linear,
    /// `(1 + cos(pi f)) / 2`.
    Cosine,
    /// `1 - sqrt(f)`.
    OneMinusSqrt,
}

impl Decay {
    fn left(self, f: f64) -> f64 {
        match self {
            Decay::Linear => 1.0 - f,
            Decay::Cosine => half_cosine(f),
            Decay::OneMinusSqrt => 1.0 - f.sqrt(),
        }
    }
}

fn tenth() -> f64 {
    0.1
}

fn fifth() -> f64 {
    0.2
}

/// From 1 at 0 to 0 at 1.
fn half_cosine(f: f64) -> f64 {
    (1.0 + (std::f64::consts::PI * f).cos()) / 2.0
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine { warmup_steps: 0, min_ratio: tenth() }
    }
}

impl Schedule {
    /// Steps of linear warm-up, in which the multiplier does not depend on the length of the run.
    pub fn warmup_steps(&self) -> u64 {
        match *self {
            Self::Cosine { warmup_steps, .. }
            | Self::Linear { warmup_steps, .. }
            | Self::Constant { warmup_steps }
            | Self::InverseSqrt { warmup_steps }
            | Self::Wsd { warmup_steps, .. } => warmup_steps,
            Self::OneCycle(_) => 0,
        }
    }

    /// The same with a warm-up of no more than this, for a shorter run.
    pub fn with_warmup_of_most(mut self, most: u64) -> Self {
        match &mut self {
            Self::Cosine { warmup_steps, .. }
            | Self::Linear { warmup_steps, .. }
            | Self::Constant { warmup_steps }
            | Self::InverseSqrt { warmup_steps }
            | Self::Wsd { warmup_steps, .. } => *warmup_steps = most.min(*warmup_steps),
            Self::OneCycle(_) => {}
        }
        self
    }

    /// The multiplier at `step` (from 0) of `total_steps`; stays at the last value past the end.
    pub fn multiplier(&self, step: u64, total_steps: u64) -> f64 {
        let warmup = self.warmup_steps();
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let span = total_steps.saturating_sub(warmup + 1).max(1) as f64;
        let done = ((step - warmup) as f64 / span).min(1.0);
        let down_to = |min: f64, left: f64| min + (1.0 - min) * left;
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { min_ratio, .. } => down_to(min_ratio, half_cosine(done)),
            Self::Linear { min_ratio, .. } => down_to(min_ratio, 1.0 - done),
            Self::InverseSqrt { .. } => (warmup.max(1) as f64 / (step as f64 + 1.0)).sqrt(),
            Self::Wsd { decay_ratio, decay, min_ratio, .. } => {
                let last = total_steps.saturating_sub(1).max(warmup);
                // A warm-up that reaches into the fall makes it shorter, never steeper than a step.
                let fall = (decay_ratio * total_steps as f64).round().max(1.0);
                let left = last.saturating_sub(step) as f64;
                down_to(min_ratio, decay.left((1.0 - left / fall).clamp(0.0, 1.0)))
            }
            Self::OneCycle(cycle) => cycle.multiplier(step, total_steps),
        }
    }

    /// The decay of the first average at `step`, where the schedule says it: it takes the place of
    /// every group's own.
    pub fn beta1(&self, step: u64, total_steps: u64) -> Option<f64> {
        match self {
            Self::OneCycle(cycle) => cycle.beta1(step, total_steps),
            _ => None,
        }
    }

    /// # Errors
    /// [`Error::Value`] naming the key that cannot be.
    pub fn validate(&self) -> Result<(), Error> {
        match *self {
            Self::Cosine { min_ratio, .. } | Self::Linear { min_ratio, .. } => {
                share("min_ratio", min_ratio)
            }
            Self::Wsd { decay_ratio, min_ratio, .. } => {
                share("decay_ratio", decay_ratio)?;
                share("min_ratio", min_ratio)
            }
            Self::OneCycle(cycle) => cycle.validate(),
            Self::Constant { .. } | Self::InverseSqrt { .. } => Ok(()),
        }
    }
}

fn share(key: &'static str, got: f64) -> Result<(), Error> {
    check(key, "a share from 0 to 1", got, (0.0..=1.0).contains(&got))
}

fn check(key: &'static str, expected: &'static str, got: f64, good: bool) -> Result<(), Error> {
    let wrong = || Error::Value { group: String::new(), key, expected, got };
    good.then_some(()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule = Schedule::Cosine { warmup_steps: 4, min_ratio: 0.2 };

    fn wsd(decay: Decay) -> Schedule {
        Schedule::Wsd { warmup_steps: 4, decay_ratio: 0.2, decay, min_ratio: 0.1 }
    }

    #[test]
    fn cosine_has_the_values_of_its_formula() {
        let at = |t| COSINE.multiplier(t, 13);
        assert_eq!([at(0), at(1), at(3), at(4)], [0.25, 0.5, 1.0, 1.0]);
        assert!((at(8) - 0.6).abs() < 1e-12);
        assert!((at(6) - (0.2 + 0.4 * (1.0 + 0.5f64.sqrt()))).abs() < 1e-12);
        assert!((at(12) - 0.2).abs() < 1e-12);
        assert_eq!(at(12), at(99));
    }

    #[test]
    fn linear_falls_by_the_same_amount_each_step() {
        let linear = Schedule::Linear { warmup_steps: 2, min_ratio: 0.0 };
        let values = [0, 1, 2, 3, 6, 7, 9].map(|t| linear.multiplier(t, 8));
        for (got, expected) in values.into_iter().zip([0.5, 1.0, 1.0, 0.8, 0.2, 0.0, 0.0]) {
            assert!((got - expected).abs() < 1e-12, "{values:?}");
        }
    }

    #[test]
    fn inverse_square_root_begins_where_the_warm_up_ends() {
        let schedule = Schedule::InverseSqrt { warmup_steps: 100 };
        assert_eq!([0, 49, 99].map(|t| schedule.multiplier(t, 7)), [0.01, 0.5, 1.0]);
        assert!((schedule.multiplier(399, 7) - 0.5).abs() < 1e-12);
        assert_eq!(schedule.multiplier(399, 7), schedule.multiplier(399, u64::MAX));
        assert_eq!(Schedule::InverseSqrt { warmup_steps: 0 }.multiplier(3, 9), 0.5);
    }

    #[test]
    fn stable_until_the_last_fifth() {
        for (decay, half) in
            [(Decay::Linear, 0.5), (Decay::Cosine, 0.5), (Decay::OneMinusSqrt, 1.0 - 0.5f64.sqrt())]
        {
            let at = |t| wsd(decay).multiplier(t, 101);
            assert_eq!([at(1), at(3), at(50), at(80)], [0.5, 1.0, 1.0, 1.0]);
            assert!((at(90) - (0.1 + 0.9 * half)).abs() < 1e-12, "{decay:?}");
            assert!((at(100) - 0.1).abs() < 1e-12 && at(100) == at(500));
        }
    }

    #[test]
    fn never_rises_after_warm_up() {
        let linear = Schedule::Linear { warmup_steps: 4, min_ratio: 0.2 };
        let others = [linear, Schedule::InverseSqrt { warmup_steps: 4 }, COSINE];
        let wsd = [Decay::Linear, Decay::Cosine, Decay::OneMinusSqrt].map(wsd);
        for schedule in others.into_iter().chain(wsd) {
            let all: Vec<f64> = (4..200).map(|t| schedule.multiplier(t, 150)).collect();
            assert!(all.is_sorted_by(|a, b| a >= b), "{schedule:?}");
        }
    }

    #[test]
    fn short_runs_are_defined() {
        let none = Schedule::Cosine { warmup_steps: 0, min_ratio: 0.1 };
        assert_eq!(none.multiplier(0, 1), 1.0);
        assert_eq!(none.multiplier(0, 0), 1.0);
        let long = Schedule::Cosine { warmup_steps: 10, min_ratio: 0.0 };
        assert_eq!([long.multiplier(4, 5), long.multiplier(10, 5)], [0.5, 1.0]);
        assert!(long.multiplier(11, 5) < 1e-12);
        for total in [0, 1, 2] {
            let all = (0..4).map(|t| wsd(Decay::Cosine).multiplier(t, total));
            assert!(all.into_iter().all(|value| (0.0..=1.0).contains(&value)));
        }
    }

    #[test]
    fn an_open_horizon_changes_nothing_in_the_warm_up() {
        for schedule in [COSINE, wsd(Decay::Linear), Schedule::InverseSqrt { warmup_steps: 4 }] {
            for step in 0..4 {
                assert_eq!(schedule.multiplier(step, u64::MAX), schedule.multiplier(step, 13));
            }
        }
    }

    #[test]
    fn a_shorter_run_may_have_a_shorter_warm_up() {
        let shorter = COSINE.with_warmup_of_most(2);
        assert_eq!([shorter.warmup_steps(), shorter.with_warmup_of_most(9).warmup_steps()], [2, 2]);
        let cycle = Schedule::OneCycle(OneCycle::default());
        assert_eq!(cycle.with_warmup_of_most(1), cycle);
    }

    #[test]
    fn constant_stays() {
        let constant = Schedule::Constant { warmup_steps: 2 };
        assert_eq!([0, 1, 2, 1000].map(|t| constant.multiplier(t, 10)), [0.5, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_wrong_ratio_is_an_error() {
        let wrong = Schedule::Cosine { warmup_steps: 0, min_ratio: 1.5 };
        let message = wrong.validate().unwrap_err().to_string();
        assert_eq!(message, "`min_ratio`: expected a share from 0 to 1, got 1.5");
        assert!(COSINE.validate().is_ok());
        let wsd = Schedule::Wsd {
            warmup_steps: 0,
            decay_ratio: f64::NAN,
            decay: Decay::Linear,
            min_ratio: 0.0,
        };
        assert!(wsd.validate().unwrap_err().to_string().starts_with("`decay_ratio`"));
    }
}
