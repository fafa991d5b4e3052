//! What can be trained: parameters, a loss on a tape, a validation.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smidgen_tensor::{Compute, Device, Params, Tape, Var};

use crate::{Error, Thrift};

/// A unit whose mean size is at most this share of its layer's mean is dormant (Sokar et al., The Dormant
/// Neuron Phenomenon, arXiv 2302.12902).
pub const DORMANT: f64 = 0.025;

/// Something with parameters and a loss. The loop knows steps and micro-batches, and nothing of what
/// is in them; a language model is one objective among others.
pub trait Objective {
    /// The name in environment files.
    fn name(&self) -> &'static str;

    /// Sets the first values of its parameters: a pure function of `seed`, or those of another model.
    ///
    /// # Errors
    /// When these cannot be read.
    fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error>;

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

    /// The next saving of memory after `thrift`, cheapest first: a smaller chunk of the loss, blocks
    /// computed again, micro-batches cut into parts, the last where all gradients are held.
    fn next_saving(&self, _thrift: Thrift, _held: bool) -> Option<Thrift> {
        None
    }

    /// Computes from now on as `thrift` says, with the same losses to rounding. With parts of a
    /// micro-batch, `micro` counts those.
    ///
    /// # Errors
    /// As for [`Objective::loss`].
    fn set_thrift(&mut self, _thrift: Thrift) -> Result<(), Error> {
        Ok(())
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

    /// For each layer the share of its units that give next to nothing on a fixed text: those whose mean
    /// size is at most [`DORMANT`] of the layer's. None where there are no such units.
    ///
    /// # Errors
    /// As for [`Objective::loss`].
    fn dormant(
        &mut self,
        _device: &Device,
        _compute: Compute,
        _params: &Params,
    ) -> Result<Option<Vec<f64>>, Error> {
        Ok(None)
    }

    /// What the model writes after fixed prompts and seeds, for people and for the entropy alarm.
    ///
    /// # Errors
    /// As for [`Objective::loss`].
    fn samples(
        &mut self,
        _device: &Device,
        _compute: Compute,
        _params: &Params,
    ) -> Result<Option<Samples>, Error> {
        Ok(None)
    }

    /// Training targets that take as long as the samples, to plan a run by the clock.
    fn sample_targets(&self) -> u64 {
        0
    }

    /// How much of what the model writes compiles, where that was asked for.
    ///
    /// # Errors
    /// As for [`Objective::loss`], and where nothing can be compiled safely.
    fn compile_rate(
        &mut self,
        _device: &Device,
        _compute: Compute,
        _params: &Params,
    ) -> Result<Option<CompileRate>, Error> {
        Ok(None)
    }

    /// How long [`Objective::loss`] has waited for data since the last call.
    fn take_wait(&mut self) -> Duration {
        Duration::ZERO
    }
}

/// What a model wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Samples {
    /// One text for each prompt.
    pub texts: Vec<Sample>,
    /// Mean entropy of the distributions that their tokens were drawn from, in nats, before any
    /// temperature; not known where nothing was drawn.
    pub entropy: Option<f64>,
}

/// A prompt and its continuation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What the model was given.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
}

/// How many of the sampled completions compile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompileRate {
    /// Completions tried.
    pub samples: u32,
    /// Those that parse.
    pub parsed: u32,
    /// Those that pass the type check.
    pub compiled: u32,
    /// Lower end of the 95 % interval of the rate.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl CompileRate {
    /// Share of the completions that compile; 0 of none.
    pub fn rate(&self) -> f64 {
        f64::from(self.compiled) / f64::from(self.samples.max(1))
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
    /// How much of what the model writes compiles, where that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile: Option<CompileRate>,
}

impl Validation {
    /// Perplexity of a target.
    pub fn ppl(&self) -> f64 {
        self.loss.exp()
    }
}
