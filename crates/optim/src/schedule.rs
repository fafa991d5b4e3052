//! Learning-rate schedules: one multiplier over each group's base rate.
//!
//! A schedule is a pure function of its configuration and the step, so a resume needs no state.
//! Steps count from 0; warm-up is `(t + 1) / W`, so the first step already moves.

use serde::{Deserialize, Serialize};

use crate::Error;

/// How the learning rate goes over a run.
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
    /// Warm-up, then `min + (1 - min) / 2 * (1 + cos(pi (t - W) / (T - 1 - W)))`.
    Cosine {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// What is left at the last step, as a share of the base rate.
        #[serde(default = "default_min_ratio")]
        min_ratio: f64,
    },
    /// Warm-up, then the base rate.
    Constant {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
    },
}

fn default_min_ratio() -> f64 {
    0.1
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine { warmup_steps: 0, min_ratio: default_min_ratio() }
    }
}

impl Schedule {
    /// Steps of linear warm-up.
    pub fn warmup_steps(&self) -> u64 {
        match *self {
            Self::Cosine { warmup_steps, .. } | Self::Constant { warmup_steps } => warmup_steps,
        }
    }

    /// The multiplier at `step` (from 0) of `total_steps`; stays at the last value past the end.
    pub fn multiplier(&self, step: u64, total_steps: u64) -> f64 {
        let warmup = self.warmup_steps();
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { min_ratio, .. } => {
                let span = total_steps.saturating_sub(warmup + 1).max(1) as f64;
                let done = ((step - warmup) as f64 / span).min(1.0);
                min_ratio + (1.0 - min_ratio) / 2.0 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }

    /// # Errors
    /// [`Error::Value`] when `min_ratio` is not in 0..=1.
    pub fn validate(&self) -> Result<(), Error> {
        match *self {
            Self::Cosine { min_ratio, .. } if !(0.0..=1.0).contains(&min_ratio) => {
                let (key, expected) = ("min_ratio", "a share from 0 to 1");
                Err(Error::Value { group: String::new(), key, expected, got: min_ratio })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule = Schedule::Cosine { warmup_steps: 4, min_ratio: 0.2 };

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
    fn never_rises_after_warm_up() {
        let all: Vec<f64> = (4..200).map(|t| COSINE.multiplier(t, 150)).collect();
        assert!(all.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn short_runs_are_defined() {
        let none = Schedule::Cosine { warmup_steps: 0, min_ratio: 0.1 };
        assert_eq!(none.multiplier(0, 1), 1.0);
        assert_eq!(none.multiplier(0, 0), 1.0);
        let long = Schedule::Cosine { warmup_steps: 10, min_ratio: 0.0 };
        assert_eq!([long.multiplier(4, 5), long.multiplier(10, 5)], [0.5, 1.0]);
        assert!(long.multiplier(11, 5) < 1e-12);
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
    }
}
