//! `int2`: the integers -1, 0 and 1 in 2 bits, an f32 scale for every 64 values.
//!
//! code = round(x / absmax), value = code * scale, scale = absmax. Four codes in a byte, two's
//! complement, the first in the low bits; -2 is never made.
//! Block 64: 20 bytes, the scale first: 2.5 bits per value. The scale is the largest value, so
//! nearest rounding leaves little but zeros of normal data: for weights see `ternary`.

use super::scaled::{BlockCode, decode_scaled, encode_scaled};
use crate::element::int;
use crate::{Level, Rounding};

const TOP: f32 = 1.0;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int2;

impl BlockCode for Int2 {
    const NAME: &'static str = "int2";
    const ID: u16 = 9;
    const BLOCK: usize = 64;
    const BITS: usize = 2;

    #[inline(always)]
    fn encode_block(
        _level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        encode_scaled::<2, false>(
            values,
            TOP,
            head,
            codes,
            rounding,
            |x| int::nearest(x) as u8,
            |x, random| int::stochastic(x, random).clamp(-1, 1) as u8,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<2, false>(head, codes, values, |code| int::sign_extend::<2>(code) as f32);
    }
}
