//! What a person may write about how a run is watched: early stopping, alarms, validations.

use serde::{Deserialize, Serialize};

use crate::{Error, Validation};

/// What early stopping and the best checkpoint go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Loss of the validation; lower is better.
    #[default]
    Loss,
    /// Bits per byte; lower is better.
    Bpb,
    /// Share of sampled completions that compile; higher is better.
    Compile,
}

impl Metric {
    /// What it is, in a sentence.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Metric::Loss => "the validation loss",
            Metric::Bpb => "the figure of bits per byte",
            Metric::Compile => "the compile rate",
        }
    }

    /// The figure of a score where less is better, where the score has it.
    pub(crate) fn cost(self, score: &Validation) -> Option<f64> {
        match self {
            Metric::Loss => Some(score.loss),
            Metric::Bpb => score.bpb,
            Metric::Compile => score.compile.map(|compile| -compile.rate()),
        }
    }

    /// Whether `a` is better than `b`; of equal ones the lower loss is. What is no number is worst.
    pub(crate) fn prefers(self, a: &Validation, b: &Validation) -> bool {
        let number = |cost: Option<f64>| cost.filter(|c| !c.is_nan()).unwrap_or(f64::INFINITY);
        let place = |score| (number(self.cost(score)), number(Some(score.loss)));
        place(a) < place(b)
    }
}

/// `[stop]`: ends a run whose validations no longer improve; off where the section is absent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopConfig {
    /// What has to improve; the best checkpoint goes by it too.
    pub metric: Metric,
    /// Validations in a row without an improvement that end the run.
    pub patience: u32,
    /// What counts as an improvement, in the metric's own unit.
    pub min_delta: f64,
    /// Whether the best checkpoint is the result of the run, and not the last one.
    pub restore_best: bool,
}

impl Default for StopConfig {
    fn default() -> Self {
        Self { metric: Metric::Loss, patience: 5, min_delta: 1e-4, restore_best: true }
    }
}

/// `[alarm]`: what is out of the ordinary. Every limit can be 0, which turns its alarm off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlarmConfig {
    /// A loss over this multiple of the running mean is a spike.
    pub spike: f64,
    /// How often a spike may send the run back to its last good checkpoint; 0 goes on through it.
    pub rollback: u32,
    /// Mean entropy of the predictions in samples, in nats, under which they have collapsed.
    pub entropy: f64,
    /// A gradient norm over this multiple of the running median is an outlier.
    pub grad_norm: f64,
    /// Validations in a row at which a block's gradient is nothing, after which it is dead.
    pub dead: u32,
    /// Validation loss over the running training loss, in nats, that is learning by heart.
    pub gap: f64,
}

impl Default for AlarmConfig {
    fn default() -> Self {
        Self { spike: 2.0, rollback: 0, entropy: 0.02, grad_norm: 10.0, dead: 3, gap: 0.5 }
    }
}

/// `[validate]`: what a validation does besides the score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateConfig {
    /// Texts the model continues at each validation; automatic: two openings of held-out documents
    /// and nothing at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<String>>,
    /// Tokens of each continuation at most; 0 writes none.
    pub sample_tokens: u32,
    /// Divides the logits of samples; 0 takes the most likely token.
    pub temperature: f64,
    /// Held-out Rust files whose halves are completed and compiled at each validation; 0: none.
    pub compile_samples: u32,
    /// Tokens of each completion at most.
    pub compile_tokens: u32,
    /// Compiles even where the system cannot lock the compiler in.
    pub allow_unsandboxed: bool,
}

impl Default for ValidateConfig {
    fn default() -> Self {
        Self {
            prompts: None,
            sample_tokens: 40,
            temperature: 0.8,
            compile_samples: 0,
            compile_tokens: 64,
            allow_unsandboxed: false,
        }
    }
}

pub(crate) fn check(
    stop: Option<&StopConfig>,
    alarm: &AlarmConfig,
    validate: &ValidateConfig,
) -> Result<(), Error> {
    let not_negative = |value: f64| value.is_finite() && value >= 0.0;
    if let Some(stop) = stop {
        if stop.patience == 0 {
            return Err(Error::value("stop.patience", "at least 1", 0));
        }
        if !not_negative(stop.min_delta) {
            return Err(Error::value("stop.min_delta", "a number from 0", stop.min_delta));
        }
        if stop.metric == Metric::Compile && validate.compile_samples == 0 {
            let expected = "`validate.compile_samples` beside `\"compile\"`";
            return Err(Error::value("stop.metric", expected, 0));
        }
    }
    for (key, factor) in [("alarm.spike", alarm.spike), ("alarm.grad_norm", alarm.grad_norm)] {
        if factor != 0.0 && !(factor.is_finite() && factor > 1.0) {
            return Err(Error::value(key, "a factor over 1, or 0 for none", factor));
        }
    }
    let limits = [
        ("alarm.entropy", alarm.entropy),
        ("alarm.gap", alarm.gap),
        ("validate.temperature", validate.temperature),
    ];
    for (key, value) in limits {
        if !not_negative(value) {
            return Err(Error::value(key, "a number from 0", value));
        }
    }
    if alarm.rollback > 0 && alarm.spike == 0.0 {
        return Err(Error::value("alarm.rollback", "0 where `alarm.spike` is 0", alarm.rollback));
    }
    if validate.prompts.as_ref().is_some_and(|prompts| prompts.len() > 16) {
        return Err(Error::value("validate.prompts", "at most 16 texts", "more"));
    }
    for (key, tokens) in [
        ("validate.sample_tokens", validate.sample_tokens),
        ("validate.compile_tokens", validate.compile_tokens),
        ("validate.compile_samples", validate.compile_samples),
    ] {
        if tokens > 1 << 16 {
            return Err(Error::value(key, format!("at most {}", 1 << 16), tokens));
        }
    }
    Ok(())
}
