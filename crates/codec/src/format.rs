//! What a number format is.

use crate::{Format, Layout};

/// How a value between two codes is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest code, ties to even.
    Nearest,
    /// Up with the probability of the fraction, so that the mean is the value.
    ///
    /// The choice for a value depends on `key` and on its index in the tensor alone: coding in
    /// chunks or on several threads gives the same bytes.
    Stochastic {
        /// From [`Rng::key`](crate::Rng::key): one key for each tensor and step.
        key: u64,
        /// The index in the tensor of the first value of the run.
        first_index: u64,
    },
}

impl Rounding {
    /// The same rounding for a run that starts `values` later.
    pub fn advance(self, values: usize) -> Self {
        match self {
            Self::Nearest => Self::Nearest,
            Self::Stochastic { key, first_index } => {
                Self::Stochastic { key, first_index: first_index.wrapping_add(values as u64) }
            }
        }
    }
}

/// Whether values may be negative. A dynamic format has a map for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sign {
    /// Values of both signs.
    #[default]
    Signed,
    /// Values that are never negative, such as second moments.
    Unsigned,
}

/// A number format: values to bytes and back.
///
/// The arithmetic of one code is a function in [`element`](crate::element); a codec adds who
/// shares a scale and where the scale lies. `encode` and `decode` see a run (see [`Layout`]) whose
/// lengths [`Packed`](crate::Packed) has checked.
pub trait Codec: Send + Sync + std::fmt::Debug {
    /// The name without parameters: `bf16`, `int8`.
    fn name(&self) -> &'static str;

    /// The number in state files. Never reused; the wire and GGUF have tables of their own.
    fn id(&self) -> u16;

    /// Values per block where that is a parameter of the format (`int8/256`), else `None`.
    fn block(&self) -> Option<usize> {
        None
    }

    /// The same format with another block, or `None` where this block is not possible.
    fn with_block(&self, _block: usize) -> Option<Format> {
        None
    }

    /// Which values the map is made for.
    fn sign(&self) -> Sign {
        Sign::Signed
    }

    /// The same format with the map for `sign`, or `None` where one map serves both.
    fn for_sign(&self, _sign: Sign) -> Option<Format> {
        None
    }

    /// Whether no positive value is decoded as zero.
    ///
    /// Second moments need it: an average divided by a root that became zero is no update.
    fn keeps_positive(&self) -> bool {
        false
    }

    /// Where the values of a tensor of this shape lie.
    fn layout(&self, shape: [usize; 2]) -> Layout;

    /// The per-tensor header, made from all values before any block; `layout(..).header_bytes` long.
    fn header(&self, _src: &[f32]) -> Vec<u8> {
        Vec::new()
    }

    /// Codes the run `src` into `dst`, which has the bytes of that run. Writes every byte.
    fn encode(&self, src: &[f32], header: &[u8], dst: &mut [u8], rounding: Rounding);

    /// Decodes the run `src` into `dst`. Total: any bytes give some values, and none panics.
    fn decode(&self, src: &[u8], header: &[u8], dst: &mut [f32]);

    /// Whether the bytes are `f32` in memory order, so that they can be used in place.
    fn is_plain_f32(&self) -> bool {
        false
    }
}
