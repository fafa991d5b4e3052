//! What a person may write about a run. Everything has a default; what is left open is filled in by
//! [`resolve`](crate::resolve), the only validator.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smidgen_optim::{Clip, GradMode, GradPolicy, GroupConfig, Schedule, Weights};
use smidgen_store::{Bytes, config};

use crate::{AlarmConfig, Error, Relax, StopConfig, TrackConfig, ValidateConfig};

/// The root of a run's configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Of every random stream of the run.
    pub seed: u64,
    /// Threads that compute; automatic: all the process may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The most private memory the process takes, data preparation included; a plan that needs more is
    /// refused. Automatic: three quarters of the machine's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// What may change about the run where it does not fit otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Relax>,
    /// Where the text comes from.
    pub data: DataConfig,
    /// The shape of the model.
    pub model: ModelConfig,
    /// The loop.
    pub train: TrainConfig,
    /// When a run ends before its time; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopConfig>,
    /// What is out of the ordinary.
    pub alarm: AlarmConfig,
    /// What a validation does besides the score.
    pub validate: ValidateConfig,
    /// What is written besides `metrics.jsonl`.
    pub track: TrackConfig,
    /// The learning rate over the run; automatic: warm-up over 5 % of the steps, then a cosine to 10 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Update rules by group, first match wins; automatic: AdamW, decay on matrices alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub optim: Vec<GroupConfig>,
}

/// `--set optim.NAME.lr` needs a group of that name; the automatic ones are made later.
fn check_group_sets(groups: &[GroupConfig], sets: &[String]) -> Result<(), Error> {
    let written = !groups.is_empty() || sets.iter().any(|set| set.starts_with("optim="));
    match sets.iter().find(|set| !written && set.starts_with("optim.")) {
        Some(set) => {
            let expected =
                "`train.lr` for the automatic groups, or groups written as `[[optim]]` in a file";
            Err(Error::value("optim", expected, format!("`--set {set}`")))
        }
        None => Ok(()),
    }
}

/// `[data]`: the text, its split and its tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A folder, a text file or a `.jsonl` file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Globs of files to take in spite of ignore files and rules.
    pub include: Vec<String>,
    /// Share of the groups that is held out.
    pub val_ratio: f64,
    /// Salt of the split's hash.
    pub salt: String,
    /// Tokens of a validation at most.
    pub val_tokens: u64,
    /// Tokens of the vocabulary; automatic: by the bytes of text. It may come out smaller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab: Option<usize>,
    /// Larger files of a folder are skipped.
    pub max_file_bytes: Bytes,
    /// More text than this in all is an error.
    pub max_total_bytes: Bytes,
    /// Whether training text that is nearly the same as held-out text is left out.
    pub near_duplicates: bool,
    /// Files of tests to come: training text that shares 13 words in a row with one is left out.
    pub contamination: Vec<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            include: Vec::new(),
            val_ratio: 0.1,
            salt: "smidgen".into(),
            val_tokens: 1 << 16,
            vocab: None,
            max_file_bytes: Bytes(1 << 20),
            max_total_bytes: Bytes(512 << 20),
            near_duplicates: true,
            contamination: Vec::new(),
        }
    }
}

/// `[model]`: sizes of the decoder; what is left open comes from the preset or is automatic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// A model to start from, as [`crate::open`] reads it: its shape, its tokenizer and its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// A named shape to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Width of the residual stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Query heads; automatic: the preset's, else of 32 to 64 values each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Key and value heads; automatic: as many as query heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Size of a head; automatic: width / heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Feed-forward width; automatic: 8/3 of the width, to a multiple of 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn: Option<usize>,
    /// Positions the model is made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Base of the rotary angles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Added to the mean square inside norms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f32>,
    /// Whether queries and keys are normalised per head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<bool>,
    /// Whether the query, key and value maps have biases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qkv_bias: Option<bool>,
    /// Whether the head is the embedding table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tied: Option<bool>,
}

/// The operand format of products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where the CPU has a bf16 dot product, else f32.
    #[default]
    Auto,
    /// f32 operands.
    F32,
    /// Operands rounded to bf16; sums and master weights stay f32.
    Bf16,
}

/// A learning rate that is written, or to be found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// A range test finds it before the first step.
    Auto,
    /// This one.
    Of(f64),
}

impl Rate {
    /// The number, where there is one.
    pub fn number(self) -> Option<f64> {
        match self {
            Rate::Auto => None,
            Rate::Of(rate) => Some(rate),
        }
    }
}

impl FromStr for Rate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Rate, Error> {
        if text == "auto" {
            return Ok(Rate::Auto);
        }
        let wrong = |_| Error::value("train.lr", "a number or `auto`", text);
        text.parse().map(Rate::Of).map_err(wrong)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Rate::Auto => out.serialize_str("auto"),
            Rate::Of(rate) => out.serialize_f64(*rate),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Rate, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Rate;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or `auto`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
                let wrong = || E::invalid_value(Unexpected::Str(text), &self);
                (text == "auto").then_some(Rate::Auto).ok_or_else(wrong)
            }

            fn visit_f64<E: de::Error>(self, rate: f64) -> Result<Rate, E> {
                Ok(Rate::Of(rate))
            }

            fn visit_i64<E: de::Error>(self, rate: i64) -> Result<Rate, E> {
                Ok(Rate::Of(rate as f64))
            }

            fn visit_u64<E: de::Error>(self, rate: u64) -> Result<Rate, E> {
                Ok(Rate::Of(rate as f64))
            }
        }
        from.deserialize_any(Either)
    }
}

/// `[train]`: the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Steps of the schedule, its horizon; automatic: what the time allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The step at which a finished run was lengthened; its schedule begins again there. Written by
    /// `--extend`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_at: Option<u64>,
    /// Ends the run after this step, wherever the schedule is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Ends the run by the clock, after the step that passes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<f64>,
    /// Sequences of a micro-batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Tokens of a training sequence; automatic: the model's context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Micro-batches of a step.
    pub grad_accum: u32,
    /// The operand format.
    pub compute: Precision,
    /// How matrices and tables are kept: `"f32"`, `"bf16"` (updates are rounded stochastically) or
    /// `"bf16-kahan"` (what rounding leaves over is kept as state).
    pub weights: Weights,
    /// Whether gradients are held until the last is there, or used as they come.
    pub grad: GradMode,
    /// Whose norm is limited; automatic: global where gradients are held, else off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
    /// The limit of the norm.
    pub max_norm: f64,
    /// Base rate of the automatic groups; excludes `[[optim]]`, whose groups have their own. `"auto"`
    /// finds it by a range test before the first step, for any groups, and goes through one cycle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<Rate>,
    /// Steps after which a phase begins: matrices are replaced by the nearest isometries. 0 is the start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fire_at: Vec<u64>,
    /// The matrices of which this is true, as a pattern over names; absent: those inside blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fire_match: Option<String>,
    /// Keeps an average of the weights with this decay beside them; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Steps between validations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_every: Option<u64>,
    /// Steps between checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ckpt_every: Option<u64>,
    /// Newest checkpoints that stay; the best one stays besides.
    pub keep: usize,
    /// Whether blocks are computed again on the way back; automatic: where memory asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<bool>,
    /// Bytes of logits alive at once, at least those of one token; automatic: 8 MiB, less where memory
    /// asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_chunk: Option<Bytes>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let policy = GradPolicy::default();
        Self {
            steps: None,
            extended_at: None,
            max_steps: None,
            max_minutes: None,
            batch: None,
            context: None,
            grad_accum: policy.grad_accum,
            compute: Precision::Auto,
            weights: Weights::F32,
            grad: policy.grad,
            clip: None,
            max_norm: policy.max_norm,
            lr: None,
            fire_at: Vec::new(),
            fire_match: None,
            ema: None,
            val_every: None,
            ckpt_every: None,
            keep: 2,
            recompute: None,
            loss_chunk: None,
        }
    }
}

impl Config {
    /// What `train PATH|CONFIG` means: a `.toml` file is a configuration, anything else the source
    /// of an automatic run. `sets` are `key=value` arguments on top.
    ///
    /// # Errors
    /// [`Error::Store`] with the key, the place and the nearest known key.
    pub fn read(source: &Path, sets: &[String]) -> Result<Config, Error> {
        let is_toml = source.extension().is_some_and(|extension| extension == "toml");
        if is_toml && source.is_file() {
            let text = std::fs::read_to_string(source).map_err(|error| {
                let (action, path) = ("read", source.to_path_buf());
                Error::Store(smidgen_store::Error::Io { action, path, source: error })
            })?;
            let written: Config = config::load(&text, source, &[])?;
            check_group_sets(&written.optim, sets)?;
            return Ok(config::load(&text, source, sets)?);
        }
        check_group_sets(&[], sets)?;
        let mut config: Config = config::load("", source, sets)?;
        config.data.path.get_or_insert_with(|| source.to_path_buf());
        Ok(config)
    }

    /// Its gradient policy.
    pub fn policy(&self) -> GradPolicy {
        let train = &self.train;
        let automatic = if train.grad == GradMode::Held { Clip::Global } else { Clip::Off };
        GradPolicy {
            grad: train.grad,
            clip: train.clip.unwrap_or(automatic),
            max_norm: train.max_norm,
            grad_accum: train.grad_accum,
        }
    }
}
