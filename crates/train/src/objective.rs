//! What can be trained: parameters, a loss on a tape, a validation.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smidgen_tensor::{Compute, Device, Params, Tape, Var};

use crate::Error;

/// Something with parameters and a loss. The loop knows steps and micro-batches, and nothing of what
/// is in them; a language model is one objective among others.
pub trait Objective {
    /// The name in environment files.
    fn name(&self) -> &'static str;

    /// Sets the first values of its parameters: a pure function of `seed`.
    fn init(&self, params: &mut Params, seed: u64);

    /// Targets of a whole step, such as tokens: for rates, and what the loss is divided by.
    fn step_targets(&self) -> u64;

    /// Puts the share of micro-batch `micro` in the loss of `step` on the tape, as `[1, 1]`: the shares
    /// of a step add up to its loss. Both count from 0, and the batch is a pure function of them.
    ///
    /// # Errors
    /// Whatever the objective meets; it ends the run.
    fn loss(&mut self, tape: &mut Tape<'_>, step: u64, micro: usize) -> Result<Var, Error>;

    /// Scores the parameters on a fixed set.
    ///
    /// # Errors
    /// As for [`Objective::loss`].
    fn validate(
        &mut self,
        device: &Device,
        compute: Compute,
        params: &Params,
    ) -> Result<Validation, Error>;

    /// Targets of a validation: what it costs, to plan a run by the clock.
    fn validation_targets(&self) -> u64;

    /// The first loss of a model that knows nothing, where that is known.
    fn first_loss(&self) -> Option<f64> {
        None
    }

    /// What a checkpoint taken before `step` has to remember of the data.
    fn cursor(&self, _step: u64) -> Value {
        Value::Null
    }

    /// Accepts what [`Objective::cursor`] gave, from a checkpoint.
    ///
    /// # Errors
    /// When the data is not that of the checkpoint.
    fn resume(&mut self, _step: u64, _cursor: &Value) -> Result<(), Error> {
        Ok(())
    }

    /// A sample of what was learnt, for people.
    ///
    /// # Errors
    /// As for [`Objective::loss`].
    fn sample(
        &mut self,
        _device: &Device,
        _compute: Compute,
        _params: &Params,
    ) -> Result<Option<String>, Error> {
        Ok(None)
    }
}

/// A score on the fixed set; lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Mean loss of a target, in nats where it is a likelihood.
    pub loss: f64,
    /// Bits per byte of text, where there is text.
    pub bpb: Option<f64>,
    /// Targets scored.
    pub targets: u64,
}

impl Validation {
    /// Perplexity of a target.
    pub fn ppl(&self) -> f64 {
        self.loss.exp()
    }
}
