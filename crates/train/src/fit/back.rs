//! Ways back: a bad gradient after an update, a loss spike, too many of either.

use super::Fitting;
use crate::{Error, Standing};
use smidgen_store::{Checkpoint, Which};

impl Fitting<'_, '_, '_> {
    /// A bad gradient came after an update: back to the last good state, past the step that spoiled it.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        let bad = self.trainer.standing.step;
        self.go_back(bad)?;
        self.trainer.standing.passed_over.push(bad);
        let step = self.trainer.standing.step;
        let text = format!(
            "the gradient of step {} was not finite after an update; went back to step {step}",
            bad + 1
        );
        self.tell(step + 1, "restore", None, &text)
    }

    /// Says what was saved because memory was refused; a refusal after an update goes back first.
    pub(super) fn tell_relief(&mut self, spoiled: bool) -> Result<(), Error> {
        let relief = self.trainer.take_relief();
        if spoiled {
            self.go_back(self.trainer.standing.step)?;
        }
        let step = self.trainer.standing.step;
        relief.iter().try_for_each(|text| self.tell(step + 1, "pressure", None, text))
    }

    /// Memory was refused and nothing is left to save: what was learnt is kept.
    pub(super) fn out_of_memory(&mut self, refusal: Error) -> Result<(), Error> {
        let spoiled = self.trainer.is_spoiled();
        self.tell_relief(spoiled)?;
        let step = self.trainer.standing.step;
        let saved = if step > 0 { Some(self.save_for_the_end()?) } else { None };
        Err(Error::NoRelief { step: step + 1, saved, refusal: Box::new(refusal) })
    }

    /// A loss spiked: back to the last good state, past the batch that showed it and the one before,
    /// whose update may have caused it.
    pub(super) fn roll_back(&mut self, cause: &str) -> Result<(), Error> {
        let number = self.trainer.standing.step;
        let rollbacks = self.trainer.standing.watched.rollbacks;
        let suspects = [number - 2, number - 1];
        // A checkpoint with the first suspect's update in it would not be good.
        self.go_back(suspects[0])?;
        if rollbacks >= self.course.alarm.rollback {
            let saved = self.save_for_the_end()?;
            return Err(Error::Spikes { step: number, rollbacks, saved });
        }
        let standing = &mut self.trainer.standing;
        standing.watched.rollbacks = rollbacks + 1;
        for suspect in suspects {
            if !standing.passed_over.contains(&suspect) {
                standing.passed_over.push(suspect);
            }
        }
        let (step, over) = (standing.step, numbers(&standing.passed_over));
        let text = format!(
            "step {number}: {cause}; went back to step {step}, the batches of {over} are passed over"
        );
        self.tell(step + 1, "rollback", Some("spike"), &text)
    }

    /// To the newest checkpoint of at most `at_most` steps, or to the first values; what was learnt on
    /// the way stays known.
    fn go_back(&mut self, at_most: u64) -> Result<(), Error> {
        let known = self.trainer.standing.clone();
        match self.newest_of(at_most)? {
            Some(checkpoint) if self.saved.is_some() => {
                self.trainer.load(&checkpoint)?;
                self.saved = Some(checkpoint.step());
            }
            _ => {
                self.trainer.begin_anew()?;
                self.saved = None;
            }
        }
        let standing = &mut self.trainer.standing;
        let before = std::mem::take(standing);
        *standing = Standing {
            guard: known.guard,
            passed_over: known.passed_over,
            horizon: known.horizon,
            thrift: known.thrift,
            pressures: known.pressures,
            step_seconds: known.step_seconds,
            wait_seconds: known.wait_seconds,
            tracking_seconds: known.tracking_seconds,
            ckpt_seconds: known.ckpt_seconds,
            ..before
        };
        standing.watched.counts = known.watched.counts;
        standing.watched.rollbacks = known.watched.rollbacks;
        self.trainer.apply_thrift()?;
        self.tracker.rewind(self.around.run, self.saved)?;
        Ok(())
    }

    /// The newest checkpoint that can be read, of at most so many steps.
    fn newest_of(&self, at_most: u64) -> Result<Option<Checkpoint>, Error> {
        let mut steps = self.around.run.steps()?;
        steps.retain(|step| *step <= at_most);
        Ok(steps.into_iter().find_map(|step| self.around.run.checkpoint(Which::Step(step)).ok()))
    }

    pub(super) fn abort(&mut self) -> Result<(), Error> {
        let (bad, guard) = (self.trainer.standing.step, self.trainer.standing.guard);
        if self.trainer.is_spoiled() {
            self.go_back(bad)?;
        }
        let saved = self.save_for_the_end()?;
        Err(Error::NotFinite { in_a_row: guard.in_a_row, step: bad + 1, saved })
    }

    /// The step of a checkpoint of where the run stands now.
    fn save_for_the_end(&mut self) -> Result<u64, Error> {
        let step = self.trainer.standing.step;
        if self.saved != Some(step) {
            self.checkpoint(false)?;
        }
        Ok(step)
    }
}

/// `steps 3, 4`, counted from 1.
fn numbers(steps: &[u64]) -> String {
    let all: Vec<String> = steps.iter().map(|step| (step + 1).to_string()).collect();
    format!("steps {}", all.join(", "))
}
