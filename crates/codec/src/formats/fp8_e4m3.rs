//! `fp8-e4m3`: floats of 4 exponent and 3 fraction bits, an f32 scale for every 64 values.
//!
//! code = E4M3(x * 448 / absmax), value = code * scale, scale = absmax / 448; no infinity, NaN at
//! 0x7f, which is never made. Relative error at most 2^-4 from absmax / 28672 up, steps below.
//! Block 64: 68 bytes, the scale first: 8.5 bits per value; `fp8-e4m3/256`: 8.125 bits.
//! Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433).

use super::scaled::{BlockCode, decode_scaled, encode_scaled};
use crate::element::minifloat::E4M3;
use crate::{Level, Rounding};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fp8E4M3;

impl BlockCode for Fp8E4M3 {
    const NAME: &'static str = "fp8-e4m3";
    const ID: u16 = 12;
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
            E4M3::MAX,
            head,
            codes,
            rounding,
            E4M3::nearest,
            E4M3::stochastic,
        );
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_scaled::<8, false>(head, codes, values, E4M3::value);
    }
}
