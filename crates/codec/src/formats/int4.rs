//! `int4`: symmetric 4-bit integers, an f32 scale for every 64 values.
//!
//! code = round(x * 7 / absmax), value = code * scale, scale = absmax / 7. Two codes in a byte,
//! two's complement, the first in the low bits; -8 is never made.
//! Block 64: 36 bytes, the scale first: 4.5 bits per value; `int4/256`: 4.125 bits.

use super::scaled::{BlockCode, decode_scaled, encode_scaled};
use crate::element::int;
use crate::{Level, Rounding};

const TOP: f32 = 7.0;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int4;

impl BlockCode for Int4 {
    const NAME: &'static str = "int4";
    const ID: u16 = 7;
    const BLOCK: usize = 64;
    const BITS: usize = 4;

    #[inline(always)]
    fn encode_block(
        _level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        encode_scaled::<4, false>(
            values,
            TOP,
            head,
            codes,
            rounding,
            |x| int::nearest(x) as u8,
            |x, random| int::stochastic(x, random).clamp(-7, 7) as u8,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<4, false>(head, codes, values, |code| int::sign_extend::<4>(code) as f32);
    }
}
