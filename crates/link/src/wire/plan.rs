//! What is to be sent: which layers, which tokens in which precision, and how they are scaled.

use super::error::EncodeError;
use super::index::Encoding;
use super::outline::{Outline, Part};
use super::precision::Precision;
use super::scale::{Granularity, ScaleType, Side};
use crate::KvShape;

/// The precisions of keys and values; `None` where they are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Of keys.
    pub keys: Option<Precision>,
    /// Of values.
    pub values: Option<Precision>,
}

impl Pair {
    /// Keys and values alike.
    pub fn both(precision: Precision) -> Pair {
        Pair { keys: Some(precision), values: Some(precision) }
    }

    pub(super) fn sides(self) -> [Option<Precision>; 2] {
        [self.keys, self.values]
    }
}

/// The same for every block of layers, or one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerBlock<T> {
    /// One for all.
    Same(T),
    /// As many as there are blocks.
    Each(Vec<T>),
}

impl<T> PerBlock<T> {
    /// That of a block.
    pub fn of(&self, block: usize) -> &T {
        match self {
            PerBlock::Same(one) => one,
            PerBlock::Each(all) => &all[block],
        }
    }

    fn check(&self, field: &'static str, blocks: usize) -> Result<(), EncodeError> {
        match self {
            PerBlock::Each(all) if all.len() != blocks => {
                Err(EncodeError::plan(field, format!("one for each of {blocks} blocks"), all.len()))
            }
            _ => Ok(()),
        }
    }
}

/// Tokens that are sent in one precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Their indices, strictly increasing. A list that differs between blocks may be empty there.
    pub tokens: PerBlock<Vec<u32>>,
    /// How their keys and values are sent.
    pub precision: PerBlock<Pair>,
}

impl Group {
    /// The same tokens and precision in every layer.
    pub fn new(tokens: Vec<u32>, precision: Pair) -> Group {
        Group { tokens: PerBlock::Same(tokens), precision: PerBlock::Same(precision) }
    }
}

/// Which positions indices count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenSpace {
    /// Tokens of the receiver.
    #[default]
    Receiver = 0,
    /// Tokens of the sharer.
    Sharer = 1,
}

impl TokenSpace {
    /// The name.
    pub fn name(self) -> &'static str {
        ["receiver", "sharer"][self as usize]
    }
}

/// What has been done to keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySpace {
    /// They are rotated, as they stand in a cache.
    #[default]
    PostRope = 0,
    /// They are not rotated yet, or no longer.
    PreRope = 1,
    /// The model has no rotary positions.
    None = 2,
}

impl KeySpace {
    /// By their numbers.
    pub(crate) const ALL: [KeySpace; 3] = [KeySpace::PostRope, KeySpace::PreRope, KeySpace::None];

    /// The name.
    pub fn name(self) -> &'static str {
        ["post-rope", "pre-rope", "none"][self as usize]
    }
}

impl From<smidgen_model::KeySpace> for KeySpace {
    fn from(space: smidgen_model::KeySpace) -> KeySpace {
        match space {
            smidgen_model::KeySpace::PostRope => KeySpace::PostRope,
            smidgen_model::KeySpace::PreRope => KeySpace::PreRope,
        }
    }
}

/// Fields that a container carries and its reader compares; zeros say nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct About {
    /// Names the message; equal in both rounds of an exchange.
    pub message: [u8; 16],
    /// The first bytes of the SHA-256 of the sharer.
    pub sharer: [u8; 8],
    /// Of its tokenizer.
    pub tokenizer: [u8; 8],
    /// Of the prompt.
    pub prompt: [u8; 8],
    /// Which positions indices count.
    pub tokens: TokenSpace,
    /// What has been done to keys.
    pub keys: KeySpace,
    /// The base of the sharer's rotary positions; 0 where it has none.
    pub rope_theta: f32,
    /// 0, or 1 for what is sent on request.
    pub round: u8,
    /// The bytes the container may have at most.
    pub cap: Option<u32>,
    /// Bits that mean something to their sender only.
    pub advisory: u16,
}

impl Default for About {
    fn default() -> About {
        About {
            message: [0; 16],
            sharer: [0; 8],
            tokenizer: [0; 8],
            prompt: [0; 8],
            tokens: TokenSpace::Receiver,
            keys: KeySpace::PostRope,
            rope_theta: 10_000.0,
            round: 0,
            cap: None,
            advisory: 0,
        }
    }
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The source layers that are sent, strictly increasing.
    pub layers: Vec<u16>,
    /// Groups of tokens, no token in two of one block.
    pub groups: Vec<Group>,
    /// Who shares a scale.
    pub granularity: Granularity,
    /// The type of scales.
    pub scale: ScaleType,
    /// Layers of a block, which can be read when it has arrived.
    pub layers_per_block: usize,
    /// Sequences; the layers of a cache are then `[layer][batch]`.
    pub batch: usize,
    /// Integers have zero points.
    pub asymmetric: bool,
    /// What this message adds to one before.
    pub upgrade: bool,
    /// Sections begin at multiples of 8.
    pub align8: bool,
    /// Sections are compressed by zstd at this level where that makes them smaller.
    pub zstd: Option<i32>,
    /// Fields for the reader to compare.
    pub about: About,
    /// A text for people.
    pub note: Option<String>,
}

impl Plan {
    /// Every layer of a cache in one block, with f16 scales for each token and head.
    pub fn new(layers: usize, groups: Vec<Group>) -> Plan {
        Plan {
            layers: (0..layers as u16).collect(),
            groups,
            granularity: Granularity::Block,
            scale: ScaleType::F16,
            layers_per_block: layers.max(1),
            batch: 1,
            asymmetric: false,
            upgrade: false,
            align8: false,
            zstd: None,
            about: About::default(),
            note: None,
        }
    }

    /// Blocks of layers.
    pub fn blocks(&self) -> usize {
        self.layers.len().div_ceil(self.layers_per_block.max(1))
    }

    /// Checks the plan against a cache, and gives what determines its sections.
    pub(super) fn outline(&self, shape: KvShape, seq_len: usize) -> Result<Outline, EncodeError> {
        self.check_sizes(shape, seq_len)?;
        let blocks = self.blocks();
        let mut parts = vec![Part::default(); blocks * self.groups.len()];
        for (number, group) in self.groups.iter().enumerate() {
            group.tokens.check("tokens", blocks)?;
            group.precision.check("precision", blocks)?;
            let mut listed = None;
            for block in 0..blocks {
                let tokens = group.tokens.of(block);
                // A list that all blocks share is looked at once.
                let index = match (&group.tokens, listed) {
                    (PerBlock::Same(_), Some(index)) => index,
                    _ => index_of(tokens, seq_len)?,
                };
                listed = Some(index);
                let part = &mut parts[block * self.groups.len() + number];
                part.tokens = tokens.len() as u32;
                part.index = index.filter(|(_, bytes)| *bytes > 0);
                part.precision = group.precision.of(block).sides();
                if tokens.is_empty() {
                    part.precision = [None; 2];
                }
            }
        }
        let outline = Outline {
            align8: self.align8,
            index_per_block: self.index_per_block(),
            asymmetric: self.asymmetric,
            layers: self.layers.len(),
            of_layers: shape.layers / self.batch,
            batch: self.batch,
            heads: shape.kv_heads,
            dims: [shape.key_dim, shape.value_dim],
            layers_per_block: self.layers_per_block,
            granularity: self.granularity,
            scale: self.scale,
            groups: self.groups.len(),
            parts,
            note_bytes: self.note.as_ref().map(|note| note.len() as u32),
        };
        self.check_parts(&outline)?;
        Ok(outline)
    }

    /// Whether a list of tokens differs between blocks.
    pub(super) fn index_per_block(&self) -> bool {
        self.groups.iter().any(|group| matches!(group.tokens, PerBlock::Each(_)))
    }

    fn check_sizes(&self, shape: KvShape, seq_len: usize) -> Result<(), EncodeError> {
        let within = |field, least: usize, most: usize, got: usize| {
            let fits = (least..=most).contains(&got);
            let expected = || format!("{least} to {most}");
            if fits { Ok(()) } else { Err(EncodeError::plan(field, expected(), got)) }
        };
        let limits = super::Limits::default();
        within("tokens of the sequence", 1, limits.seq_len as usize, seq_len)?;
        within("batch", 1, limits.batch.into(), self.batch)?;
        if !shape.layers.is_multiple_of(self.batch) {
            let expected = format!("a multiple of {} sequences", self.batch);
            return Err(EncodeError::plan("layers of the cache", expected, shape.layers));
        }
        let of_layers = shape.layers / self.batch;
        within("layers of the cache", 1, limits.layers.into(), of_layers)?;
        within("kv_heads", 1, limits.kv_heads.into(), shape.kv_heads)?;
        within("key_dim", 1, limits.head_dim.into(), shape.key_dim)?;
        within("value_dim", 1, limits.head_dim.into(), shape.value_dim)?;
        within("layers", 1, of_layers, self.layers.len())?;
        let increase = self.layers.is_sorted_by(|a, b| a < b);
        if !increase || self.layers.last().is_some_and(|last| usize::from(*last) >= of_layers) {
            let got = format!("{:?}", self.layers);
            return Err(EncodeError::plan("layers", format!("increasing below {of_layers}"), got));
        }
        within("layers_per_block", 1, self.layers.len(), self.layers_per_block)?;
        within("groups", 1, limits.groups.into(), self.groups.len())?;
        within("round", 0, 1, self.about.round.into())?;
        let note = self.note.as_ref().map_or(1, String::len);
        within("bytes of the note", 1, u32::MAX as usize, note)?;
        let theta = self.about.rope_theta;
        if !(theta.is_finite() && theta >= 0.0 && theta.is_sign_positive()) {
            return Err(EncodeError::plan("rope_theta", "a finite number from 0 on", theta));
        }
        if self.granularity.number() >= 4 && self.granularity.size() == 0 {
            return Err(EncodeError::plan("granularity", "a size above 0", self.granularity));
        }
        Ok(())
    }

    fn check_parts(&self, outline: &Outline) -> Result<(), EncodeError> {
        for (number, group) in self.groups.iter().enumerate() {
            let mut parts = (0..outline.blocks()).map(|block| outline.part(block, number));
            if parts.all(Part::is_empty) {
                let expected = "tokens with keys or values in some layer";
                return Err(EncodeError::plan("groups", expected, format!("none in {number}")));
            }
            let shared = matches!(group.tokens, PerBlock::Same(_));
            if shared && group.tokens.of(0).is_empty() {
                return Err(EncodeError::plan("tokens", "at least one", 0));
            }
        }
        for block in 0..outline.blocks() {
            if (0..outline.groups).all(|group| outline.part(block, group).is_empty()) {
                let expected = "keys or values in each block";
                return Err(EncodeError::plan("groups", expected, format!("none in {block}")));
            }
            if block == 0 || outline.index_per_block {
                self.check_disjoint(block)?;
            }
        }
        Ok(())
    }

    fn check_disjoint(&self, block: usize) -> Result<(), EncodeError> {
        if self.groups.len() == 1 {
            return Ok(());
        }
        let lists = self.groups.iter().map(|group| group.tokens.of(block));
        let mut all: Vec<u32> = lists.flatten().copied().collect();
        all.sort_unstable();
        match all.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => Err(EncodeError::plan("tokens", "no token in two groups", pair[0])),
        }
    }

    /// The precision of keys or values in a block.
    pub(super) fn precision(&self, block: usize, group: usize, side: Side) -> Option<Precision> {
        self.groups[group].precision.of(block).sides()[side as usize]
    }
}

/// How a list is written; `None` for an empty one.
fn index_of(tokens: &[u32], seq_len: usize) -> Result<Option<(Encoding, u32)>, EncodeError> {
    let expected = || format!("indices that increase below {seq_len}");
    if !tokens.is_sorted_by(|a, b| a < b) {
        return Err(EncodeError::plan("tokens", expected(), "a list that does not"));
    }
    match tokens.last() {
        Some(last) if *last as usize >= seq_len => {
            Err(EncodeError::plan("tokens", expected(), last))
        }
        None => Ok(None),
        Some(_) => {
            let (encoding, bytes) = Encoding::shortest(tokens, seq_len);
            Ok(Some((encoding, bytes as u32)))
        }
    }
}
