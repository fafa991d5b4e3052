//! From a configuration and the facts to a plan: the only validator.

use std::collections::BTreeMap;

use serde::Serialize;
use smidgen_model::Spec;
use smidgen_optim::{Assignment, OneCycle, ParamSpec, Schedule};
use smidgen_store::Bytes;
use smidgen_tensor::{Compute, Params};

use crate::budget::{self, Choice, Question};
use crate::bytes::Peaks;
use crate::process;
use crate::shape::{format, param_specs};
use crate::size::{self, Means};
use crate::{Config, Error, Machine, Precision, Rate, watch};

/// Steps of an automatic run at least: fewer teach nothing.
const LEAST_STEPS: u64 = 20;

/// Threads that a configuration may ask for.
pub(crate) const MOST_THREADS: usize = 1024;
/// Far beyond any model; what is counted layer by layer stays quick.
const MOST_LAYERS: usize = 1024;

/// What a plan depends on besides the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Bytes of text to learn from.
    pub train_bytes: u64,
    /// Bytes of text held out.
    pub val_bytes: u64,
    /// What encoding found; automatic sizes do not depend on it.
    pub tokens: Option<TokenFacts>,
    /// Where the run computes.
    pub machine: Machine,
}

/// What is known once the text is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// Tokens of the vocabulary, at most those asked for.
    pub vocab: usize,
    /// Tokens to learn from.
    pub train: u64,
    /// Tokens held out.
    pub val: u64,
}

/// Everything that is decided before a run begins. A run's `run.toml` is [`Plan::config`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The configuration with every automatic value filled in, except the steps of a run by the
    /// clock, which are fixed once its first steps have been timed.
    pub config: Config,
    /// The shape of the model.
    pub spec: Spec,
    /// Numbers in all parameters.
    pub params: u64,
    /// Tokens to learn from; estimated until the text is encoded.
    pub train_tokens: u64,
    /// Tokens held out; estimated until the text is encoded.
    pub val_tokens: u64,
    /// Whether these two are exact.
    pub encoded: bool,
    /// Steps, estimated for a run by the clock.
    pub steps: u64,
    /// Steps after which the text has been read so often that more would only learn it by heart; a
    /// run by the clock ends there at the latest.
    pub useful_steps: u64,
    /// Target tokens of a step.
    pub step_tokens: u64,
    /// Peak bytes by ledger tag, each at its own time.
    #[serde(rename = "by_tag")]
    pub bytes: BTreeMap<&'static str, u64>,
    /// Peak of all tags together: less than the sum of their peaks.
    pub total_bytes: u64,
    /// What memory decided.
    #[serde(flatten)]
    pub choice: Choice,
    /// Floating-point operations of the run.
    pub flop: f64,
    /// Minutes at the nominal rate of the machine's class: an estimate.
    pub minutes: f64,
}

impl Plan {
    /// The operand format.
    pub fn compute(&self) -> Compute {
        compute(self.config.train.compute)
    }

    /// Where the parameters of its decoder go: none yet.
    pub fn no_params(&self) -> Params {
        Params::with_format(format(self.config.train.weights))
    }

    /// The schedule.
    pub fn schedule(&self) -> Schedule {
        self.config.schedule.expect("a plan's configuration is complete")
    }

    /// Sequences of a micro-batch.
    pub fn batch(&self) -> usize {
        self.config.train.batch.expect("a plan's configuration is complete")
    }

    /// Tokens of a training sequence.
    pub fn context(&self) -> usize {
        self.config.train.context.expect("a plan's configuration is complete")
    }

    /// Bytes of logits alive at once.
    pub fn loss_chunk(&self) -> usize {
        let bytes = self.config.train.loss_chunk.expect("a plan's configuration is complete");
        usize::try_from(bytes.0).unwrap_or(usize::MAX)
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.config.threads.expect("a plan's configuration is complete")
    }

    /// Passes over the training text.
    pub fn epochs(&self) -> f64 {
        self.steps as f64 * self.step_tokens as f64 / self.train_tokens.max(1) as f64
    }
}

pub(crate) fn compute(precision: Precision) -> Compute {
    if precision == Precision::Bf16 { Compute::Bf16 } else { Compute::F32 }
}

/// Fills in what needs no look at the text, so that the machine's part is on record from the start.
pub(crate) fn settle(config: &Config, machine: &Machine) -> Config {
    let mut config = config.clone();
    config.threads.get_or_insert(machine.threads);
    config.memory.get_or_insert(Bytes(machine.memory_bytes / 4 * 3));
    if config.train.compute == Precision::Auto {
        let bf16 = machine.level.has_bf16_dot();
        config.train.compute = if bf16 { Precision::Bf16 } else { Precision::F32 };
    }
    config.train.clip = Some(config.policy().clip);
    config
}

/// Validates a configuration and fills in what it leaves open. The resolved configuration gives the
/// same plan again, with nothing left to change.
///
/// # Errors
/// [`Error::Value`] and the errors of model, groups, policy and schedule, each naming its key;
/// [`Error::OverBudget`] when no plan that is allowed fits into `memory`, with the smallest one.
pub fn resolve(config: &Config, facts: &Facts) -> Result<Plan, Error> {
    let plan = consider(config, facts)?;
    plan.choice.check()?;
    Ok(plan)
}

/// As [`resolve`], but where nothing fits into the memory it gives the smallest plan there is.
///
/// # Errors
/// As for [`resolve`], but for the memory.
pub fn consider(config: &Config, facts: &Facts) -> Result<Plan, Error> {
    let mut config = settle(config, &facts.machine);
    check_numbers(&config)?;
    config.policy().validate()?;
    apply_preset(&mut config)?;
    let means = means(&config, facts);
    fill_model(&mut config, facts, &means)?;
    let spec = spec(&config, facts)?;
    fill_loop(&mut config, &spec, &means);
    check_context(&config, facts)?;
    let params = param_specs(&spec, config.train.weights);
    fill_groups(&mut config, &spec, &params, &means)?;
    let level = facts.machine.level;
    let question = Question { config: &config, spec: &spec, params: &params, level };
    let (config, peaks, choice) = budget::decide(&question)?;
    Ok(plan(config, spec, peaks, choice, facts, &means))
}

fn means(config: &Config, facts: &Facts) -> Means {
    let threads = config.threads.expect("settled");
    Means {
        train_bytes: facts.train_bytes,
        minutes: config.train.max_minutes.unwrap_or(size::DEFAULT_MINUTES),
        rate: size::nominal_rate(facts.machine.level, config.train.compute, threads),
    }
}

fn check_numbers(config: &Config) -> Result<(), Error> {
    let train = &config.train;
    let counts = [
        ("threads", config.threads.map(|n| n as u64), MOST_THREADS as u64),
        ("train.steps", train.steps, 1 << 40),
        ("train.max_steps", train.max_steps, 1 << 40),
        ("train.batch", train.batch.map(|n| n as u64), 1 << 20),
        ("train.context", train.context.map(|n| n as u64), 1 << 20),
        ("train.loss_chunk", train.loss_chunk.map(|bytes| bytes.0), 1 << 40),
        ("train.grad_accum", Some(train.grad_accum.into()), 1 << 16),
        ("train.val_every", train.val_every, 1 << 40),
        ("train.ckpt_every", train.ckpt_every, 1 << 40),
        ("train.keep", Some(train.keep as u64), 1 << 20),
        ("data.val_tokens", Some(config.data.val_tokens), 1 << 40),
    ];
    for (key, value, most) in counts {
        if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
            return Err(Error::value(key, format!("1 to {most}"), value));
        }
    }
    let ratio = config.data.val_ratio;
    // Another model's vocabulary is what it is.
    let least = if config.model.init.is_some() { 1 } else { smidgen_data::LEAST_VOCAB };
    if !(ratio > 0.0 && ratio < 1.0) {
        return Err(Error::value("data.val_ratio", "a share between 0 and 1", ratio));
    }
    if let Some(vocab) = config.data.vocab.filter(|vocab| !(least..=1 << 20).contains(vocab)) {
        return Err(Error::value("data.vocab", format!("{least} to {}", 1 << 20), vocab));
    }
    let positive = |value: f64| value.is_finite() && value > 0.0;
    let lr = train.lr.and_then(Rate::number);
    for (key, value) in [("train.max_minutes", train.max_minutes), ("train.lr", lr)] {
        if let Some(value) = value.filter(|value| !positive(*value)) {
            return Err(Error::value(key, "a positive number", value));
        }
    }
    if let Some(ema) = train.ema.filter(|ema| !(0.0..1.0).contains(ema)) {
        return Err(Error::value("train.ema", "a decay from 0 to under 1", ema));
    }
    watch::check(config.stop.as_ref(), &config.alarm, &config.validate)?;
    if lr.is_some() && !config.optim.is_empty() {
        let (expected, got) = ("none beside `[[optim]]`, whose groups have their own", "both");
        return Err(Error::value("train.lr", expected, got));
    }
    Ok(())
}

/// Puts the preset's sizes where none are written, and forgets the name.
fn apply_preset(config: &mut Config) -> Result<(), Error> {
    let Some(name) = config.model.preset.take() else { return Ok(()) };
    let preset = Spec::preset(&name).ok_or_else(|| unknown_preset(name))?;
    config.data.vocab.get_or_insert(preset.vocab);
    let model = &mut config.model;
    if model.width.is_none_or(|width| width == preset.width) {
        model.heads.get_or_insert(preset.heads);
        model.kv_heads.get_or_insert(preset.kv_heads);
        model.ffn.get_or_insert(preset.ffn);
    }
    model.width.get_or_insert(preset.width);
    model.layers.get_or_insert(preset.layers);
    model.context.get_or_insert(preset.context);
    model.rope_theta.get_or_insert(preset.rope_theta);
    model.norm_eps.get_or_insert(preset.norm_eps);
    model.qk_norm.get_or_insert(preset.qk_norm);
    model.qkv_bias.get_or_insert(preset.qkv_bias);
    model.tied.get_or_insert(preset.tied);
    Ok(())
}

fn unknown_preset(name: String) -> Error {
    let names: Vec<&str> = smidgen_model::PRESETS.iter().map(|preset| preset.name).collect();
    let near = smidgen_store::nearest(&name, names.iter().copied());
    let hint = near.map_or(String::new(), |near| format!("\n  hint: did you mean `{near}`?"));
    Error::UnknownPreset { known: names.join(", "), name, hint }
}

fn fill_model(config: &mut Config, facts: &Facts, means: &Means) -> Result<(), Error> {
    let vocab = *config.data.vocab.get_or_insert(size::vocab(facts.train_bytes));
    let context = size::context(facts.train_bytes, vocab);
    let context = *config.model.context.get_or_insert(config.train.context.unwrap_or(context));
    let model = &mut config.model;
    if model.width.is_none() || model.layers.is_none() {
        let threads = config.threads.expect("settled");
        let process = process::preparation_bytes(0, vocab, threads);
        let memory = config.memory.expect("settled").0.saturating_sub(process);
        let shape = |width, layers| {
            let heads = size::heads(width);
            let spec = Spec::new(vocab, width, layers, heads, size::ffn(width), context);
            Spec { tied: true, ..spec }
        };
        // Weights, gradients and state take 16 bytes; the rest is for activations.
        let accept = |spec: &Spec| 32 * spec.param_count() as u64 <= memory;
        let (width, layers) = size::ladder(means, context, shape, accept);
        model.width.get_or_insert(width);
        model.layers.get_or_insert(layers);
    }
    let width = model.width.expect("filled above");
    let heads = *model.heads.get_or_insert(size::heads(width));
    model.kv_heads.get_or_insert(heads);
    if model.head_dim.is_none() {
        if heads == 0 || !width.is_multiple_of(heads) {
            let expected = format!("a divisor of `model.width` = {width}");
            return Err(Error::value("model.heads", expected, heads));
        }
        model.head_dim = Some(width / heads);
    }
    model.ffn.get_or_insert(size::ffn(width));
    let usual = Spec::new(vocab, width, 1, heads, 2, context);
    model.rope_theta.get_or_insert(usual.rope_theta);
    model.norm_eps.get_or_insert(usual.norm_eps);
    model.qk_norm.get_or_insert(usual.qk_norm);
    model.qkv_bias.get_or_insert(usual.qkv_bias);
    model.tied.get_or_insert(true);
    Ok(())
}

fn spec(config: &Config, facts: &Facts) -> Result<Spec, Error> {
    let model = &config.model;
    let filled = "the model was filled in";
    let vocab = config.data.vocab.expect(filled);
    let spec = Spec {
        // The table of another model may have more rows than its tokenizer has tokens.
        vocab: facts.tokens.filter(|_| model.init.is_none()).map_or(vocab, |tokens| tokens.vocab),
        width: model.width.expect(filled),
        layers: model.layers.expect(filled),
        heads: model.heads.expect(filled),
        kv_heads: model.kv_heads.expect(filled),
        head_dim: model.head_dim.expect(filled),
        ffn: model.ffn.expect(filled),
        context: model.context.expect(filled),
        rope_theta: model.rope_theta.expect(filled),
        norm_eps: model.norm_eps.expect(filled),
        qk_norm: model.qk_norm.expect(filled),
        qkv_bias: model.qkv_bias.expect(filled),
        tied: model.tied.expect(filled),
    };
    spec.validate()?;
    if spec.layers > MOST_LAYERS {
        return Err(Error::value("model.layers", format!("1 to {MOST_LAYERS}"), spec.layers));
    }
    // Beyond this the sums of bytes would no longer be numbers.
    let too_large = (spec.layers as u128) * (spec.width as u128) * (spec.ffn as u128) > 1 << 45
        || (spec.vocab as u128) * (spec.width as u128) > 1 << 45;
    if too_large {
        let got = format!("{} x {} x {}", spec.layers, spec.width, spec.ffn);
        return Err(Error::value("model", "fewer than 2^45 numbers", got));
    }
    Ok(spec)
}

/// Everything here that is automatic goes by the vocabulary asked for, not by the one that came out.
fn fill_loop(config: &mut Config, spec: &Spec, means: &Means) {
    let asked = Spec { vocab: config.data.vocab.expect("filled in"), ..spec.clone() };
    let train = &mut config.train;
    // Another model may have been made for far more than is useful here.
    let most = size::context(means.train_bytes, asked.vocab);
    let useful = if config.model.init.is_some() { most.min(spec.context) } else { spec.context };
    let context = *train.context.get_or_insert(useful);
    let tokens = means.tokens(&asked, context);
    let batch = *train.batch.get_or_insert(size::batch(tokens, context));
    let step_tokens = (batch * context) as f64 * f64::from(train.grad_accum);
    let bound = train.max_steps.unwrap_or(u64::MAX);
    let estimate = ((tokens / step_tokens) as u64).max(LEAST_STEPS).min(bound);
    if train.max_minutes.is_none() {
        train.steps.get_or_insert(estimate);
    }
    let steps = train.steps.unwrap_or(estimate);
    let every = *train.val_every.get_or_insert(steps.div_ceil(10).max(1));
    train.ckpt_every.get_or_insert(every);
    let (warmup_steps, min_ratio) = ((steps / 20).max(1), 0.1);
    let found = train.lr == Some(Rate::Auto);
    let cosine = Schedule::Cosine { warmup_steps, min_ratio };
    let automatic = if found { Schedule::OneCycle(OneCycle::default()) } else { cosine };
    config.schedule.get_or_insert(automatic);
}

fn check_context(config: &Config, facts: &Facts) -> Result<(), Error> {
    let filled = "the loop was filled in";
    let (context, most) =
        (config.train.context.expect(filled), config.model.context.expect(filled));
    if context > most {
        let expected = format!("at most `model.context` = {most}");
        return Err(Error::value("train.context", expected, context));
    }
    let batch = config.train.batch.expect(filled);
    if batch * context > 1 << 31 {
        let expected = "at most 2147483648 tokens of a micro-batch";
        return Err(Error::value("train.batch", expected, format!("{batch} x {context}")));
    }
    // Before the text is encoded: no text has more tokens than bytes, but for two borders.
    let tokens = facts.tokens.map_or(facts.train_bytes + 2, |tokens| tokens.train);
    if context as u64 >= tokens {
        let expected = format!("fewer than the {tokens} tokens there are");
        return Err(Error::value("model.context", expected, context));
    }
    config.schedule.expect(filled).validate()?;
    Ok(())
}

fn fill_groups(
    config: &mut Config,
    spec: &Spec,
    params: &[ParamSpec],
    means: &Means,
) -> Result<(), Error> {
    if config.optim.is_empty() {
        let (train, filled) = (&mut config.train, "the loop was filled in");
        let (batch, context) = (train.batch.expect(filled), train.context.expect(filled));
        let vocab = config.data.vocab.expect(filled);
        let step_tokens = (batch * context) as f64 * f64::from(train.grad_accum);
        let by_time = means.tokens(&Spec { vocab, ..spec.clone() }, context);
        let tokens = train.steps.map_or(by_time, |steps| steps as f64 * step_tokens);
        // What was learnt before is not to be forgotten in the first steps.
        let share = if config.model.init.is_some() { 0.1 } else { 1.0 };
        let automatic = share * size::lr(spec.width);
        let lr = train.lr.and_then(Rate::number).unwrap_or(automatic);
        // A rate that is still to be found stays on record until it is.
        train.lr.take_if(|lr| *lr != Rate::Auto);
        config.optim = size::groups(lr, tokens / size::text_tokens(means.train_bytes, vocab));
    }
    let assignment = Assignment::resolve(&config.optim, params)?;
    config.policy().check_sums(&assignment)?;
    config.optim = assignment.groups().cloned().collect();
    Ok(())
}

fn plan(
    config: Config,
    spec: Spec,
    peaks: Peaks,
    choice: Choice,
    facts: &Facts,
    means: &Means,
) -> Plan {
    let train = &config.train;
    let filled = "the loop was filled in";
    let (batch, context) = (train.batch.expect(filled), train.context.expect(filled));
    let step_tokens = (batch * context) as u64 * u64::from(train.grad_accum);
    let bound = train.max_steps.unwrap_or(u64::MAX);
    let by_time = (means.tokens(&spec, context) / step_tokens as f64).max(1.0) as u64;
    let useful = means.useful_tokens(config.data.vocab.expect(filled));
    let steps = train.steps.unwrap_or(by_time).min(bound);
    let flop = spec.train_flop_per_token(context) * steps as f64 * step_tokens as f64;
    let text = |bytes| size::text_tokens(bytes, spec.vocab) as u64;
    let tokens = facts.tokens;
    Plan {
        params: spec.param_count() as u64,
        train_tokens: tokens.map_or(text(facts.train_bytes), |tokens| tokens.train),
        val_tokens: tokens.map_or(text(facts.val_bytes), |tokens| tokens.val),
        encoded: tokens.is_some(),
        steps,
        useful_steps: (useful / step_tokens as f64).max(LEAST_STEPS as f64) as u64,
        step_tokens,
        total_bytes: peaks.total,
        bytes: peaks.by_tag,
        choice,
        flop,
        minutes: flop / means.rate / 60.0,
        spec,
        config,
    }
}
