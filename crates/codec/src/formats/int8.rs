//! `int8`: symmetric 8-bit integers, an f32 scale for every 64 values.
//!
//! code = round(x * 127 / absmax), value = code * scale, scale = absmax / 127; -128 is never made.
//! Block 64: 68 bytes, the scale first: 8.5 bits per value; `int8/256`: 8.125 bits.
//! `unsigned`: codes 0 to 255 of scale absmax / 255. A positive value never becomes 0: below half
//! a step it becomes the smallest code, with either rounding. Negative values become 0.
//! Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization (arXiv 2110.02861).
//! Differs from the paper: a linear code, not the dynamic one (see `int8-dynamic`).

use super::scaled::{BlockCode, Scaled, decode_scaled, encode_scaled};
use crate::element::int;
use crate::{Format, Level, Rounding, Sign};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8;

impl BlockCode for Int8 {
    const NAME: &'static str = "int8";
    const ID: u16 = 2;
    const BLOCK: usize = 64;
    const BITS: usize = 8;

    fn for_sign(block: usize, sign: Sign) -> Option<Format> {
        for_sign(block, sign)
    }

    #[inline(always)]
    fn encode_block(
        _level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        encode_scaled::<8, false>(
            values,
            127.0,
            head,
            codes,
            rounding,
            |x| int::nearest(x) as u8,
            |x, random| int::stochastic(x, random).clamp(-127, 127) as u8,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<8, false>(head, codes, values, |code| f32::from(code as i8));
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Unsigned;

impl BlockCode for Int8Unsigned {
    const NAME: &'static str = Int8::NAME;
    const ID: u16 = Int8::ID;
    const BLOCK: usize = Int8::BLOCK;
    const BITS: usize = 8;
    const SIGN: Sign = Sign::Unsigned;
    const KEEPS_POSITIVE: bool = true;

    fn for_sign(block: usize, sign: Sign) -> Option<Format> {
        for_sign(block, sign)
    }

    #[inline(always)]
    fn encode_block(
        _level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        let least = |x: f32| i32::from(x > 0.0);
        encode_scaled::<8, false>(
            values,
            255.0,
            head,
            codes,
            rounding,
            |x| int::nearest(x).max(least(x)) as u8,
            |x, random| int::stochastic(x, random).max(least(x)).min(255) as u8,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<8, false>(head, codes, values, f32::from);
    }
}

fn for_sign(block: usize, sign: Sign) -> Option<Format> {
    match sign {
        Sign::Signed => Scaled::with_block(Int8, block),
        Sign::Unsigned => Scaled::with_block(Int8Unsigned, block),
    }
}
