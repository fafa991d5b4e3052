//! `link.json`: what was evaluated, with what, and what came of it.
//!
//! Every field must be there; one that may be `null` is an `Option` here and marked so in
//! [`SCHEMA`](super::SCHEMA). Unknown fields are refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::Spread;
use crate::KvShape;
use crate::methods::{PayloadKind, Stage};
use crate::plan::{Budget, SelectionConfig, SelectionStats};
use crate::stats::Interval;

/// Where an evaluation keeps its record.
pub const LINK_JSON: &str = "link.json";
/// Of the record below; a change that old readers misread raises it. `bpb` came later, and with it an
/// `accuracy` that may be `null`: readers of before refuse such a record, and do not misread it.
pub const SCHEMA_VERSION: u32 = 1;

/// An `Option` that must be said: without this, serde reads a missing field as `None`.
fn said<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from)
}

/// The record of one method on one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// How it ended.
    pub status: Status,
    /// Why, where it is neither complete nor a smoke run.
    #[serde(deserialize_with = "said")]
    pub reason: Option<String>,
    /// [`RunKey`](super::RunKey) as a line.
    pub key: String,
    /// SHA-256 of the canonical configuration.
    pub config_hash: String,
    /// When it ended, seconds since 1970.
    pub finished_unix_s: u64,
    /// Which two models.
    pub pair_id: String,
    /// Who answers.
    pub receiver: ModelFacts,
    /// Who knows.
    pub sharer: ModelFacts,
    /// None where nothing is fused.
    #[serde(deserialize_with = "said")]
    pub fuser: Option<FuserFacts>,
    /// Name of the prompt's wording.
    pub prompt_template_id: String,
    /// How answers are decoded.
    pub decoding: Decoding,
    /// The task.
    pub task: String,
    /// Items.
    pub n: u64,
    /// [`Measured::ids_sha256`](crate::methods::Measured::ids_sha256).
    pub example_ids_hash: String,
    /// Which range of lengths.
    pub context_len_bucket: String,
    /// Tokens of the prompts.
    pub prompt_tokens: Spread,
    /// Version hash of the world or corpus.
    pub corpus_version: String,
    /// Of the filler in long prompts; none where there is none.
    #[serde(deserialize_with = "said")]
    pub longctx_seed: Option<u64>,
    /// How positions of both sides meet.
    pub alignment: Alignment,
    /// Name of the method.
    pub method: String,
    /// What its payloads are.
    pub payload: PayloadKind,
    /// Whether it knew what it could not know over a real link.
    pub is_upper_bound: bool,
    /// None where no tokens are selected.
    #[serde(deserialize_with = "said")]
    pub selection: Option<SelectionRecord>,
    /// None where no cache travels.
    #[serde(deserialize_with = "said")]
    pub precision: Option<PrecisionRecord>,
    /// Caps and how they were kept.
    pub budget: BudgetRecord,
    /// What planning went by, all items.
    pub bytes_estimated_total: u64,
    /// The same under its old name.
    pub bytes_estimate: u64,
    /// What was sent, all items.
    pub bytes_measured_total: u64,
    /// The same by part.
    pub bytes_measured_breakdown: ByteBreakdown,
    /// None where no cache travels.
    #[serde(deserialize_with = "said")]
    pub wire: Option<WireRecord>,
    /// Milliseconds of each stage; none for a stage that there was not.
    pub timings_ms: BTreeMap<Stage, Option<Spread>>,
    /// None where no text travels.
    #[serde(deserialize_with = "said")]
    pub text: Option<TextRecord>,
    /// How often each answer was given; empty where nothing is answered.
    pub answer_histogram: BTreeMap<String, u64>,
    /// Tokens of an answer.
    pub mean_output_tokens: f64,
    /// Share of right answers; none where nothing is answered and a text is scored.
    #[serde(deserialize_with = "said")]
    pub accuracy: Option<Interval>,
    /// Bits per byte of the texts that were scored; none where questions were answered, and in records
    /// of before there was such a field.
    #[serde(default)]
    pub bpb: Option<Interval>,
    /// By what they are for.
    pub seeds: BTreeMap<String, u64>,
    /// Of this program.
    pub code_version: String,
    /// Where it ran.
    pub host: Host,
}

/// How an evaluation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All items.
    Complete,
    /// A few items, to see that it works.
    Smoke,
    /// It gave up.
    Failed,
    /// It was stopped.
    Incomplete,
}

/// One of the two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// Path or preset.
    pub id: String,
    /// Of its weights.
    pub fingerprint: String,
    /// Of its cache.
    pub kv: KvShape,
    /// Where the head's size is from. It is never the width divided by the heads.
    pub shape_from: ShapeSource,
    /// Of its tokenizer.
    pub tokenizer_sha256: String,
}

/// Where a shape was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapeSource {
    /// An explicit field of the configuration.
    Config,
    /// The shapes of the weights.
    Weights,
}

/// The fuser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuserFacts {
    /// Of its weights and configuration.
    pub fingerprint: String,
    /// Layers that were found and loaded; an evaluation with none is an error.
    pub layers_loaded: u64,
    /// Trained numbers.
    pub parameters: u64,
}

/// How answers are decoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoding {
    /// Of all settings below and those of the scorer.
    pub settings_hash: String,
    /// 0 is greedy.
    pub temperature: f64,
    /// At most so many tokens.
    pub max_new_tokens: u64,
}

/// How positions of both sides meet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alignment {
    /// Off where both sides have one tokenizer.
    pub on: bool,
    /// The rule; none where it is off.
    #[serde(deserialize_with = "said")]
    pub strategy: Option<String>,
    /// Share of the receiver's tokens that are one token of the sharer; none where it is off.
    #[serde(deserialize_with = "said")]
    pub one_to_one_rate: Option<f64>,
    /// Share without a token of the sharer; none where it is off.
    #[serde(deserialize_with = "said")]
    pub unmapped_rate: Option<f64>,
}

/// Selection over all items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionRecord {
    /// As configured.
    pub config: SelectionConfig,
    /// n, tokens in scope.
    pub scope_tokens: Spread,
    /// Tokens sent.
    pub selected_tokens: Spread,
    /// Effective share of the scope.
    pub fraction: Spread,
    /// Items where `min_tokens` was what decided.
    pub min_tokens_bound_items: u64,
    /// Means over items of mean, least and largest score; none where nothing was scored.
    #[serde(deserialize_with = "said")]
    pub score: Option<crate::plan::ScoreStats>,
}

impl SelectionRecord {
    /// What items say together.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) for no items.
    pub fn of(
        config: SelectionConfig,
        items: &[SelectionStats],
    ) -> Result<SelectionRecord, crate::Error> {
        let spread = |value: fn(&SelectionStats) -> f64| {
            Spread::of(&items.iter().map(value).collect::<Vec<_>>())
        };
        let scored: Vec<_> = items.iter().filter_map(|item| item.score).collect();
        let mean = |value: fn(&crate::plan::ScoreStats) -> f64| {
            scored.iter().map(value).sum::<f64>() / scored.len() as f64
        };
        let score = (!scored.is_empty()).then(|| crate::plan::ScoreStats {
            mean: mean(|score| score.mean),
            min: mean(|score| score.min),
            max: mean(|score| score.max),
        });
        Ok(SelectionRecord {
            config,
            scope_tokens: spread(|item| item.scope_tokens as f64)?,
            selected_tokens: spread(|item| item.selected_tokens as f64)?,
            fraction: spread(|item| item.fraction)?,
            min_tokens_bound_items: items.iter().filter(|item| item.min_tokens_bound).count()
                as u64,
            score,
        })
    }
}

/// How many tokens travelled in which precision, all items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecisionRecord {
    /// Tokens by the name of their recipe; `drop` for those that stayed.
    pub tokens: BTreeMap<String, u64>,
    /// Bits of an element on average over all layers and the tokens that travelled.
    pub effective_bits: f64,
    /// Name of the allocator; none where a proportion decided.
    #[serde(deserialize_with = "said")]
    pub allocator: Option<String>,
}

/// Caps of the items and how they were kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetRecord {
    /// As asked for.
    pub budget: Budget,
    /// None without a cap.
    #[serde(deserialize_with = "said")]
    pub cap_bytes: Option<Spread>,
    /// What was sent.
    pub actual_bytes: Spread,
    /// What the caps left; none without a cap.
    #[serde(deserialize_with = "said")]
    pub slack_bytes: Option<Spread>,
    /// Items for which nothing was sent: their caps were below the smallest message.
    pub empty_items: u64,
}

/// Bytes that were sent, by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The names say it.
pub struct ByteBreakdown {
    pub header: u64,
    pub table: u64,
    pub indices: u64,
    pub payload_k: u64,
    pub payload_v: u64,
    pub scales: u64,
    pub text: u64,
    pub request: u64,
}

impl ByteBreakdown {
    /// All of them.
    pub fn total(&self) -> u64 {
        let kv = self.header + self.table + self.indices + self.payload_k + self.payload_v;
        kv + self.scales + self.text + self.request
    }
}

impl std::ops::AddAssign for ByteBreakdown {
    fn add_assign(&mut self, other: ByteBreakdown) {
        self.header += other.header;
        self.table += other.table;
        self.indices += other.indices;
        self.payload_k += other.payload_k;
        self.payload_v += other.payload_v;
        self.scales += other.scales;
        self.text += other.text;
        self.request += other.request;
    }
}

/// How caches travelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireRecord {
    /// `kvw`.
    pub format: String,
    /// Of the format.
    pub version: String,
    /// `standalone` or `compact`.
    pub profile: String,
    /// How lists of tokens are written: `auto`.
    pub index: String,
    /// Type of scales.
    pub scale_dtype: String,
    /// Who shares a scale.
    pub scale_granularity: String,
    /// `none` or `zstd`.
    pub compression: String,
    /// Layers of a block.
    pub layers_per_block: u64,
}

/// How words travelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecord {
    /// What was asked for.
    pub style: String,
    /// At most so many tokens.
    pub max_new_tokens: u64,
    /// Share of texts that the cap cut.
    pub truncation_rate: f64,
}

/// Where it ran. The machine's name and its user are nobody's business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The names say it.
pub struct Host {
    pub cpu: String,
    pub os: String,
    pub threads: u64,
    pub kernels: String,
}
