//! The loop around the steps: limits, validations, checkpoints, the clock, the stop flag.

mod back;
mod clock;
mod end;
mod peaks;
mod phase;
mod watching;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use serde_json::Value;
use smidgen_optim::Verdict;
use smidgen_store::RunDir;

use self::clock::{Clock, Meter};
use self::peaks::Peaks;
use crate::environment::{Computed, note_environment};
use crate::track::{EventLine, StepLine, Tracker};
use crate::{
    AlarmConfig, Error, Event, Metric, Outcome, Progress, StepEvent, StepReport, StopConfig,
    TrackConfig, Trainer,
};

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
    /// Steps after which matrices are replaced by the nearest isometries.
    pub fire_at: Vec<u64>,
    /// The pattern that names these matrices; without one, those inside blocks.
    pub fire_match: Option<String>,
    /// When the run ends before its time.
    pub stop: Option<StopConfig>,
    /// What is out of the ordinary.
    pub alarm: AlarmConfig,
    /// What is written besides `metrics.jsonl`.
    pub track: TrackConfig,
    /// What checkpoints keep in their manifests, given the horizon.
    pub facts: Value,
}

impl Course {
    /// So many steps, validated and saved each `every`; the newest checkpoint stays.
    pub fn of(steps: u64, every: u64, facts: Value) -> Course {
        Course {
            steps: Some(steps),
            max_steps: None,
            max_minutes: None,
            useful_steps: None,
            val_every: every,
            ckpt_every: every,
            keep: 1,
            fire_at: Vec::new(),
            fire_match: None,
            stop: None,
            alarm: AlarmConfig::default(),
            track: TrackConfig::default(),
            facts,
        }
    }

    /// The last step, as far as it is known.
    fn end(&self, horizon: Option<u64>) -> Option<u64> {
        [horizon, self.max_steps].into_iter().flatten().min()
    }

    /// What the best checkpoint goes by.
    fn metric(&self) -> Metric {
        self.stop.map_or(Metric::Loss, |stop| stop.metric)
    }
}

/// What a run is done with besides its trainer.
pub(crate) struct Around<'a> {
    pub(crate) run: &'a RunDir,
    pub(crate) progress: &'a mut dyn Progress,
    pub(crate) stop: &'a AtomicBool,
    /// Called once, when the clock has fixed the horizon.
    pub(crate) fixed: &'a mut dyn FnMut(u64) -> Result<Value, Error>,
    /// What is learnt from, where that is a file or a folder.
    pub(crate) source: Option<&'a Path>,
    /// Seconds that this process spent before the loop.
    pub(crate) spent_seconds: f64,
}

/// Trains until the course is done or `stop` is set, and leaves a checkpoint of the last step; where
/// and with what it was computed is in `env.json`.
///
/// `run` is a fresh run directory, or one whose newest checkpoint the trainer was loaded from.
///
/// # Errors
/// Those of trainer and store; [`Error::NotFinite`] after ten bad steps in a row, [`Error::Spikes`]
/// after more spikes than the course goes back for.
pub fn fit(
    trainer: &mut Trainer<'_>,
    course: &Course,
    run: &RunDir,
    progress: &mut dyn Progress,
    stop: &AtomicBool,
) -> Result<Outcome, Error> {
    let facts = course.facts.clone();
    let fixed = &mut |_| Ok(facts.clone());
    go(trainer, course, Around { run, progress, stop, fixed, source: None, spent_seconds: 0.0 })
}

pub(crate) fn go(
    trainer: &mut Trainer<'_>,
    course: &Course,
    around: Around<'_>,
) -> Result<Outcome, Error> {
    if let Some(steps) = course.steps {
        trainer.set_horizon(steps);
    }
    let computed = Computed {
        objective: trainer.objective.name(),
        seed: trainer.recipe.seed,
        compute: trainer.recipe.compute,
        source: around.source,
    };
    note_environment(around.run, &computed, &trainer.device, around.progress)?;
    let resumed = Some(trainer.standing.step).filter(|step| *step > 0);
    let mut fitting = Fitting {
        tracker: Tracker::open(around.run, resumed, course.track)?,
        course: course.clone(),
        clock: Clock::new(trainer.standing.seconds + around.spent_seconds),
        meter: Meter::find(),
        peaks: Peaks::default(),
        saved: resumed,
        trainer,
        around,
    };
    fitting.run()
}

struct Fitting<'a, 't, 'o> {
    trainer: &'t mut Trainer<'o>,
    around: Around<'a>,
    course: Course,
    tracker: Tracker,
    clock: Clock,
    meter: Meter,
    peaks: Peaks,
    /// Step of the newest checkpoint.
    saved: Option<u64>,
}

impl Fitting<'_, '_, '_> {
    fn run(&mut self) -> Result<Outcome, Error> {
        self.check_phases()?;
        self.tell_extension()?;
        while !self.is_done() {
            // Also before the first step: preparing the data may have taken a while.
            if self.around.stop.load(Relaxed) {
                return self.interrupted();
            }
            self.one_step()?;
        }
        self.finish()
    }

    /// A run that begins again at the step where it had ended says so.
    fn tell_extension(&mut self) -> Result<(), Error> {
        let standing = &self.trainer.standing;
        let (step, offset) = (standing.step, standing.offset);
        match standing.horizon {
            Some(horizon) if offset > 0 && offset == step => {
                let more = horizon - step;
                let text = format!("{more} steps more from step {step}; the schedule begins again");
                self.tell(step + 1, "extend", None, &text)
            }
            _ => Ok(()),
        }
    }

    fn is_done(&self) -> bool {
        let standing = &self.trainer.standing;
        let by_steps = self.course.end(standing.horizon).is_some_and(|end| standing.step >= end);
        let seconds = self.course.max_minutes.map(|minutes| minutes * 60.0);
        // At least one step, so that there is something to keep.
        let by_clock = seconds.is_some_and(|limit| self.clock.seconds() >= limit);
        by_steps || self.is_stopped() || standing.step > 0 && by_clock
    }

    /// Whether validations have not improved for too long.
    fn is_stopped(&self) -> bool {
        let patience = &self.trainer.standing.patience;
        self.course.stop.is_some_and(|stop| patience.is_over(&stop))
    }

    fn one_step(&mut self) -> Result<(), Error> {
        self.begin_phase()?;
        let (before, number) = (self.trainer.standing.mean_loss(), self.trainer.standing.step + 1);
        let is_validated = number.is_multiple_of(self.course.val_every);
        self.trainer.notes_norms = is_validated && self.course.alarm.dead > 0;
        self.peaks.begin_step(self.trainer.device.ledger());
        let started = Instant::now();
        let report = match self.trainer.step() {
            Err(error) if error.is_refusal() => return self.out_of_memory(error),
            report => report?,
        };
        let refused = !self.trainer.relief.is_empty();
        if refused && report.verdict == Verdict::Restore {
            return self.tell_relief(true);
        }
        self.tell_relief(false)?;
        let seconds = started.elapsed().as_secs_f64();
        match report.verdict {
            Verdict::Apply | Verdict::Skip => {}
            Verdict::Restore => return self.restore(),
            Verdict::Abort => return self.abort(),
        }
        let spike = self.spike(&report, before);
        if let Some(alarm) = spike.as_ref().filter(|_| self.course.alarm.rollback > 0) {
            return self.roll_back(&alarm.text);
        }
        self.record(&report, seconds)?;
        self.ring(spike)?;
        self.watch_step(&report)?;
        self.fix_horizon()?;
        let (step, done) = (self.trainer.standing.step, self.is_done());
        // The last step is validated and saved by `finish`.
        if done {
            return Ok(());
        }
        let best = is_validated && self.validate()?;
        if best || step.is_multiple_of(self.course.ckpt_every) {
            self.checkpoint(best)?;
        }
        Ok(())
    }

    fn record(&mut self, report: &StepReport, seconds: f64) -> Result<(), Error> {
        self.clock.timed_step(seconds);
        let wait = self.trainer.objective.take_wait().as_secs_f64();
        self.trainer.standing.step_seconds += seconds;
        self.trainer.standing.wait_seconds += wait;
        let bytes = self.peaks.take(self.trainer.device.ledger());
        let standing = &self.trainer.standing;
        let targets = self.trainer.objective.step_targets() as f64;
        let event = StepEvent {
            step: standing.step,
            steps: self.course.end(standing.horizon),
            loss: report.loss,
            mean_loss: standing.mean_loss(),
            multiplier: report.multiplier,
            grad_norm: report.grad_norm,
            skipped: report.verdict == Verdict::Skip,
            tokens: self.trainer.targets(),
            tokens_per_s: targets / self.clock.per_step.unwrap_or(seconds),
            peak_bytes: self.peaks.total(),
            seconds: self.clock.seconds(),
        };
        let groups = self.trainer.optim.groups();
        let line = StepLine {
            loss: event.loss,
            lr_multiplier: event.multiplier,
            lr: groups.map(|group| (&*group.name, group.lr * event.multiplier)).collect(),
            grad_norm: event.grad_norm,
            skipped: event.skipped,
            tokens: event.tokens,
            tok_s: targets / seconds,
            wait: wait / seconds,
            bytes,
            power_w: self.meter.watts(),
        };
        self.tracker.step(event.step, event.seconds, &line)?;
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
        if self.clock.here() < TIMED_SHARE * limit && step < warmup {
            return Ok(());
        }
        let share = self.validation_share();
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

    /// What a validation costs, in steps.
    fn validation_share(&self) -> f64 {
        let objective = &self.trainer.objective;
        // A score goes forward only: a third of what its targets cost in training.
        let scores = if self.trainer.ema.is_some() { 2.0 } else { 1.0 };
        let score = scores * objective.validation_targets() as f64 / 3.0;
        (score + objective.sample_targets() as f64) / objective.step_targets() as f64
    }

    /// To the metrics and to people: something out of the ordinary, as part of a step's record.
    fn tell(
        &mut self,
        step: u64,
        event: &'static str,
        kind: Option<&'static str>,
        text: &str,
    ) -> Result<(), Error> {
        let line = EventLine { event, kind, text };
        self.tracker.event(step, self.clock.seconds(), &line)?;
        self.around.progress.event(Event::Notice(text));
        Ok(())
    }

    fn checkpoint(&mut self, best: bool) -> Result<(), Error> {
        let step = self.trainer.standing.step;
        self.trainer.standing.seconds = self.clock.seconds();
        self.trainer.standing.tracking_seconds += self.tracker.take_seconds();
        let started = Instant::now();
        self.tracker.sync()?;
        let (keep, facts) = (self.course.keep, self.course.facts.clone());
        self.trainer.save(self.around.run, best, keep, facts)?;
        self.trainer.standing.ckpt_seconds += started.elapsed().as_secs_f64();
        self.saved = Some(step);
        self.around.progress.event(Event::Checkpoint { step });
        Ok(())
    }
}
