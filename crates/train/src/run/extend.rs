//! A finished run made longer, knowingly: its schedule begins again for the steps that are added.
//!
//! Raising the end of a schedule that has come down would send the rate up again in the middle of it,
//! on a model that has settled. So that is refused, and the way to go on is a schedule of its own, with
//! a warm-up of at most a tenth of the new steps, from the step where the run had ended.

use smidgen_store::Checkpoint;

use crate::trainer::Trainer;
use crate::{Config, Error, Patience};

/// Keys that a lengthening writes.
const WRITTEN: [&str; 5] =
    ["train.steps", "train.extended_at", "train.max_steps", "train.max_minutes", "schedule"];
/// A multiplier that is larger by no more than rounding has not risen.
const ROUNDING: f64 = 1e-9;

/// Adds steps to the configuration of a run that ended at step `at`. Limits that ended it are gone.
pub(super) fn lengthen(config: &mut Config, at: u64, more: u64) -> Result<(), Error> {
    if !(1..=1 << 40).contains(&more) {
        return Err(Error::value("--extend", "1 to 1099511627776", more));
    }
    let train = &mut config.train;
    train.steps = Some(at + more);
    train.extended_at = Some(at);
    (train.max_steps, train.max_minutes) = (None, None);
    config.schedule =
        config.schedule.map(|schedule| schedule.with_warmup_of_most((more / 10).max(1)));
    Ok(())
}

/// Whether a line of a difference comes from lengthening the run after this checkpoint.
pub(super) fn is_lengthening(line: &str, config: &Config, checkpoint: &Checkpoint) -> bool {
    let after = config.train.extended_at == Some(checkpoint.step());
    let key: &str = line.strip_prefix('`').and_then(|line| line.split('`').next()).unwrap_or("");
    let written = |known: &str| key == known || key.starts_with(&format!("{known}."));
    after && WRITTEN.iter().any(|known| written(known))
}

/// Begins the schedule of the added steps in a trainer that stands where the run had ended.
///
/// # Errors
/// [`Error::Foreign`] where the trainer stands before that step.
pub(super) fn begin_again(trainer: &mut Trainer<'_>, config: &Config) -> Result<(), Error> {
    let Some(at) = config.train.extended_at.filter(|at| *at > trainer.standing.offset) else {
        return Ok(());
    };
    let step = trainer.standing.step;
    if step < at {
        let (what, expected, got) = ("train.extended_at".into(), at.to_string(), step.to_string());
        return Err(Error::Foreign { step, what, expected, got });
    }
    trainer.standing.offset = at;
    trainer.standing.patience = Patience::default();
    Ok(())
}

/// Refuses a longer schedule that would send the rate up again.
pub(super) fn check_rate(trainer: &Trainer<'_>, config: &Config) -> Result<(), Error> {
    let standing = &trainer.standing;
    let (Some(old), Some(new)) = (standing.horizon, config.train.steps) else { return Ok(()) };
    if config.train.extended_at.is_some_and(|at| at > standing.offset) || new <= old {
        return Ok(());
    }
    let (schedule, offset) = (trainer.recipe.schedule, standing.offset);
    let rate = |horizon: u64| schedule.multiplier(standing.step - offset, horizon - offset);
    let (from, to) = (rate(old), rate(new));
    if to > from * (1.0 + ROUNDING) {
        return Err(Error::RateRises { step: standing.step, from, to, old, new });
    }
    Ok(())
}
