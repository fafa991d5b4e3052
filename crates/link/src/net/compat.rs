//! What two peers compare before anything is sent, and how a difference is told.
//!
//! The block describes the *sharer's* cache on both sides: the sharer says what it has, the receiver
//! what its fuser was trained for. Everything must be equal, but for what is left out: the fuser by a
//! sharer, which needs none to fill its cache; tokenizer and rotary base by a receiver whose fuser
//! does not name them. The fingerprint of the weights covers the base.

use std::fmt;

use super::error::NetError;
use super::hello::Hello;
use crate::KvShape;
use crate::wire::{KeySpace, hex};

/// A side of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads the prompt and sends its cache.
    Sharer = 1,
    /// Takes the cache and answers.
    Receiver = 2,
}

impl Role {
    pub(super) fn other(self) -> Role {
        match self {
            Role::Sharer => Role::Receiver,
            Role::Receiver => Role::Sharer,
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Role::Sharer => "sharer",
            Role::Receiver => "receiver",
        }
    }
}

/// Which cache a link is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Compatibility {
    /// Family of the sharer's model, at most 64 bytes.
    pub family: String,
    /// L, K and E of its cache, each under 2^32.
    pub shape: KvShape,
    /// Whether its keys are rotated.
    pub k_space: KeySpace,
    /// Base of the rotary angles; 0 without them, and of a receiver that asks for none.
    pub rope_theta: f32,
    /// SHA-256 of its tokenizer; zeros of a receiver that asks for none.
    pub tokenizer: [u8; 32],
    /// Fingerprint of its weights, their revision included.
    pub weights: [u8; 32],
    /// Fingerprint of the fuser between the two models.
    pub fuser: Option<[u8; 32]>,
}

/// What two peers compare, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Range of versions.
    Version,
    /// One sharer, one receiver.
    Role,
    /// Whether there is a key.
    Key,
    /// Model family.
    Family,
    /// L.
    Layers,
    /// K.
    KvHeads,
    /// E of keys.
    KeyDim,
    /// E of values.
    ValueDim,
    /// Rotated or not.
    KSpace,
    /// Base of the rotary angles.
    RopeTheta,
    /// Tokenizer.
    Tokenizer,
    /// Weights.
    Weights,
    /// Fuser.
    Fuser,
}

impl Field {
    /// Every field, in the order of the comparison.
    pub const ALL: [Field; 13] = [
        Field::Version,
        Field::Role,
        Field::Key,
        Field::Family,
        Field::Layers,
        Field::KvHeads,
        Field::KeyDim,
        Field::ValueDim,
        Field::KSpace,
        Field::RopeTheta,
        Field::Tokenizer,
        Field::Weights,
        Field::Fuser,
    ];

    /// Its name in messages and in `REJECT`.
    pub fn name(self) -> &'static str {
        match self {
            Field::Version => "version",
            Field::Role => "role",
            Field::Key => "key",
            Field::Family => "family",
            Field::Layers => "layers",
            Field::KvHeads => "kv_heads",
            Field::KeyDim => "key_dim",
            Field::ValueDim => "value_dim",
            Field::KSpace => "k_space",
            Field::RopeTheta => "rope_theta",
            Field::Tokenizer => "tokenizer",
            Field::Weights => "weights",
            Field::Fuser => "fuser",
        }
    }

    pub(super) fn hint(self) -> &'static str {
        match self {
            Field::Role => "\n  hint: a link has one sender and one receiver",
            Field::Key => "\n  hint: give both sides the same key, or neither",
            Field::KSpace => {
                "\n  hint: the sharer can send its keys either way, as the fuser wants them"
            }
            Field::Tokenizer | Field::Weights => {
                "\n  hint: the fuser was trained for another sharer"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What differs from what `own` wants, in the order of [`Field::ALL`].
pub(super) fn mismatches(own: &Hello, peer: &Hello) -> Vec<NetError> {
    Field::ALL.into_iter().filter_map(|field| mismatch(own, peer, field)).collect()
}

fn mismatch(own: &Hello, peer: &Hello, field: Field) -> Option<NetError> {
    let (mut wanted, got) = (shown(own, field), shown(peer, field));
    let receiver = if own.role == Role::Receiver { own } else { peer };
    let asked = &receiver.compatibility;
    let equal = match field {
        Field::Version => own.common_version(peer).is_some(),
        Field::Role => {
            wanted = own.role.other().name().into();
            wanted == got
        }
        Field::Fuser => {
            let sharer = if own.role == Role::Sharer { own } else { peer };
            sharer.compatibility.fuser.is_none() || wanted == got
        }
        Field::Tokenizer => asked.tokenizer == [0; 32] || wanted == got,
        Field::RopeTheta => asked.rope_theta == 0.0 || wanted == got,
        _ => wanted == got,
    };
    (!equal).then_some(NetError::Mismatch { field, wanted, got })
}

/// A field's value as it is compared and shown: equal texts are equal values.
fn shown(hello: &Hello, field: Field) -> String {
    let block = &hello.compatibility;
    match field {
        Field::Version => format!("{} to {}", hello.versions.0, hello.versions.1),
        Field::Role => hello.role.name().into(),
        Field::Key => if hello.keyed { "a key" } else { "none" }.into(),
        Field::Family => format!("`{}`", block.family.escape_debug()),
        Field::Layers => block.shape.layers.to_string(),
        Field::KvHeads => block.shape.kv_heads.to_string(),
        Field::KeyDim => block.shape.key_dim.to_string(),
        Field::ValueDim => block.shape.value_dim.to_string(),
        Field::KSpace => block.k_space.name().into(),
        Field::RopeTheta => block.rope_theta.to_string(),
        Field::Tokenizer => hex(&block.tokenizer),
        Field::Weights => hex(&block.weights),
        Field::Fuser => block.fuser.map_or("none".into(), |fuser| hex(&fuser)),
    }
}
