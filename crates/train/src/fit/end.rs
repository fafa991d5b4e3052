//! The end of a run: the last validation and checkpoint, the ledger, the result, the outcome.

use smidgen_store::{LEDGER_JSON, Which};

use super::Fitting;
use crate::machine::peak_rss_bytes;
use crate::outcome::{OUTCOME_JSON, Outcome, Status};
use crate::{Error, Scored};

impl Fitting<'_, '_, '_> {
    /// Nothing is lost: a run without a step needs no checkpoint to begin again.
    pub(super) fn interrupted(&mut self) -> Result<Outcome, Error> {
        let step = self.trainer.standing.step;
        if step > 0 && self.saved != Some(step) {
            self.checkpoint(false)?;
        }
        Ok(self.outcome(Status::Interrupted))
    }

    /// The last validation and checkpoint, the ledger, and the object people ask for.
    pub(super) fn finish(&mut self) -> Result<Outcome, Error> {
        let step = self.trainer.standing.step;
        let scored = self.trainer.standing.last.is_some_and(|last| last.step == step);
        let best = if scored { false } else { self.validate()? };
        if self.saved != Some(step) || !scored {
            self.checkpoint(best)?;
        }
        let ledger = self.peaks.summary(self.trainer.device.ledger());
        self.around.run.write_json(LEDGER_JSON, &ledger)?;
        if self.result().is_some_and(|result| result.step != step) {
            self.trainer.load_result(&self.around.run.checkpoint(Which::Best)?)?;
        }
        let outcome = self.outcome(Status::Finished);
        // Last of all: with it the run is finished.
        self.around.run.write_json(OUTCOME_JSON, &outcome)?;
        Ok(outcome)
    }

    /// The validation that counts: the best one where it is to be restored, else the last one.
    fn result(&self) -> Option<Scored> {
        let standing = &self.trainer.standing;
        let restores = self.course.stop.is_some_and(|stop| stop.restore_best);
        standing.best.filter(|_| restores).or(standing.last)
    }

    fn outcome(&mut self, status: Status) -> Outcome {
        let finished = status == Status::Finished;
        let stopped_early = finished && self.is_stopped();
        self.trainer.standing.tracking_seconds += self.tracker.take_seconds();
        let (standing, tokens) = (&self.trainer.standing, self.trainer.targets());
        let result = if finished { self.result() } else { standing.last };
        let seconds = self.clock.seconds();
        let counts = &standing.watched.counts;
        Outcome {
            status,
            steps: standing.step,
            tokens,
            seconds,
            train_loss: standing.mean_loss(),
            val_loss: result.map(|result| result.score.loss),
            val_bpb: result.and_then(|result| result.score.bpb),
            best_val_bpb: standing.best.and_then(|best| best.score.bpb),
            best_step: standing.best.map(|best| best.step),
            tokens_per_s: tokens as f64 / standing.step_seconds.max(1e-9),
            stopped_early,
            result_step: result.filter(|_| finished).map_or(standing.step, |result| result.step),
            ema_loss: result.and_then(|result| Some(result.ema?.loss)),
            ema_bpb: result.and_then(|result| result.ema?.bpb),
            compile: result.and_then(|result| result.score.compile),
            alarms: counts.iter().map(|(kind, n)| (kind.name().to_string(), *n)).collect(),
            rollbacks: standing.watched.rollbacks,
            tracking_share: standing.tracking_seconds / seconds.max(1e-9),
            loader_share: standing.wait_seconds / standing.step_seconds.max(1e-9),
            checkpoint_share: standing.ckpt_seconds / seconds.max(1e-9),
            update_seconds: self.trainer.optim.spent().as_secs_f64(),
            optim: self.trainer.optim.costs(),
            peak_rss_mib: peak_rss_bytes() as f64 / f64::from(1 << 20),
            peak_rss_anon_mib: self.peaks.anonymous() as f64 / f64::from(1 << 20),
            pressures: standing.pressures,
            run_dir: self.around.run.path().to_path_buf(),
        }
    }
}
