//! Blocks of codes behind what scales them: what most formats of few bits share.

use std::fmt;

use crate::element::pack;
use crate::rng::Draws;
use crate::{Codec, Format, Layout, Level, Rounding, Sign, multiversion};

/// Below this the inverse of a scale would overflow; a block of smaller values is coded as if its
/// largest were as large. Codes times the scale stay normal numbers.
const SMALLEST: f32 = 7.888_609e-31;

/// The code of a block format: what stands in the head of a block, and in each code.
pub(crate) trait BlockCode: Copy + fmt::Debug + Send + Sync + 'static {
    /// The name in configs.
    const NAME: &'static str;
    /// The number in state files.
    const ID: u16;
    /// Values per block unless said otherwise.
    const BLOCK: usize;
    /// Bits per code.
    const BITS: usize;
    /// Bytes before the codes of a block.
    const HEAD_BYTES: usize = 4;
    /// Which values the map is made for.
    const SIGN: Sign = Sign::Signed;
    /// See [`Codec::keeps_positive`].
    const KEEPS_POSITIVE: bool = false;

    /// See [`Codec::for_sign`].
    fn for_sign(_block: usize, _sign: Sign) -> Option<Format> {
        None
    }

    /// Codes one block; `codes` has room for as many values. Writes every byte.
    fn encode_block(
        level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    );

    /// Decodes one block.
    fn decode_block(level: Level, head: &[u8], codes: &[u8], values: &mut [f32]);
}

/// A format whose blocks of `block` values are coded by `C`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaled<C> {
    block: usize,
    code: C,
}

impl<C: BlockCode> Scaled<C> {
    /// The format with its usual block.
    pub(crate) const fn new(code: C) -> Self {
        Self { block: C::BLOCK, code }
    }

    /// The format with this block, if it ends where a byte does and a block is worth its head.
    pub(crate) fn with_block(code: C, block: usize) -> Option<Format> {
        let possible = block.is_multiple_of(8) && (8..=1 << 16).contains(&block);
        possible.then(|| Format::new(Self { block, code }))
    }
}

impl<C: BlockCode> Codec for Scaled<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn id(&self) -> u16 {
        C::ID
    }

    fn block(&self) -> Option<usize> {
        Some(self.block)
    }

    fn with_block(&self, block: usize) -> Option<Format> {
        Self::with_block(self.code, block)
    }

    fn sign(&self) -> Sign {
        C::SIGN
    }

    fn for_sign(&self, sign: Sign) -> Option<Format> {
        C::for_sign(self.block, sign)
    }

    fn keeps_positive(&self) -> bool {
        C::KEEPS_POSITIVE
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        Layout::blocks(shape, self.block, block_bytes::<C>(self.block)).with_tail(block_bytes::<C>)
    }

    fn encode(&self, src: &[f32], _header: &[u8], dst: &mut [u8], rounding: Rounding) {
        let level = Level::detect();
        encode_blocks::<C>(level, level, self.block, src, dst, rounding);
    }

    fn decode(&self, src: &[u8], _header: &[u8], dst: &mut [f32]) {
        let level = Level::detect();
        decode_blocks::<C>(level, level, self.block, src, dst);
    }
}

pub(crate) fn block_bytes<C: BlockCode>(values: usize) -> usize {
    C::HEAD_BYTES + (values * C::BITS).div_ceil(8)
}

multiversion! {
    pub(super) fn encode_blocks<C: BlockCode>(
        level: Level,
        block: usize,
        src: &[f32],
        dst: &mut [u8],
        rounding: Rounding,
    ) {
        let blocks = src.chunks(block).zip(dst.chunks_mut(block_bytes::<C>(block)));
        for (i, (values, bytes)) in blocks.enumerate() {
            let (head, codes) = bytes.split_at_mut(C::HEAD_BYTES);
            C::encode_block(level, values, head, codes, rounding.advance(i * block));
        }
    }
}

multiversion! {
    pub(super) fn decode_blocks<C: BlockCode>(level: Level, block: usize, src: &[u8], dst: &mut [f32]) {
        for (bytes, values) in src.chunks(block_bytes::<C>(block)).zip(dst.chunks_mut(block)) {
            let (head, codes) = bytes.split_at(C::HEAD_BYTES);
            C::decode_block(level, head, codes, values);
        }
    }
}

/// What a block is scaled by.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// What codes are multiplied by.
    pub(crate) value: f32,
    /// What values are multiplied by; 0 for a block of zeros.
    pub(crate) inverse: f32,
}

impl Scale {
    /// The scale under which the largest size of `values` has the code value `top`; `None` where a
    /// value is infinite or NaN.
    #[inline(always)]
    pub(crate) fn of(values: &[f32], top: f32) -> Option<Self> {
        Self::of_largest(largest(values), top)
    }

    #[inline(always)]
    pub(crate) fn of_largest(largest: f32, top: f32) -> Option<Self> {
        if !largest.is_finite() {
            return None;
        }
        if largest == 0.0 {
            return Some(Self { value: 0.0, inverse: 0.0 });
        }
        let largest = largest.max(SMALLEST);
        // Rounded up, the largest number over `top` times `top` would be infinite.
        let value = (largest / top).min(f32::MAX / (1.000_001 * top));
        Some(Self { value, inverse: top / largest })
    }

    /// The scale as it lies in the head of a block.
    #[inline(always)]
    pub(crate) fn read(head: &[u8]) -> f32 {
        head.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
    }
}

/// The largest size, exactly; NaN and infinity are above all numbers.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    // Without the sign, the bits of floats order as integers do, and those have a fast maximum.
    f32::from_bits(values.iter().fold(0, |max, value| max.max(value.to_bits() & 0x7fff_ffff)))
}

/// Writes the scale of a block; its inverse, unless there is nothing left to code.
///
/// A block with a value that is no number gets a scale of NaN, so that all its values decode to
/// NaN: it is seen, and it stays in its block.
#[inline(always)]
pub(crate) fn write_scale(
    values: &[f32],
    top: f32,
    head: &mut [u8],
    codes: &mut [u8],
) -> Option<f32> {
    let scale = Scale::of(values, top);
    head.copy_from_slice(&scale.map_or(f32::NAN, |scale| scale.value).to_le_bytes());
    if scale.is_none() {
        codes.fill(0);
    }
    scale.map(|scale| scale.inverse)
}

/// Codes one block whose head is an f32 scale.
#[inline(always)]
pub(crate) fn encode_scaled<const BITS: usize, const HIGH_FIRST: bool>(
    values: &[f32],
    top: f32,
    head: &mut [u8],
    codes: &mut [u8],
    rounding: Rounding,
    nearest: impl Fn(f32) -> u8,
    stochastic: impl Fn(f32, u32) -> u8,
) {
    let Some(inverse) = write_scale(values, top, head, codes) else { return };
    match rounding {
        Rounding::Nearest => {
            pack::from_values::<BITS, HIGH_FIRST>(values, codes, |x| nearest(x * inverse));
        }
        Rounding::Stochastic { key, first_index } => {
            let draws = Draws::new(key, first_index);
            let code = |x: f32, random| stochastic(x * inverse, random);
            pack::from_draws::<BITS, HIGH_FIRST>(values, codes, draws, code);
        }
    }
}

/// Decodes one block whose head is an f32 scale.
#[inline(always)]
pub(crate) fn decode_scaled<const BITS: usize, const HIGH_FIRST: bool>(
    head: &[u8],
    codes: &[u8],
    values: &mut [f32],
    value: impl Fn(u8) -> f32,
) {
    let scale = Scale::read(head);
    pack::to_values::<BITS, HIGH_FIRST>(codes, values, |code| value(code) * scale);
}
