//! What is kept of a link over text.

use serde::{Deserialize, Serialize};

use super::TextConfig;
use crate::KvShape;
use crate::stats::Interval;

/// Of the record below; a change that old readers misread raises it.
pub const TEXT_SCHEMA_VERSION: u32 = 1;

/// The record of a pair over text, `link.json` in its run directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecord {
    /// [`TEXT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Whose cache is given.
    pub sharer: TextModel,
    /// Who is scored.
    pub receiver: TextModel,
    /// What lies between them.
    pub fuser: FuserSummary,
    /// Fingerprint of the fuser that it began from.
    pub from: Option<String>,
    /// How it was trained and measured.
    pub config: TextConfig,
    /// SHA-256 of the text.
    pub text_sha256: String,
    /// Documents that gave items.
    pub documents: DocumentCounts,
    /// Items that every line was scored on.
    pub items: usize,
    /// Bytes of their continuations.
    pub scored_bytes: usize,
    /// How tokens of the two models meet, on average over the items.
    pub alignment: Rates,
    /// What was delivered and how likely continuations were then; the first is the receiver alone.
    pub lines: Vec<TextLine>,
    /// Pairs of lines on the same documents.
    pub comparisons: Vec<Comparison>,
}

/// One of the models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextModel {
    /// Of its weights.
    pub fingerprint: String,
    /// Of its cache.
    pub kv: KvShape,
    /// Tokens of its vocabulary.
    pub vocab: usize,
}

/// The fuser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuserSummary {
    /// Of weights, settings and origin.
    pub fingerprint: String,
    /// Its numbers.
    pub params: usize,
    /// Layers of the receiver that it changes; never 0.
    pub layers: usize,
    /// Halves of sharer layers, keys or values, that an open gate reads.
    pub open_gates: usize,
}

/// How many documents there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentCounts {
    /// To learn from.
    pub train: usize,
    /// To watch training by.
    pub val: usize,
    /// To measure.
    pub test: usize,
    /// Of all three: too short, or with characters that a vocabulary lacks.
    pub left_out: usize,
}

/// Shares of the receiver's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// With one token of the sharer that stands for no other.
    pub one_to_one: f64,
    /// Without any.
    pub unmapped: f64,
}

/// What was delivered, and what it was worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextLine {
    /// Its name.
    pub name: String,
    /// Measured bytes of the containers, on average over the items.
    pub wire_bytes: f64,
    /// Bits per byte of continuation: the mean over documents, and 95 %.
    pub bpb: Interval,
    /// Those of the receiver alone less these, on the same documents: over 0 is better.
    pub gain: Interval,
}

/// Bits per byte that one line saves over another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The line that is asked about.
    pub line: String,
    /// The one it is compared with.
    pub over: String,
    /// Its bits per byte are lower by so many, on the same documents, and 95 %.
    pub gain: Interval,
}
