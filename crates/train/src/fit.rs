//! The loop around the steps: limits, validations, checkpoints, the clock, the stop flag.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use smidgen_codec::Tag;
use smidgen_optim::Verdict;
use smidgen_store::{LEDGER_JSON, Metrics, RunDir};

use crate::machine::peak_rss_bytes;
use crate::outcome::{OUTCOME_JSON, Outcome, Status};
use crate::{Error, Event, Progress, StepEvent, StepReport, Trainer};

/// Steps at the start whose time says nothing yet.
const UNTIMED_STEPS: u64 = 3;
/// Share of a run by the clock after which its horizon is fixed.
const TIMED_SHARE: f64 = 0.04;
/// A horizon a little short lets the schedule end before the clock does.
const HORIZON_SHARE: f64 = 0.97;

/// How long a run goes and what it keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Steps of the schedule; without them the clock fixes them once.
    pub steps: Option<u64>,
    /// Ends the run after this step.
    pub max_steps: Option<u64>,
    /// Ends the run by the clock, after the step that passes it.
    pub max_minutes: Option<f64>,
    /// Steps that a horizon fixed by the clock does not pass: more would only be learnt by heart.
    pub useful_steps: Option<u64>,
    /// Steps between validations.
    pub val_every: u64,
    /// Steps between checkpoints.
    pub ckpt_every: u64,
    /// Newest checkpoints that stay.
    pub keep: usize,
    /// What checkpoints keep in their manifests, given the horizon.
    pub facts: Value,
}

impl Course {
    /// The last step, as far as it is known.
    fn end(&self, horizon: Option<u64>) -> Option<u64> {
        [horizon, self.max_steps].into_iter().flatten().min()
    }
}

/// What a run is done with besides its trainer.
pub(crate) struct Around<'a> {
    pub(crate) run: &'a RunDir,
    pub(crate) progress: &'a mut dyn Progress,
    pub(crate) stop: &'a AtomicBool,
    /// Called once, when the clock has fixed the horizon.
    pub(crate) fixed: &'a mut dyn FnMut(u64) -> Result<Value, Error>,
    /// Seconds that this process spent before the loop.
    pub(crate) spent_seconds: f64,
}

/// Trains until the course is done or `stop` is set, and leaves a checkpoint of the last step.
///
/// `run` is a fresh run directory, or one whose newest checkpoint the trainer was loaded from.
///
/// # Errors
/// Those of trainer and store; [`Error::NotFinite`] after ten bad steps in a row.
pub fn fit(
    trainer: &mut Trainer<'_>,
    course: &Course,
    run: &RunDir,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> Result<Outcome, Error> {
    let facts = course.facts.clone();
    let fixed = &mut |_| Ok(facts.clone());
    go(trainer, course, Around { run, progress, stop, fixed, spent_seconds: 0.0 })
}

pub(crate) fn go(
    trainer: &mut Trainer<'_>,
    course: &Course,
    around: Around<'_>,
) -> Result<Outcome, Error> {
    if let Some(steps) = course.steps {
        trainer.set_horizon(steps);
    }
    let resumed = Some(trainer.standing.step).filter(|step| *step > 0);
    let mut fitting = Fitting {
        metrics: Metrics::open(around.run, resumed)?,
        course: course.clone(),
        clock: Clock::new(trainer.standing.seconds + around.spent_seconds),
        saved: resumed,
        trainer,
        around,
    };
    fitting.run()
}

/// Seconds of the run, those of earlier processes included.
struct Clock {
    before: f64,
    since: Instant,
    /// Seconds per step, smoothed, for people and for the horizon.
    per_step: Option<f64>,
    timed: u64,
}

impl Clock {
    fn new(before: f64) -> Clock {
        Clock { before, since: Instant::now(), per_step: None, timed: 0 }
    }

    fn seconds(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }

    fn timed_step(&mut self, seconds: f64) {
        self.timed += 1;
        if self.timed > UNTIMED_STEPS {
            self.per_step = Some(self.per_step.map_or(seconds, |old| 0.9 * old + 0.1 * seconds));
        }
    }
}

/// One line of `metrics.jsonl` for a step.
#[derive(Serialize)]
struct StepLine {
    loss: f64,
    lr_multiplier: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_norm: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
    tokens: u64,
    tok_s: f64,
    bytes: u64,
}

/// One line of `metrics.jsonl` for a validation.
#[derive(Serialize)]
struct ValidationLine {
    val_loss: f64,
    val_ppl: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    val_bpb: Option<f64>,
    best: bool,
}

struct Fitting<'a, 't, 'o> {
    trainer: &'t mut Trainer<'o>,
    around: Around<'a>,
    course: Course,
    metrics: Metrics,
    clock: Clock,
    /// Step of the newest checkpoint.
    saved: Option<u64>,
}

impl Fitting<'_, '_, '_> {
    fn run(&mut self) -> Result<Outcome, Error> {
        while !self.is_done() {
            // Also before the first step: preparing the data may have taken a while.
            if self.around.stop.load(Relaxed) {
                return self.interrupted();
            }
            self.one_step()?;
        }
        self.finish()
    }

    /// Nothing is lost: a run without a step needs no checkpoint to begin again.
    fn interrupted(&mut self) -> Result<Outcome, Error> {
        let step = self.trainer.standing.step;
        if step > 0 && self.saved != Some(step) {
            self.checkpoint(false)?;
        }
        self.outcome(Status::Interrupted)
    }

    fn is_done(&self) -> bool {
        let standing = &self.trainer.standing;
        let by_steps = self.course.end(standing.horizon).is_some_and(|end| standing.step >= end);
        let seconds = self.course.max_minutes.map(|minutes| minutes * 60.0);
        // At least one step, so that there is something to keep.
        by_steps || standing.step > 0 && seconds.is_some_and(|limit| self.clock.seconds() >= limit)
    }

    fn one_step(&mut self) -> Result<(), Error> {
        let started = Instant::now();
        let report = self.trainer.step()?;
        let seconds = started.elapsed().as_secs_f64();
        match report.verdict {
            Verdict::Apply | Verdict::Skip => {}
            Verdict::Restore => return self.restore(),
            Verdict::Abort => return self.abort(),
        }
        self.clock.timed_step(seconds);
        self.trainer.standing.step_seconds += seconds;
        self.record(&report, seconds)?;
        self.fix_horizon()?;
        let (step, done) = (self.trainer.standing.step, self.is_done());
        // The last step is validated and saved by `finish`.
        if done {
            return Ok(());
        }
        let mut best = false;
        if step.is_multiple_of(self.course.val_every) {
            best = self.validate()?;
        }
        if best || step.is_multiple_of(self.course.ckpt_every) {
            self.checkpoint(best)?;
        }
        Ok(())
    }

    fn record(&mut self, report: &StepReport, seconds: f64) -> Result<(), Error> {
        let standing = &self.trainer.standing;
        let ledger = self.trainer.device.ledger();
        let event = StepEvent {
            step: standing.step,
            steps: self.course.end(standing.horizon),
            loss: report.loss,
            mean_loss: standing.mean_loss(),
            multiplier: report.multiplier,
            grad_norm: report.grad_norm,
            skipped: report.verdict == Verdict::Skip,
            tokens: self.trainer.targets(),
            tokens_per_s: self.trainer.objective.step_targets() as f64
                / self.clock.per_step.unwrap_or(seconds),
            peak_bytes: ledger.total_peak_bytes() as u64,
            seconds: self.clock.seconds(),
        };
        let line = StepLine {
            loss: event.loss,
            lr_multiplier: event.multiplier,
            grad_norm: event.grad_norm,
            skipped: event.skipped,
            tokens: event.tokens,
            tok_s: self.trainer.objective.step_targets() as f64 / seconds,
            bytes: ledger.total_live_bytes() as u64,
        };
        self.metrics.append(event.step, &line)?;
        self.around.progress.event(Event::Step(&event));
        Ok(())
    }

    /// A run by the clock gets its horizon once, from the pace of its first steps.
    fn fix_horizon(&mut self) -> Result<(), Error> {
        let (Some(minutes), None) = (self.course.max_minutes, self.trainer.standing.horizon) else {
            return Ok(());
        };
        let Some(per_step) = self.clock.per_step else { return Ok(()) };
        let (limit, step) = (minutes * 60.0, self.trainer.standing.step);
        let warmup = self.trainer.recipe.schedule.warmup_steps();
        if self.clock.since.elapsed().as_secs_f64() < TIMED_SHARE * limit && step < warmup {
            return Ok(());
        }
        // A validation goes forward only: a third of what its targets cost in training.
        let objective = &self.trainer.objective;
        let share = objective.validation_targets() as f64 / objective.step_targets() as f64 / 3.0;
        let per_step = per_step * (1.0 + share / self.course.val_every as f64);
        let left = (limit - self.clock.seconds() - per_step * share).max(0.0);
        let steps = step + ((left / per_step * HORIZON_SHARE) as u64).max(1);
        let bounds = [self.course.max_steps, self.course.useful_steps];
        let steps = bounds.into_iter().flatten().fold(steps, u64::min);
        self.trainer.set_horizon(steps);
        self.course.facts = (self.around.fixed)(steps)?;
        self.around.progress.event(Event::Horizon { steps });
        Ok(())
    }

    fn validate(&mut self) -> Result<bool, Error> {
        let (score, best) = self.trainer.validate()?;
        let step = self.trainer.standing.step;
        let (val_loss, val_ppl, val_bpb) = (score.loss, score.ppl(), score.bpb);
        self.metrics.append(step, &ValidationLine { val_loss, val_ppl, val_bpb, best })?;
        self.around.progress.event(Event::Validation { step, score, best });
        Ok(best)
    }

    fn checkpoint(&mut self, best: bool) -> Result<(), Error> {
        let step = self.trainer.standing.step;
        self.trainer.standing.seconds = self.clock.seconds();
        self.metrics.sync()?;
        let (keep, facts) = (self.course.keep, self.course.facts.clone());
        self.trainer.save(self.around.run, best, keep, facts)?;
        self.saved = Some(step);
        self.around.progress.event(Event::Checkpoint { step });
        Ok(())
    }

    /// A bad gradient came after an update: back to the last good state, past the step that spoiled it.
    fn restore(&mut self) -> Result<(), Error> {
        let bad = self.trainer.standing.step;
        self.go_back()?;
        self.trainer.standing.passed_over.push(bad);
        let text = format!(
            "the gradient of step {} was not finite after an update; went back to step {}",
            bad + 1,
            self.trainer.standing.step
        );
        self.around.progress.event(Event::Notice(&text));
        Ok(())
    }

    /// To the newest checkpoint, or to the first values; what was learnt on the way stays known.
    fn go_back(&mut self) -> Result<(), Error> {
        let known = self.trainer.standing.clone();
        match self.around.run.newest_valid()? {
            Some((checkpoint, _)) if self.saved.is_some() => self.trainer.load(&checkpoint)?,
            _ => self.trainer.begin_anew()?,
        }
        let standing = &mut self.trainer.standing;
        standing.guard = known.guard;
        standing.passed_over = known.passed_over;
        standing.horizon = known.horizon;
        standing.step_seconds = known.step_seconds;
        self.metrics = Metrics::open(self.around.run, self.saved)?;
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Error> {
        let (bad, guard) = (self.trainer.standing.step, self.trainer.standing.guard);
        if self.trainer.is_spoiled() {
            self.go_back()?;
        }
        if self.saved != Some(self.trainer.standing.step) {
            self.checkpoint(false)?;
        }
        let saved = self.trainer.standing.step;
        Err(Error::NotFinite { in_a_row: guard.in_a_row, step: bad + 1, saved })
    }

    /// The last validation and checkpoint, a sample, the ledger, and the object people ask for.
    fn finish(&mut self) -> Result<Outcome, Error> {
        let step = self.trainer.standing.step;
        let scored = self.trainer.standing.last.is_some_and(|last| last.step == step);
        let best = if scored { false } else { self.validate()? };
        if self.saved != Some(step) || !scored {
            self.checkpoint(best)?;
        }
        // Before the sample, whose packed weights and caches are no part of training.
        self.write_ledger()?;
        let (device, params) = (&self.trainer.device, &self.trainer.params);
        let sample = self.trainer.objective.sample(device, self.trainer.recipe.compute, params)?;
        if let Some(sample) = sample {
            self.around.progress.event(Event::Sample(&sample));
        }
        let outcome = self.outcome(Status::Finished)?;
        // Last of all: with it the run is finished.
        self.around.run.write_json(OUTCOME_JSON, &outcome)?;
        Ok(outcome)
    }

    fn write_ledger(&self) -> Result<(), Error> {
        let ledger = self.trainer.device.ledger();
        let mut tags = serde_json::Map::new();
        for tag in Tag::ALL {
            let (live, peak) = (ledger.live_bytes(tag), ledger.peak_bytes(tag));
            tags.insert(tag.name().into(), serde_json::json!({ "live": live, "peak": peak }));
        }
        let total = serde_json::json!({
            "live": ledger.total_live_bytes(),
            "peak": ledger.total_peak_bytes(),
        });
        tags.insert("total".into(), total);
        Ok(self.around.run.write_json(LEDGER_JSON, &tags)?)
    }

    fn outcome(&mut self, status: Status) -> Result<Outcome, Error> {
        let standing = &self.trainer.standing;
        let tokens = self.trainer.targets();
        Ok(Outcome {
            status,
            steps: standing.step,
            tokens,
            seconds: self.clock.seconds(),
            train_loss: standing.mean_loss(),
            val_loss: standing.last.map(|last| last.score.loss),
            val_bpb: standing.last.and_then(|last| last.score.bpb),
            best_val_bpb: standing.best.and_then(|best| best.score.bpb),
            best_step: standing.best.map(|best| best.step),
            tokens_per_s: tokens as f64 / standing.step_seconds.max(1e-9),
            peak_rss_mib: peak_rss_bytes() as f64 / f64::from(1 << 20),
            run_dir: self.around.run.path().to_path_buf(),
        })
    }
}
