//! `one-cycle`: up to the base rate and down far below where it began, momentum the other way.
//!
//! From `1 / div` up to 1 until step `p T - 1`, then down to the final ratio at step `T - 1`, each
//! along `b + (a - b) / 2 (1 + cos(pi f))`. The first decay of the averages goes high -> low -> high
//! over the same steps. With three phases the way down ends at `1 / div` after as many steps as the
//! way up took, and the rest goes on to the final ratio with the momentum high.
//! Source: Smith and Topin, Super-Convergence (arXiv 1708.07120), in the form of PyTorch's
//! `OneCycleLR`, whose values the tests hold. Differs: the final ratio may be read as one of the base
//! rate too, because both readings are in use and differ by `div`.

use serde::{Deserialize, Serialize};

use super::{check, half_cosine};
use crate::Error;

/// What `final_div` divides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalRatioOf {
    /// The first rate: the last one is `1 / (div final_div)` of the base rate.
    #[default]
    Initial,
    /// The base rate: the last one is `1 / final_div` of it.
    Max,
}

/// One cycle of rate and momentum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OneCycle {
    /// Share of the steps that rise.
    pub rise: f64,
    /// The first rate is the base rate divided by this.
    pub div: f64,
    /// The last rate is the first one, or the base rate, divided by this.
    pub final_div: f64,
    /// Which of the two.
    pub final_ratio_of: FinalRatioOf,
    /// Whether the way down stops over at the first rate.
    pub three_phase: bool,
    /// Whether the first decay of the averages cycles too.
    pub cycle_momentum: bool,
    /// Its lowest value, at the base rate, and its highest, at both ends.
    pub momentum: [f64; 2],
}

impl Default for OneCycle {
    fn default() -> Self {
        Self {
            rise: 0.3,
            div: 25.0,
            final_div: 1e4,
            final_ratio_of: FinalRatioOf::default(),
            three_phase: false,
            cycle_momentum: true,
            momentum: [0.85, 0.95],
        }
    }
}

impl OneCycle {
    pub(super) fn multiplier(&self, step: u64, total_steps: u64) -> f64 {
        let first = 1.0 / self.div;
        let last = match self.final_ratio_of {
            FinalRatioOf::Initial => first / self.final_div,
            FinalRatioOf::Max => 1.0 / self.final_div,
        };
        self.at(step, total_steps, [first, 1.0, first, last])
    }

    pub(super) fn beta1(&self, step: u64, total_steps: u64) -> Option<f64> {
        let [low, high] = self.momentum;
        self.cycle_momentum.then(|| self.at(step, total_steps, [high, low, high, high]))
    }

    /// A value that passes through `[first, turn, stop-over, last]`; without a third phase it goes
    /// from the turn to the last one.
    fn at(&self, step: u64, total_steps: u64, [first, turn, stop, last]: [f64; 4]) -> f64 {
        let (t, total) = (step as f64, total_steps as f64);
        let (up, end) = (self.rise * total - 1.0, total - 1.0);
        let back = 2.0 * self.rise * total - 2.0;
        if t <= up {
            anneal(first, turn, t / up)
        } else if !self.three_phase {
            anneal(turn, last, (t - up) / (end - up))
        } else if t <= back {
            anneal(turn, stop, (t - up) / (back - up))
        } else {
            anneal(stop, last, (t - back) / (end - back))
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let rise = self.rise > 0.0 && self.rise < 1.0;
        check("rise", "a share between 0 and 1", self.rise, rise)?;
        let short = !self.three_phase || self.rise <= 0.5;
        check("rise", "at most 0.5 with `three_phase`", self.rise, short)?;
        for (key, value) in [("div", self.div), ("final_div", self.final_div)] {
            check(key, "a number from 1", value, value.is_finite() && value >= 1.0)?;
        }
        for value in self.momentum {
            check("momentum", "numbers from 0 and below 1", value, (0.0..1.0).contains(&value))?;
        }
        Ok(())
    }
}

/// From `a` to `b` along half a cosine; runs of a few steps may have no way between two points.
fn anneal(a: f64, b: f64, f: f64) -> f64 {
    let f = if f.is_finite() { f.clamp(0.0, 1.0) } else { 1.0 };
    b + (a - b) * half_cosine(f)
}

#[cfg(test)]
mod tests {
    use super::super::Schedule;
    use super::*;

    const STEPS: [u64; 6] = [0, 100, 299, 300, 600, 999];

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 2e-6 * expected.max(1e-3), "{got} for {expected}");
    }

    #[test]
    fn rate_and_momentum_have_the_reference_values() {
        let schedule = Schedule::OneCycle(OneCycle::default());
        let rates = [0.04, 0.281457, 1.0, 0.999995, 0.609073, 4e-6];
        for (step, expected) in STEPS.into_iter().zip(rates) {
            close(schedule.multiplier(step, 1000), expected);
        }
        for (step, expected) in [(0, 0.95), (299, 0.85), (999, 0.95), (2000, 0.95)] {
            close(schedule.beta1(step, 1000).unwrap(), expected);
        }
    }

    #[test]
    fn both_readings_of_the_final_ratio_differ_by_the_first_one() {
        let of_max = OneCycle { final_ratio_of: FinalRatioOf::Max, ..OneCycle::default() };
        close(of_max.multiplier(999, 1000), 1e-4);
        close(OneCycle::default().multiplier(999, 1000), 4e-6);
        assert_eq!(of_max.multiplier(200, 1000), OneCycle::default().multiplier(200, 1000));
    }

    #[test]
    fn three_phases_stop_over_at_the_first_rate() {
        let three = OneCycle { three_phase: true, ..OneCycle::default() };
        let at = |t| three.multiplier(t, 1000);
        close(at(0), 0.04);
        close(at(299), 1.0);
        close(at(598), 0.04);
        close(at(999), 4e-6);
        assert_eq!(three.beta1(800, 1000), Some(0.95));
    }

    #[test]
    fn momentum_can_be_left_alone() {
        let still = OneCycle { cycle_momentum: false, ..OneCycle::default() };
        assert_eq!(still.beta1(10, 100), None);
        assert_eq!(still.multiplier(10, 100), OneCycle::default().multiplier(10, 100));
    }

    #[test]
    fn runs_of_any_length_are_defined() {
        for (total, three_phase) in (0..12).flat_map(|n| [(n, false), (n, true)]) {
            let cycle = OneCycle { three_phase, ..OneCycle::default() };
            for step in 0..14 {
                let (rate, beta) = (cycle.multiplier(step, total), cycle.beta1(step, total));
                assert!((0.0..=1.0).contains(&rate), "{rate} at {step} of {total}");
                assert!((0.85..=0.95).contains(&beta.unwrap()));
            }
        }
        close(OneCycle::default().multiplier(3, u64::MAX), 0.04);
    }

    #[test]
    fn impossible_numbers_are_errors() {
        let base = OneCycle::default();
        for (key, wrong) in [
            ("rise", OneCycle { rise: 0.0, ..base }),
            ("rise", OneCycle { rise: 0.6, three_phase: true, ..base }),
            ("div", OneCycle { div: 0.5, ..base }),
            ("final_div", OneCycle { final_div: f64::NAN, ..base }),
            ("momentum", OneCycle { momentum: [0.8, 1.0], ..base }),
        ] {
            let message = wrong.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{key}`")), "{message}");
        }
        base.validate().unwrap();
    }
}
