//! `int8-dynamic`: 8-bit codes of seven decades, an f32 absmax for every 256 values.
//!
//! code = the level nearest to x / absmax, value = level * absmax. The 256 levels (see
//! [`codebook`](crate::element::codebook)) reach from 5.5e-7 to 1, finer where they are larger, so that values far below the
//! largest of their block keep some digits: what linear codes make 0 in second moments.
//! Block 256: 260 bytes, the absmax first: 8.125 bits per value; `int8-dynamic/2048`: 8.016 bits.
//! `unsigned`: twice as many positive levels, from 3.25e-7. A positive value never becomes 0: it
//! becomes at least the smallest level, with either rounding. Negative values become 0.
//! Stochastic rounding is unbiased but for values within 0.7 % of a negative absmax, which has no
//! level of its own.
//! Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization (arXiv 2110.02861); maps
//! and codes are those of bitsandbytes.

use super::scaled::{BlockCode, Scale, Scaled, write_scale};
use crate::element::codebook::{
    decode_dynamic, decode_dynamic_unsigned, encode_dynamic, encode_dynamic_unsigned,
};
use crate::{Format, Level, Rounding, Sign};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Dynamic;

impl BlockCode for Int8Dynamic {
    const NAME: &'static str = "int8-dynamic";
    const ID: u16 = 5;
    const BLOCK: usize = 256;
    const BITS: usize = 8;

    fn for_sign(block: usize, sign: Sign) -> Option<Format> {
        for_sign(block, sign)
    }

    #[inline(always)]
    fn encode_block(
        level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        if let Some(inverse) = write_scale(values, 1.0, head, codes) {
            encode_dynamic(level, values, inverse, codes, rounding);
        }
    }

    #[inline(always)]
    fn decode_block(level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_dynamic(level, codes, Scale::read(head), values);
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8DynamicUnsigned;

impl BlockCode for Int8DynamicUnsigned {
    const NAME: &'static str = Int8Dynamic::NAME;
    const ID: u16 = Int8Dynamic::ID;
    const BLOCK: usize = Int8Dynamic::BLOCK;
    const BITS: usize = 8;
    const SIGN: Sign = Sign::Unsigned;
    const KEEPS_POSITIVE: bool = true;

    fn for_sign(block: usize, sign: Sign) -> Option<Format> {
        for_sign(block, sign)
    }

    #[inline(always)]
    fn encode_block(
        level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        if let Some(inverse) = write_scale(values, 1.0, head, codes) {
            encode_dynamic_unsigned(level, values, inverse, codes, rounding);
        }
    }

    #[inline(always)]
    fn decode_block(level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_dynamic_unsigned(level, codes, Scale::read(head), values);
    }
}

fn for_sign(block: usize, sign: Sign) -> Option<Format> {
    match sign {
        Sign::Signed => Scaled::with_block(Int8Dynamic, block),
        Sign::Unsigned => Scaled::with_block(Int8DynamicUnsigned, block),
    }
}
