//! `tq2_0`: ternary values, an f16 scale for every 256 of a row: GGUF's own byte layout.
//!
//! scale = absmax, code = round(x / absmax) + 1 in 2 bits, value = (code - 1) * f16(scale). Half h
//! of a block has its value 32 n + m in bits 2n of byte 32 h + m.
//! Block 256: 66 bytes, the scale last: 2.0625 bits per value. Lossless for weights that already
//! are -1, 0 and 1 times one scale that f16 has; for others see `ternary`.
//! Source: the ggml library, whose codes these are to the bit: ties go away from zero.

use super::fixed::{FixedCode, padded};
use super::scaled::largest;
use crate::Rounding;
use crate::element::{f16, int};
use crate::rng::Draws;

#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub(crate) struct Tq2_0;

impl FixedCode for Tq2_0 {
    const NAME: &'static str = "tq2_0";
    const ID: u16 = 19;
    const VALUES: usize = 256;
    const BYTES: usize = 66;

    #[inline(always)]
    fn encode_block(_tensor: f32, values: &[f32], block: &mut [u8], rounding: Rounding) {
        let (codes, scale) = block.split_at_mut(64);
        let trits = trits(&padded(values), scale, rounding);
        for (trits, codes) in trits.as_chunks::<128>().0.iter().zip(codes.as_chunks_mut::<32>().0) {
            for m in 0..32 {
                let of = |n: usize| trits[32 * n + m] << (2 * n);
                codes[m] = of(0) | of(1) | of(2) | of(3);
            }
        }
    }

    #[inline(always)]
    fn decode_block(_tensor: f32, block: &[u8], values: &mut [f32]) {
        let (codes, scale) = block.split_at(64);
        let scale = read_scale(scale);
        let mut all = [0.0; 256];
        for (values, codes) in
            all.as_chunks_mut::<128>().0.iter_mut().zip(codes.as_chunks::<32>().0)
        {
            for n in 0..4 {
                for m in 0..32 {
                    let code = codes[m] >> (2 * n) & 3;
                    values[32 * n + m] = (i32::from(code) - 1) as f32 * scale;
                }
            }
        }
        values.copy_from_slice(&all[..values.len()]);
    }
}

/// Writes the scale of a block; the codes 0, 1, 2 of its values. With a value that is no number
/// the scale is NaN.
#[inline(always)]
pub(super) fn trits(values: &[f32; 256], scale: &mut [u8], rounding: Rounding) -> [u8; 256] {
    let largest = largest(values);
    let stored = f16::round(if largest.is_finite() { largest } else { f32::NAN });
    scale.copy_from_slice(&stored.to_le_bytes());
    let mut trits = [1; 256];
    if largest == 0.0 || !largest.is_finite() {
        return trits;
    }
    match rounding {
        Rounding::Nearest => {
            let inverse = (1.0 / largest).min(f32::MAX);
            for i in 0..256 {
                let scaled = values[i] * inverse;
                trits[i] = 1 + u8::from(scaled >= 0.5) - u8::from(scaled <= -0.5);
            }
        }
        Rounding::Stochastic { key, first_index } => {
            // The stored scale, else the mean would be off by its rounding.
            let inverse = (1.0 / f16::expand(stored)).min(f32::MAX);
            let draws = Draws::new(key, first_index);
            for i in 0..256 {
                let scaled = (values[i] * inverse).clamp(-1.0, 1.0);
                trits[i] = (int::stochastic(scaled, draws.at(i as u32)) + 1) as u8;
            }
        }
    }
    trits
}

#[inline(always)]
pub(super) fn read_scale(scale: &[u8]) -> f32 {
    scale.first_chunk().map_or(0.0, |bytes| f16::expand(u16::from_le_bytes(*bytes)))
}
