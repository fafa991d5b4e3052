//! `nf4`: 16 quantiles of the normal distribution, an f32 absmax for every 64 values.
//!
//! code = the level nearest to x / absmax, value = level * absmax. Two codes in a byte, the first
//! in the *high* bits, as bitsandbytes packs them.
//! Block 64: 36 bytes, the absmax first: 4.5 bits per value; `nf4-dq` codes the absmaxes as well.
//! Source: Dettmers et al., QLoRA (arXiv 2305.14314); levels and codes are those of bitsandbytes,
//! which keeps the absmaxes in an array of their own.

use super::scaled::{BlockCode, Scale, write_scale};
use crate::element::codebook::{decode_nf4, encode_nf4};
use crate::{Level, Rounding};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Nf4;

impl BlockCode for Nf4 {
    const NAME: &'static str = "nf4";
    const ID: u16 = 10;
    const BLOCK: usize = 64;
    const BITS: usize = 4;

    #[inline(always)]
    fn encode_block(
        level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        if let Some(inverse) = write_scale(values, 1.0, head, codes) {
            encode_nf4(level, values, inverse, codes, rounding);
        }
    }

    #[inline(always)]
    fn decode_block(level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        decode_nf4(level, codes, Scale::read(head), values);
    }
}
