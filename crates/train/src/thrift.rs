//! When memory is refused in the middle of a run: the same step in smaller pieces.
//!
//! A refusal before the first update of a step changed nothing, so the step is done again from its
//! start (its batches and random numbers are functions of its number); after one, the caller goes back
//! to a checkpoint. Each refusal is answered with the next saving of the objective. The effective batch
//! stays as it is and the loss the same to rounding; what is saved stays so, and is part of every
//! checkpoint, so that a resumed run repeats it to the last bit.

use serde::{Deserialize, Serialize};

use crate::{Error, Trainer};

/// Savings of memory that leave losses as they are, to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thrift {
    /// The chunk of the loss is that many times smaller.
    pub chunk_parts: usize,
    /// Blocks are computed again on the way back.
    pub recompute: bool,
    /// Each micro-batch is cut into so many.
    pub batch_parts: usize,
}

impl Default for Thrift {
    fn default() -> Thrift {
        Thrift { chunk_parts: 1, recompute: false, batch_parts: 1 }
    }
}

impl Thrift {
    /// What `next` saves beyond this, for people.
    fn step_to(&self, next: &Thrift) -> String {
        if next.batch_parts != self.batch_parts {
            format!("micro-batches are cut into {} parts each", next.batch_parts)
        } else if next.recompute != self.recompute {
            "blocks are computed again on the way back".into()
        } else {
            format!("the loss is taken in chunks {} times smaller", next.chunk_parts)
        }
    }
}

impl Trainer<'_> {
    /// Takes the next saving after a refusal.
    ///
    /// # Errors
    /// The refusal itself where nothing is left to save, and those of the objective.
    pub(crate) fn save_memory(&mut self, refusal: Error) -> Result<(), Error> {
        let (old, step) = (self.standing.thrift, self.standing.step + 1);
        let held = self.recipe.policy.grad == smidgen_optim::GradMode::Held;
        let Some(next) = self.objective.next_saving(old, held) else { return Err(refusal) };
        self.objective.set_thrift(next)?;
        self.standing.thrift = next;
        self.standing.pressures += 1;
        let reason = refusal.first_line();
        self.relief.push(format!("step {step}: {reason}; {} from now on", old.step_to(&next)));
        Ok(())
    }

    /// What was saved since the last call, in words.
    pub(crate) fn take_relief(&mut self) -> Vec<String> {
        std::mem::take(&mut self.relief)
    }

    /// Works as `standing` says after it was replaced.
    pub(crate) fn apply_thrift(&mut self) -> Result<(), Error> {
        self.objective.set_thrift(self.standing.thrift)
    }
}
