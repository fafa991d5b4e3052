//! `fp8-e5m2`: floats of 5 exponent and 2 fraction bits, an f32 scale for every 64 values.
//!
//! code = E5M2(x * 57344 / absmax), value = code * scale, scale = absmax / 57344; infinity and NaN
//! as in IEEE 754, never made. Relative error at most 2^-3 over nine decades.
//! Block 64: 68 bytes, the scale first: 8.5 bits per value; `fp8-e5m2/256`: 8.125 bits.
//! Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433).

use super::scaled::{BlockCode, decode_scaled, encode_scaled};
use crate::element::minifloat::E5M2;
use crate::{Level, Rounding};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fp8E5M2;

impl BlockCode for Fp8E5M2 {
    const NAME: &'static str = "fp8-e5m2";
    const ID: u16 = 13;
    const BLOCK: usize = 64;
    const BITS: usize = 8;

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
            E5M2::MAX,
            head,
            codes,
            rounding,
            E5M2::nearest,
            E5M2::stochastic,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<8, false>(head, codes, values, E5M2::value);
    }
}
