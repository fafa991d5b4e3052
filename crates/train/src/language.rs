//! The language model as an objective: a decoder over the batches of a loader.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use smidgen_data::{Batch, Cursor, Dataset, Feed, Loader, LoaderConfig, Tokenizer, ValSet};
use smidgen_model::{Decoder, Session, Spec, TokenBatch};
use smidgen_tensor::{Compute, Device, Keep, Params, Tape, Targets, Var};

use crate::budget::smallest_divisor;
use crate::compiling::Compiling;
use crate::init;
use crate::samples::Prompts;
use crate::{CompileRate, DORMANT, Error, Objective, Plan, Samples, Thrift, Validation};

/// By how much a chunk of the loss shrinks at once, and the least that is worth it.
const CHUNK_CUT: usize = 4;
const LEAST_CHUNK_BYTES: usize = 64 << 10;

/// A decoder that learns to predict the next token.
pub struct LanguageModel {
    decoder: Decoder,
    /// First values of another model.
    first: Option<PathBuf>,
    tokenizer: Tokenizer,
    loader: Loader,
    /// Batches made ahead, and the place of the next one.
    feed: Option<(Feed, u64, usize)>,
    val: ValSet,
    prompts: Prompts,
    compiling: Option<Compiling>,
    /// Time spent waiting for batches, until somebody asks.
    waited: Duration,
    /// As the plan has it, without savings.
    keep: Keep,
    loss_chunk: usize,
    loader_config: LoaderConfig,
    val_tokens: u64,
    thrift: Thrift,
}

impl LanguageModel {
    /// Adds the parameters of the plan's decoder to `params`, and opens the data.
    ///
    /// # Errors
    /// Sizes that do not fit the data or the model, or no memory.
    pub fn new(
        device: &Device,
        plan: &Plan,
        dataset: &Dataset,
        params: &mut Params,
    ) -> Result<LanguageModel, Error> {
        let (config, rows, context) = (&plan.config, plan.batch(), plan.context());
        let loader_config = LoaderConfig {
            rows,
            context,
            micro_batches: config.train.grad_accum as usize,
            seed: config.seed,
            ..LoaderConfig::default()
        };
        let limit = Some(config.data.val_tokens);
        let tokenizer = dataset.tokenizer.clone();
        Ok(LanguageModel {
            prompts: Prompts::new(config, dataset, plan.spec.context)?,
            compiling: Compiling::new(config, dataset, plan.spec.context)?,
            waited: Duration::ZERO,
            decoder: Decoder::new(device, plan.spec.clone(), params)?,
            first: None,
            loader: Loader::new(dataset.train.clone(), loader_config.clone())?,
            feed: None,
            val: ValSet::new(dataset.val.clone(), &tokenizer, rows, context, limit)?,
            keep: if config.train.recompute == Some(true) { Keep::Inputs } else { Keep::Values },
            loss_chunk: plan.loss_chunk(),
            loader_config,
            val_tokens: config.data.val_tokens,
            thrift: Thrift::default(),
            tokenizer,
        })
    }

    /// Begins with the values in this file of the run, where there is one.
    pub(crate) fn starting_from(self, first: Option<PathBuf>) -> LanguageModel {
        LanguageModel { first, ..self }
    }

    /// The shape of the decoder.
    pub fn spec(&self) -> &Spec {
        self.decoder.spec()
    }

    /// The batch of a place; batches are made ahead in the usual order.
    fn batch(&mut self, step: u64, micro: usize) -> Result<Batch, Error> {
        let in_order = self.feed.as_ref().is_some_and(|(_, s, m)| (*s, *m) == (step, micro));
        if !in_order && micro > 0 {
            // Only a caller that goes back inside a step comes here.
            return Ok(self.loader.batch(step, micro));
        }
        if !in_order {
            self.feed = Some((self.loader.start(step)?, step, 0));
        }
        let (feed, next_step, next_micro) = self.feed.as_mut().expect("opened above");
        let before = feed.stall();
        let batch = feed.next_batch()?;
        self.waited += feed.stall() - before;
        *next_micro += 1;
        if *next_micro == self.loader.config().micro_batches {
            (*next_step, *next_micro) = (step + 1, 0);
        }
        Ok(batch)
    }

    fn loss_of(&self, tape: &mut Tape<'_>, batch: Batch, scale: f32) -> Result<Var, Error> {
        let tokens = TokenBatch::new(batch.rows, batch.tokens, batch.starts)?;
        let targets = Targets {
            tokens: Arc::from(batch.targets),
            weights: Arc::from(batch.weights),
            scale,
            chunk_bytes: self.loss_chunk / self.thrift.chunk_parts,
        };
        let keep = if self.thrift.recompute { Keep::Inputs } else { self.keep };
        Ok(self.decoder.loss(tape, &tokens, targets, keep)?)
    }
}

/// The share of units whose mean size is at most [`DORMANT`] of the mean of all.
fn dormant_share(sizes: &[f64]) -> f64 {
    let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
    let dormant = sizes.iter().filter(|size| **size <= DORMANT * mean).count();
    dormant as f64 / sizes.len() as f64
}

impl Objective for LanguageModel {
    fn name(&self) -> &'static str {
        "language-model"
    }

    fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error> {
        match &self.first {
            Some(path) => init::load(path, params),
            None => {
                self.decoder.init(params, seed);
                Ok(())
            }
        }
    }

    fn step_targets(&self) -> u64 {
        self.loader.step_target_tokens()
    }

    fn loss(&mut self, tape: &mut Tape<'_>, step: u64, micro: usize) -> Result<Var, Error> {
        let batch = self.batch(step, micro)?;
        let scale = (1.0 / batch.step_target_tokens as f64) as f32;
        self.loss_of(tape, batch, scale)
    }

    fn next_saving(&self, thrift: Thrift, held: bool) -> Option<Thrift> {
        let Thrift { chunk_parts, recompute, batch_parts } = thrift;
        let config = self.loader.config();
        let logits = (config.rows * config.context).saturating_mul(4 * self.spec().vocab);
        let chunk = (self.loss_chunk / chunk_parts).min(logits);
        if chunk / CHUNK_CUT >= LEAST_CHUNK_BYTES {
            let chunk_parts = self.loss_chunk.div_ceil(chunk / CHUNK_CUT);
            return Some(Thrift { chunk_parts, ..thrift });
        }
        if !recompute && self.keep == Keep::Values {
            return Some(Thrift { recompute: true, ..thrift });
        }
        let parts = batch_parts * smallest_divisor(config.rows);
        (held && config.rows > 1).then_some(Thrift { batch_parts: parts, ..thrift })
    }

    fn set_thrift(&mut self, thrift: Thrift) -> Result<(), Error> {
        let (whole, parts) = (&self.loader_config, thrift.batch_parts.max(1));
        let rows = whole.rows / parts;
        // The rows of a step stay the same in the same order.
        let micro_batches = whole.micro_batches * parts;
        let config = LoaderConfig { rows, micro_batches, ..whole.clone() };
        if *self.loader.config() != config {
            self.loader = Loader::new(self.loader.shard().clone(), config)?;
            let (shard, limit) = (self.val.shard().clone(), Some(self.val_tokens));
            self.val = ValSet::new(shard, &self.tokenizer, rows, whole.context, limit)?;
            self.feed = None;
        }
        self.thrift = Thrift { chunk_parts: thrift.chunk_parts.max(1), ..thrift };
        Ok(())
    }

    fn validate(
        &mut self,
        device: &Device,
        compute: Compute,
        params: &Params,
    ) -> Result<Validation, Error> {
        let mut nll = 0.0;
        for index in 0..self.val.batches() {
            let mut tape = Tape::inference(device, compute, params);
            let loss = self.loss_of(&mut tape, self.val.batch(index), 1.0)?;
            let value = tape.value(loss).expect("a loss is the end of the tape and is held");
            nll += f64::from(value.slice::<f32>()[0]);
        }
        let targets = self.val.target_tokens();
        let bpb = Some(self.val.bits_per_byte(nll)).filter(|bpb| bpb.is_finite());
        Ok(Validation { loss: nll / targets as f64, bpb, targets, compile: None })
    }

    fn validation_targets(&self) -> u64 {
        self.val.target_tokens()
    }

    fn first_loss(&self) -> Option<f64> {
        self.first.is_none().then(|| (self.spec().vocab as f64).ln())
    }

    fn cursor(&self, step: u64) -> Value {
        serde_json::to_value(self.loader.cursor(step)).expect("a cursor is three numbers")
    }

    fn resume(&mut self, step: u64, cursor: &Value) -> Result<(), Error> {
        let foreign = |got: String| {
            let expected = serde_json::to_string(&self.loader.cursor(step)).unwrap_or_default();
            Error::Foreign { step, what: "cursor.json".into(), expected, got }
        };
        let parsed: Cursor =
            serde_json::from_value(cursor.clone()).map_err(|_| foreign(cursor.to_string()))?;
        if parsed.step != step {
            return Err(foreign(cursor.to_string()));
        }
        self.loader.resume(&parsed)?;
        self.feed = None;
        Ok(())
    }

    fn dormant(
        &mut self,
        device: &Device,
        compute: Compute,
        params: &Params,
    ) -> Result<Option<Vec<f64>>, Error> {
        let batch = self.val.batch(0);
        let text = &batch.tokens[..batch.tokens.len() / batch.rows];
        let mut session = Session::new(device, compute, &self.decoder, params, text.len())?;
        Ok(Some(session.activity(text)?.iter().map(|layer| dormant_share(layer)).collect()))
    }

    fn samples(
        &mut self,
        device: &Device,
        compute: Compute,
        params: &Params,
    ) -> Result<Option<Samples>, Error> {
        self.prompts.write(device, compute, &self.decoder, params, &self.tokenizer)
    }

    fn sample_targets(&self) -> u64 {
        self.prompts.cost() + self.compiling.as_ref().map_or(0, Compiling::cost)
    }

    fn compile_rate(
        &mut self,
        device: &Device,
        compute: Compute,
        params: &Params,
    ) -> Result<Option<CompileRate>, Error> {
        let Some(compiling) = &self.compiling else { return Ok(None) };
        compiling.rate(device, compute, &self.decoder, params, &self.tokenizer).map(Some)
    }

    fn take_wait(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dormant_units_are_those_far_below_their_layer() {
        assert_eq!(dormant_share(&[1.0, 1.0, 1.0, 1.0]), 0.0);
        assert_eq!(dormant_share(&[0.0, 0.0, 0.0, 0.0]), 1.0);
        // The mean is 1: 0.025 is dormant, 0.026 is not.
        assert_eq!(dormant_share(&[0.025, 0.026, 1.949, 2.0]), 0.25);
    }
}
