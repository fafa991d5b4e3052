//! The range test: which learning rate a model can bear.
//!
//! Step i of N trains at `low (high / low)^(i / (N - 1))`. The loss is smoothed by an average that keeps
//! 0.98, its bias corrected; the test ends early where that is over four times its best, or no number.
//! Of the curve, two rates are offered: where the smoothed loss falls most steeply over the logarithm
//! of the rate, and a tenth of where it is lowest. A smoothed loss comes down late, and a rule with its
//! own scale hardly diverges, so the second can lie far too high: the lower of the two is suggested.
//! Source: Smith, Cyclical Learning Rates (arXiv 1506.01186). Every group keeps its share of the rate.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde::Serialize;
use smidgen_optim::Verdict;

use crate::trainer::Pace;
use crate::{Error, Event, Progress, Trainer};

/// How much of the smoothed loss a step keeps.
const KEEPS: f64 = 0.98;
/// A smoothed loss over this multiple of its best ends the test.
const DIVERGED: f64 = 4.0;
/// A slope is taken over this many points either side: single batches are noisy.
const SLOPE_REACH: usize = 3;

/// The rates that are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeTest {
    /// The first rate.
    pub low: f64,
    /// The last rate.
    pub high: f64,
    /// How many steps there are from the one to the other, both included.
    pub steps: u32,
}

impl Default for RangeTest {
    fn default() -> Self {
        Self { low: 1e-7, high: 1.0, steps: 100 }
    }
}

impl RangeTest {
    /// # Errors
    /// [`Error::Value`] unless there are steps that rise between positive rates.
    pub fn validate(&self) -> Result<(), Error> {
        let Self { low, high, steps } = *self;
        if !(low > 0.0 && high.is_finite() && low < high) {
            let (expected, got) = ("positive rates that rise", format!("{low} to {high}"));
            return Err(Error::value("--low, --high", expected, got));
        }
        if !(10..=10_000).contains(&steps) {
            return Err(Error::value("--steps", "10 to 10000", steps));
        }
        Ok(())
    }

    /// The rate of step `index`.
    pub fn rate(&self, index: u32) -> f64 {
        let share = f64::from(index) / f64::from(self.steps.max(2) - 1);
        self.low * (self.high / self.low).powf(share)
    }
}

/// One step of the test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LrPoint {
    /// The rate.
    pub lr: f64,
    /// The loss of its batch, before the update.
    pub loss: f64,
    /// The smoothed loss.
    pub smoothed: f64,
}

/// What a range test found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LrCurve {
    /// The steps that gave numbers.
    pub points: Vec<LrPoint>,
    /// Whether the loss went beyond all bounds at the last rate that was tried.
    pub diverged: bool,
    /// The rate of the steepest fall, where the loss falls at all.
    pub steepest: Option<f64>,
    /// A tenth of the rate of the lowest smoothed loss, where the loss falls at all.
    pub tenth_of_best: Option<f64>,
}

impl LrCurve {
    /// The rate to train with: the lower of the two.
    ///
    /// # Errors
    /// [`Error::NoRate`] where the loss did not fall at any rate.
    pub fn suggestion(&self) -> Result<f64, Error> {
        let both = [self.steepest, self.tenth_of_best].into_iter().flatten();
        both.reduce(f64::min).ok_or(Error::NoRate { tried: self.points.len() })
    }

    /// The point of the lowest smoothed loss.
    pub fn best(&self) -> Option<&LrPoint> {
        self.points.iter().min_by(|a, b| a.smoothed.total_cmp(&b.smoothed))
    }

    fn read(&mut self) {
        let best = self.points.iter().zip(0..).min_by(|a, b| a.0.smoothed.total_cmp(&b.0.smoothed));
        let Some((best, end)) = best.filter(|(_, index)| *index > 0) else { return };
        self.tenth_of_best = Some(best.lr / 10.0);
        let slope = |at: usize| {
            let (from, to) = (at.saturating_sub(SLOPE_REACH), (at + SLOPE_REACH).min(end));
            let (a, b) = (&self.points[from], &self.points[to]);
            (b.smoothed - a.smoothed) / (b.lr / a.lr).ln()
        };
        // Near the ends a slope is taken over fewer points, and single batches would win.
        let reach = if end >= 2 * SLOPE_REACH { SLOPE_REACH } else { 0 };
        let steepest = (reach..=end - reach).min_by(|a, b| slope(*a).total_cmp(&slope(*b)));
        self.steepest = steepest.filter(|at| slope(*at) < 0.0).map(|at| self.points[at].lr);
    }
}

/// Tries rates on a trainer and puts everything back as it was: weights, state, random streams, place
/// in the data, to the last bit. Takes as many bytes again as weights and state.
///
/// # Errors
/// [`Error::Value`] for a test that cannot be, and those of the trainer.
pub fn lr_find(
    trainer: &mut Trainer<'_>,
    test: &RangeTest,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> Result<LrCurve, Error> {
    test.validate()?;
    let kept = trainer.snapshot()?;
    let curve = range_test(trainer, test, progress, stop);
    trainer.put_back(kept)?;
    curve
}

/// The same without putting anything back.
pub(crate) fn range_test(
    trainer: &mut Trainer<'_>,
    test: &RangeTest,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> Result<LrCurve, Error> {
    let base = trainer.optim.groups().map(|group| group.lr).fold(0.0, f64::max);
    let (mut curve, mut sum, mut weight, mut best) = (LrCurve::default(), 0.0, 0.0, f64::INFINITY);
    for index in 0..test.steps {
        if stop.load(Relaxed) {
            break;
        }
        let lr = test.rate(index);
        let report = trainer.step_at(Pace { multiplier: lr / base, beta1: None })?;
        if report.verdict != Verdict::Apply {
            curve.diverged = true;
            break;
        }
        (sum, weight) = (KEEPS * sum + (1.0 - KEEPS) * report.loss, KEEPS * weight + 1.0 - KEEPS);
        let smoothed = sum / weight;
        best = smoothed.min(best);
        let point = LrPoint { lr, loss: report.loss, smoothed };
        curve.points.push(point);
        progress.event(Event::Range { index, steps: test.steps, point: &point });
        if smoothed > DIVERGED * best {
            curve.diverged = true;
            break;
        }
    }
    curve.read();
    Ok(curve)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(losses: &[f64]) -> LrCurve {
        let point = |(i, loss): (usize, &f64)| LrPoint {
            lr: 10f64.powi(i as i32 - 5),
            loss: *loss,
            smoothed: *loss,
        };
        let points = losses.iter().enumerate().map(point).collect();
        let mut curve = LrCurve { points, ..LrCurve::default() };
        curve.read();
        curve
    }

    #[test]
    fn rates_rise_by_a_factor() {
        let test = RangeTest::default();
        assert_eq!((test.rate(0), test.rate(99)), (1e-7, 1.0));
        assert!((test.rate(50) / test.rate(49) - 1e7f64.powf(1.0 / 99.0)).abs() < 1e-9);
        test.validate().unwrap();
        let message = RangeTest { high: 1e-8, ..test }.validate().unwrap_err().to_string();
        assert!(message.starts_with("`--low, --high`: expected positive rates that rise"));
        assert!(RangeTest { steps: 1, ..test }.validate().is_err());
    }

    #[test]
    fn the_suggestions_are_a_tenth_of_the_best_and_the_steepest_fall() {
        let found = curve(&[4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.9, 2.0, 1.9, 1.8, 9.0]);
        assert!((found.tenth_of_best.unwrap() / 1e3 - 1.0).abs() < 1e-12, "{found:?}");
        let steepest = found.steepest.unwrap();
        assert!((1e0..1e3).contains(&steepest), "{found:?}");
        assert_eq!(found.suggestion().unwrap(), steepest);
        assert_eq!(found.best().unwrap().smoothed, 1.8);
    }

    #[test]
    fn a_loss_that_never_falls_gives_no_rate() {
        for losses in [&[][..], &[1.0], &[1.0, 2.0, 3.0]] {
            let message = curve(losses).suggestion().unwrap_err().to_string();
            assert!(message.starts_with("no learning rate"), "{message}");
        }
    }
}
