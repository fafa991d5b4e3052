//! What travels, and what comes of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Tokens of the cache that are in it; 0 for words.
    pub selected_tokens: u64,
    /// Bytes that the receiver sent to ask for it.
    pub request_bytes: u64,
}

impl Payload {
    /// Nothing.
    pub fn empty() -> Payload {
        Payload { kind: PayloadKind::Empty, body: Vec::new(), selected_tokens: 0, request_bytes: 0 }
    }

    /// Words; none of them is nothing.
    pub fn text(text: String) -> Payload {
        let kind = if text.is_empty() { PayloadKind::Empty } else { PayloadKind::Text };
        Payload { kind, body: text.into_bytes(), ..Payload::empty() }
    }

    /// A container with so many tokens.
    pub fn kv(container: Vec<u8>, selected_tokens: u64) -> Payload {
        Payload { kind: PayloadKind::Kv, body: container, selected_tokens, request_bytes: 0 }
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
    /// The letter, or the words.
    pub text: String,
    /// Whether it is right.
    pub is_right: bool,
}

/// What a method gives back.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The receiver's.
    pub reply: Reply,
    /// What travelled.
    pub payload: Payload,
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
