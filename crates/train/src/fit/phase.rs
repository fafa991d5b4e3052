//! Where a phase begins: before the next step, so that a checkpoint of this one leads to it again.

use smidgen_optim::{FireReport, fire_targets};

use super::Fitting;
use crate::Error;
use crate::track::FireLine;

/// Steps after a boundary whose losses are no matter of alarms.
const QUIET_STEPS: u64 = 20;

impl Fitting<'_, '_, '_> {
    /// A pattern that names nothing is found before the first step.
    pub(super) fn check_phases(&self) -> Result<(), Error> {
        if self.course.fire_at.is_empty() {
            return Ok(());
        }
        fire_targets(&self.trainer.params, self.course.fire_match.as_deref())?;
        Ok(())
    }

    /// Replaces weights where a phase begins with the next step, once.
    pub(super) fn begin_phase(&mut self) -> Result<(), Error> {
        let standing = &self.trainer.standing;
        let step = standing.step;
        if !self.course.fire_at.contains(&step) || standing.fired.contains(&step) {
            return Ok(());
        }
        let reports = self.trainer.fire(self.course.fire_match.as_deref())?;
        let line = FireLine { fire: &reports };
        self.tracker.fire(step + 1, self.clock.seconds(), &line)?;
        self.tell(step + 1, "fire", None, &told(step, &reports))
    }

    /// Whether a loss so soon after a boundary says nothing.
    pub(super) fn is_quiet(&self) -> bool {
        let standing = &self.trainer.standing;
        standing.fired.iter().any(|step| standing.step <= step + QUIET_STEPS)
    }
}

fn told(step: u64, reports: &[FireReport]) -> String {
    let miss = |of: fn(&FireReport) -> f64| reports.iter().map(of).fold(0.0, f64::max);
    let missing: usize = reports.iter().map(|report| report.missing).sum();
    let rest = if missing > 0 { format!(", {missing} directions missing") } else { String::new() };
    format!(
        "after step {step} {} matrices became isometries: largest miss {:.3} before, {:.1e} now{rest}",
        reports.len(),
        miss(|report| report.dfi_before),
        miss(|report| report.dfi_after),
    )
}
