//! Training of a fuser, through the loop that trains everything else.
//!
//! The loss is the cross-entropy of the receiver on response tokens, after the fused cache of its prompt.
//! Both models are frozen; the receiver's weights stand beside the fuser's, and the sharer's in a place of
//! their own, for no gradient passes them. Caches are computed for each batch: reading prompts is a small
//! share of a step, and precomputed caches of a whole data set would not fit into memory.

use std::sync::Arc;

use serde_json::{Value, json};
use smidgen_codec::Rng;
use smidgen_model::{Decoder, KeySpace, TokenBatch};
use smidgen_optim::{Clip, GradPolicy, GroupConfig, Schedule, Weights};
use smidgen_tensor::{Compute, Device, Keep, Params, Role, Tape, Targets, Var};
use smidgen_train::{Objective, Recipe, Validation};

use super::any_rate::Sent;
use super::{AnyRate, Fuser, FuserConfig, FuserFacts, Mode, PairShape};
use crate::Error;
use crate::align::Alignment;
use crate::side::{FILL, Prefill, Side, padded};

/// Bytes of logits alive at once.
const LOGIT_BYTES: usize = 4 << 20;
/// By how much the rate of gates is above that of the other parameters.
const GATE_RATE: f64 = 10.0;

/// One prompt that both models read, and what the receiver should answer.
#[derive(Clone, Debug)]
pub struct Item {
    /// The prompt in the sharer's tokens.
    pub sharer: Vec<u32>,
    /// The prompt in the receiver's tokens, at least two: all but the last are fused.
    pub receiver: Vec<u32>,
    /// What stands for the receiver's tokens.
    pub alignment: Alignment,
    /// The answer in the receiver's tokens, at least one.
    pub response: Vec<u32>,
    /// Bytes of the answer's text; 0 where nobody asks for bits per byte.
    pub response_bytes: usize,
}

/// What a fuser learns from, and what it is scored on.
#[derive(Clone, Debug)]
pub struct FuserData {
    /// Items to train on.
    pub train: Vec<Item>,
    /// Items that are scored, and never trained on.
    pub val: Vec<Item>,
}

/// How a fuser is trained.
#[derive(Clone, Debug)]
pub struct FuserTraining {
    /// Steps of the whole run: gates are annealed over exactly these.
    pub steps: u64,
    /// Items of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Of every random stream.
    pub seed: u64,
    /// What a link lets through, where that is trained for.
    pub any_rate: Option<AnyRate>,
    /// What blocks of the fuser and of the receiver leave for the way back.
    pub keep: Keep,
}

impl FuserTraining {
    /// AdamW with weight decay 0.01, a tenth of warm-up, then a linear fall; gradients are clipped at 1.
    ///
    /// Differs from the published program: a gate moves ten times as fast, and does not decay.
    /// With the rate of a matrix it hardly leaves 0, and half of the rows go unfused to the end of
    /// training, at random.
    pub fn recipe(&self, compute: Compute, lr: f64) -> Recipe {
        let gates = GroupConfig {
            name: "gates".into(),
            role: vec![Role::Gate],
            lr: lr * GATE_RATE,
            weight_decay: Some(0.0),
            ..GroupConfig::default()
        };
        let others = GroupConfig { lr, weight_decay: Some(0.01), ..GroupConfig::default() };
        Recipe {
            seed: self.seed,
            compute,
            policy: GradPolicy {
                clip: Clip::Global,
                grad_accum: self.micro_batches as u32,
                ..GradPolicy::default()
            },
            schedule: Schedule::Linear { warmup_steps: self.steps / 10, min_ratio: 0.0 },
            groups: vec![gates, others],
            ema: None,
            weights: Weights::F32,
        }
    }
}

/// A fuser between two frozen models.
pub struct FuserObjective {
    sharer: Arc<Side>,
    receiver: Decoder,
    fuser: Fuser,
    data: FuserData,
    training: FuserTraining,
    facts: FuserFacts,
    /// First values of another fuser.
    first: Option<Params>,
    /// The order of the items of the two epochs that a step may touch.
    orders: [Option<(u64, Vec<u32>)>; 2],
    /// Names the data, for resumes.
    data_hash: String,
}

impl FuserObjective {
    /// Puts a fuser beside the receiver's frozen weights; gives the parameters that a
    /// [`Trainer`](smidgen_train::Trainer) trains.
    ///
    /// # Errors
    /// [`Error::Value`] for settings or items that cannot be, and those of the engine.
    pub fn new(
        sharer: Arc<Side>,
        receiver: Side,
        config: FuserConfig,
        data: FuserData,
        training: FuserTraining,
    ) -> Result<(FuserObjective, Params), Error> {
        check(&data, &training)?;
        let pair = PairShape::new(sharer.kv_shape(), receiver.kv_shape());
        let facts = FuserFacts {
            sharer: sharer.fingerprint(),
            receiver: receiver.fingerprint(),
            steps: training.steps,
            ..FuserFacts::default()
        };
        let Side { device, decoder, mut params, .. } = receiver;
        params.iter_mut().for_each(|(_, param)| param.trainable = false);
        let fuser = Fuser::add(&device, config, pair, &mut params)?;
        let data_hash = hash_of(&data);
        let objective = FuserObjective {
            sharer,
            receiver: decoder,
            fuser,
            data,
            training,
            facts,
            first: None,
            orders: [None, None],
            data_hash,
        };
        Ok((objective, params))
    }

    /// The fuser.
    pub fn fuser(&self) -> &Fuser {
        &self.fuser
    }

    /// Where it comes from, for [`Fuser::save`].
    pub fn facts(&self) -> &FuserFacts {
        &self.facts
    }

    /// Begins with the values of a fuser of the same shape, in the place of drawn ones.
    pub fn starting_from(self, first: Params) -> FuserObjective {
        FuserObjective { first: Some(first), ..self }
    }

    /// Tokens that are fused in a step, on average.
    fn fused_tokens(&self, items: &[Item], count: usize) -> u64 {
        let all: usize = items.iter().map(|item| item.receiver.len() - 1).sum();
        (all as f64 / items.len() as f64 * count as f64).round() as u64
    }

    /// Items of a micro-batch.
    fn batch(&mut self, step: u64, micro: usize) -> Vec<usize> {
        let (batch, count) = (self.training.batch, self.data.train.len() as u64);
        let first = (step * self.training.micro_batches as u64 + micro as u64) * batch as u64;
        (first..first + batch as u64)
            .map(|place| {
                let (epoch, within) = (place / count, place % count);
                self.order(epoch)[within as usize] as usize
            })
            .collect()
    }

    fn order(&mut self, epoch: u64) -> &[u32] {
        let (seed, count) = (self.training.seed, self.data.train.len() as u32);
        let kept = &mut self.orders[epoch as usize % 2];
        if kept.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let rng = Rng::named(seed, "fuser-order");
            let mut order: Vec<u32> = (0..count).collect();
            order.sort_by_key(|item| rng.at(epoch, 0, u64::from(*item)));
            *kept = Some((epoch, order));
        }
        &kept.as_ref().expect("made above").1
    }

    /// Response tokens of a whole step.
    fn response_tokens(&mut self, step: u64) -> usize {
        let items: Vec<usize> =
            (0..self.training.micro_batches).flat_map(|micro| self.batch(step, micro)).collect();
        items.into_iter().map(|item| self.data.train[item].response.len()).sum()
    }

    /// Cross-entropy of the responses of some items, summed and multiplied by `scale`.
    fn loss_of(
        &self,
        tape: &mut Tape<'_>,
        items: &[&Item],
        mode: Mode,
        any_rate_key: Option<u64>,
        scale: f32,
    ) -> Result<Var, Error> {
        let space = self.fuser.config().k_space;
        let base = {
            let prompts: Vec<&[u32]> =
                items.iter().map(|item| &item.receiver[..item.receiver.len() - 1]).collect();
            let (device, compute, plain) =
                (tape.device(), tape.compute(), space == KeySpace::PreRope);
            Prefill::new(device, compute, &self.receiver, tape.params(), &prompts, plain)?
        };
        let drawn = self.training.any_rate.as_ref().zip(any_rate_key);
        let drawn = drawn.map(|(any_rate, key)| any_rate.draw(key));
        let sent = Sent::new(self.shared(items, space)?, drawn)?;
        let arrivals = sent.arrivals(items.iter().map(|item| &item.alignment));
        let (rope, keep) = (self.receiver.rope(), self.training.keep);
        let fused = self.fuser.fuse(tape, &base, &arrivals, rope, &mode, keep)?;
        let prefix = Fuser::prefix(tape, &base, &fused)?;
        let lens: Vec<u32> = base.lens().iter().map(|len| *len as u32).collect();
        let (tokens, targets) = suffix(items, scale);
        let batch = TokenBatch::after(&lens, tokens)?;
        Ok(self.receiver.loss_after(tape, &batch, &prefix, targets, keep)?)
    }

    /// What the sharer makes of the prompts, as far as anything stands for the receiver's tokens.
    fn shared(&self, items: &[&Item], space: KeySpace) -> Result<Vec<crate::KvCache>, Error> {
        let prompts: Vec<&[u32]> =
            items.iter().map(|item| &item.sharer[..item.alignment.needed().max(1)]).collect();
        self.sharer.read(&prompts, space)
    }

    fn key(&self, step: u64, micro: usize) -> u64 {
        Rng::named(self.training.seed, "fuser-draws").at(step, micro as u64, 0)
    }
}

/// The last prompt token and all but the last of the response, and what should follow each of them; shorter
/// rows are filled up with tokens that count nothing.
fn suffix(items: &[&Item], scale: f32) -> (Vec<u32>, Targets) {
    let length = items.iter().map(|item| item.response.len()).max().unwrap_or(0);
    let inputs: Vec<Vec<u32>> = items
        .iter()
        .map(|item| {
            let last = item.receiver.last().expect("checked: at least two tokens");
            let response = &item.response[..item.response.len() - 1];
            [last].into_iter().chain(response).copied().collect()
        })
        .collect();
    let rows: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
    let responses: Vec<&[u32]> = items.iter().map(|item| &*item.response).collect();
    let counts = |item: &&Item| {
        let own = item.response.len();
        (0..length).map(move |place| if place < own { 1.0 } else { 0.0 })
    };
    let targets = Targets {
        tokens: padded(&responses, length, FILL).into(),
        weights: items.iter().flat_map(counts).collect(),
        scale,
        chunk_bytes: LOGIT_BYTES,
    };
    (padded(&rows, length, FILL), targets)
}

fn check(data: &FuserData, training: &FuserTraining) -> Result<(), Error> {
    for (key, items) in [("train", &data.train), ("val", &data.val)] {
        if items.is_empty() {
            return Err(Error::value(key, "at least one item", "none"));
        }
        for item in items {
            let fused = item.receiver.len().saturating_sub(1);
            let fits = fused > 0
                && !item.response.is_empty()
                && item.alignment.tokens() >= fused
                && !item.sharer.is_empty()
                && item.alignment.needed() <= item.sharer.len();
            if !fits {
                let expected =
                    "two prompt tokens or more, an answer, and an alignment of both prompts";
                let got = format!(
                    "{} and {} prompt tokens, {} of the answer, an alignment of {} to {}",
                    item.sharer.len(),
                    item.receiver.len(),
                    item.response.len(),
                    item.alignment.tokens(),
                    item.alignment.needed(),
                );
                return Err(Error::value(key, expected, got));
            }
        }
    }
    for (key, count) in [("batch", training.batch), ("micro_batches", training.micro_batches)] {
        if count == 0 {
            return Err(Error::value(key, "at least 1", count));
        }
    }
    training.any_rate.as_ref().map_or(Ok(()), AnyRate::validate)
}

fn hash_of(data: &FuserData) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for item in &data.train {
        for tokens in [&item.sharer, &item.receiver, &item.response] {
            hash.update((tokens.len() as u64).to_le_bytes());
            tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        }
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl Objective for FuserObjective {
    fn name(&self) -> &'static str {
        "fuser"
    }

    /// The fuser's; the receiver's are there already.
    fn init(&self, params: &mut Params, seed: u64) -> Result<(), smidgen_train::Error> {
        match &self.first {
            Some(first) => super::blocks::copy(params, first)?,
            None => self.fuser.init(params, seed),
        }
        Ok(())
    }

    fn step_targets(&self) -> u64 {
        let count = self.training.batch * self.training.micro_batches;
        self.fused_tokens(&self.data.train, count)
    }

    fn loss(
        &mut self,
        tape: &mut Tape<'_>,
        step: u64,
        micro: usize,
    ) -> Result<Var, smidgen_train::Error> {
        let scale = 1.0 / self.response_tokens(step) as f32;
        let batch = self.batch(step, micro);
        let items: Vec<&Item> = batch.into_iter().map(|item| &self.data.train[item]).collect();
        let (config, key) = (self.fuser.config(), self.key(step, micro));
        let mode = Mode::Train {
            tau: config.tau(step, self.training.steps),
            noise: config.gate_noise,
            dropout: config.dropout,
            key,
        };
        Ok(self.loss_of(tape, &items, mode, Some(key), scale)?)
    }

    fn validate(
        &mut self,
        device: &Device,
        compute: Compute,
        params: &Params,
    ) -> Result<Validation, smidgen_train::Error> {
        let (mut nll, mut targets, mut bytes) = (0.0, 0, 0);
        for items in self.data.val.chunks(self.training.batch) {
            let items: Vec<&Item> = items.iter().collect();
            let mut tape = Tape::inference(device, compute, params);
            let loss = self.loss_of(&mut tape, &items, Mode::Answer, None, 1.0)?;
            let value = tape.value(loss).expect("a loss is the end of the tape and is held");
            nll += f64::from(value.slice::<f32>()[0]);
            targets += items.iter().map(|item| item.response.len() as u64).sum::<u64>();
            bytes += items.iter().map(|item| item.response_bytes).sum::<usize>();
        }
        let bpb = (bytes > 0).then(|| nll / std::f64::consts::LN_2 / bytes as f64);
        Ok(Validation { loss: nll / targets as f64, bpb, targets, compile: None })
    }

    fn validation_targets(&self) -> u64 {
        self.fused_tokens(&self.data.val, self.data.val.len())
    }

    fn cursor(&self, step: u64) -> Value {
        json!({ "step": step, "data": self.data_hash, "steps": self.training.steps,
            "sharer": self.facts.sharer, "receiver": self.facts.receiver })
    }

    fn resume(&mut self, step: u64, cursor: &Value) -> Result<(), smidgen_train::Error> {
        let expected = self.cursor(step);
        if *cursor == expected {
            return Ok(());
        }
        Err(smidgen_train::Error::Foreign {
            step,
            what: "cursor.json".into(),
            expected: expected.to_string(),
            got: cursor.to_string(),
        })
    }
}
