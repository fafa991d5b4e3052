//! `e2m1`: floats of 2 exponent bits and 1 fraction bit, an f32 scale for every 64 values.
//!
//! code = E2M1(x * 6 / absmax), value = code * scale, scale = absmax / 6; the sizes are 0, 0.5, 1,
//! 1.5, 2, 3, 4 and 6. Two codes in a byte, the first in the low bits.
//! Block 64: 36 bytes, the scale first: 4.5 bits per value. `mxfp4` and `nvfp4` have the same
//! codes under cheaper scales.

use super::scaled::{BlockCode, decode_scaled, encode_scaled};
use crate::element::minifloat::E2M1;
use crate::{Level, Rounding};

#[derive(Clone, Copy, Debug)]
pub(crate) struct E2M1Scaled;

impl BlockCode for E2M1Scaled {
    const NAME: &'static str = "e2m1";
    const ID: u16 = 14;
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
            E2M1::MAX,
            head,
            codes,
            rounding,
            E2M1::nearest,
            E2M1::stochastic,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<4, false>(head, codes, values, E2M1::value);
    }
}
