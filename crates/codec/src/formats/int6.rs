//! `int6`: symmetric 6-bit integers, an f32 scale for every 64 values.
//!
//! code = round(x * 31 / absmax), value = code * scale, scale = absmax / 31. Four codes in three
//! bytes, two's complement, the first in the low bits.
//! Block 64: 52 bytes, the scale first: 6.5 bits per value; `int6/256`: 6.125 bits.
//! Between `int8` and `int4`, for keys and values that int4 spoils.

use super::scaled::{BlockCode, decode_scaled, encode_scaled};
use crate::element::int;
use crate::{Level, Rounding};

const TOP: f32 = 31.0;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int6;

impl BlockCode for Int6 {
    const NAME: &'static str = "int6";
    const ID: u16 = 6;
    const BLOCK: usize = 64;
    const BITS: usize = 6;

    #[inline(always)]
    fn encode_block(
        _level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        encode_scaled::<6, false>(
            values,
            TOP,
            head,
            codes,
            rounding,
            |x| int::nearest(x) as u8,
            |x, random| int::stochastic(x, random).clamp(-31, 31) as u8,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<6, false>(head, codes, values, |code| int::sign_extend::<6>(code) as f32);
    }
}
