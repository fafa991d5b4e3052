//! What travels, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::plan::SelectionStats;
use crate::record::ByteBreakdown;
use crate::wire::{Header, Limits, Report};

/// What a payload is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadKind {
    /// Words of the sharer, UTF-8.
    Text,
    /// Its cache, in a container.
    Kv,
    /// Nothing: 0 bytes, and the receiver answers alone.
    Empty,
}

/// What goes from the sharer to the receiver: the bytes themselves, so that what is counted is what
/// was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    kind: PayloadKind,
    body: Vec<u8>,
    /// What a container holds; nothing for words.
    pub contents: Contents,
    /// Bytes that the receiver sent to ask for it.
    pub request_bytes: u64,
}

/// What stands in a container, by its header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// Tokens of the cache in it, of the block with the most.
    pub selected_tokens: u64,
    /// Tokens of the cache that are not.
    pub left_tokens: u64,
    /// Those in it by precision: `int8`, or `int8/int4` where keys and values differ.
    pub precisions: BTreeMap<String, u64>,
    /// Numbers of keys and values.
    pub values: u64,
    /// Its bytes by what they are.
    pub bytes: ByteBreakdown,
    /// What it was planned to take.
    pub planned_bytes: u64,
    /// Version of the container; empty for words.
    pub version: String,
}

impl Contents {
    /// Of a container that was planned to take so many bytes.
    ///
    /// # Errors
    /// [`Error::Wire`] for one that is no container.
    pub fn of(container: &[u8], planned_bytes: u64) -> Result<Contents, Error> {
        let header = Header::parse(container, &Limits::default())?;
        let report = Report::new(&header, container);
        let (mut precisions, mut seen, mut values) = (BTreeMap::new(), BTreeSet::new(), 0);
        for group in &report.groups {
            let halves = [group.keys, group.values];
            let names: BTreeSet<&str> = halves.iter().flatten().map(|half| half.name()).collect();
            // A group has the same tokens in every block.
            if seen.insert(group.group) {
                let name = match halves {
                    [Some(keys), Some(values)] if keys != values => {
                        format!("{}/{}", keys.name(), values.name())
                    }
                    _ => names.into_iter().collect(),
                };
                *precisions.entry(name).or_default() += u64::from(group.tokens);
            }
            let first = group.block * report.layers_per_block;
            let layers = report.layers_per_block.min(report.layers - first) * report.batch;
            let rows = [report.shape.key_row(), report.shape.value_row()];
            let row: usize =
                halves.iter().zip(rows).filter(|(half, _)| half.is_some()).map(|(_, n)| n).sum();
            values += (group.tokens as usize * layers * row) as u64;
        }
        let (parts, selected) = (report.bytes, u64::from(report.selected));
        let table = report.table_bytes();
        Ok(Contents {
            selected_tokens: selected,
            left_tokens: u64::from(report.seq_len).saturating_sub(selected),
            precisions,
            values,
            bytes: ByteBreakdown {
                header: parts.header - table + parts.note + parts.padding,
                table,
                indices: parts.indices,
                payload_k: parts.keys,
                payload_v: parts.values,
                scales: parts.scales,
                ..ByteBreakdown::default()
            },
            planned_bytes,
            version: report.version,
        })
    }
}

impl Payload {
    /// Nothing.
    pub fn empty() -> Payload {
        let contents = Contents::default();
        Payload { kind: PayloadKind::Empty, body: Vec::new(), contents, request_bytes: 0 }
    }

    /// Words; none of them is nothing.
    pub fn text(text: String) -> Payload {
        let kind = if text.is_empty() { PayloadKind::Empty } else { PayloadKind::Text };
        let body = text.into_bytes();
        let bytes = ByteBreakdown { text: body.len() as u64, ..ByteBreakdown::default() };
        let planned_bytes = bytes.text;
        let contents = Contents { bytes, planned_bytes, ..Contents::default() };
        Payload { kind, body, contents, request_bytes: 0 }
    }

    /// A container and what it holds.
    pub fn kv(container: Vec<u8>, contents: Contents) -> Payload {
        Payload { kind: PayloadKind::Kv, body: container, contents, request_bytes: 0 }
    }

    /// What it is made of.
    pub fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// The bytes as they are sent.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// All bytes that count: those sent, and those that asked for them.
    pub fn bytes(&self) -> u64 {
        self.body.len() as u64 + self.request_bytes
    }
}

/// What the receiver made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The words.
    pub text: String,
    /// Tokens of it.
    pub tokens: u64,
    /// Whether it is right.
    pub is_right: bool,
    /// What took how long at the receiver.
    pub timings_ms: BTreeMap<Stage, f64>,
}

/// What a method gives back.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The receiver's.
    pub reply: Reply,
    /// What travelled.
    pub payload: Payload,
    /// How its tokens were selected, where a proportion of them was.
    pub selection: Option<SelectionStats>,
    /// What took how long, of the stages that there were.
    pub timings_ms: BTreeMap<Stage, f64>,
}

/// A stage of an exchange that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names say it.
pub enum Stage {
    PrefillSharer,
    PrefillReceiver,
    ProjectionScore,
    Select,
    Encode,
    Send,
    Decode,
    Project,
    Fuse,
    EndToEnd,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Stage; 10] = [
        Stage::PrefillSharer,
        Stage::PrefillReceiver,
        Stage::ProjectionScore,
        Stage::Select,
        Stage::Encode,
        Stage::Send,
        Stage::Decode,
        Stage::Project,
        Stage::Fuse,
        Stage::EndToEnd,
    ];
}
