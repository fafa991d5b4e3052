//! `mxfp4`: E2M1 codes under a power of two for every 32 values of a row: GGUF's own byte layout.
//!
//! scale = 2^(floor(log2 absmax) - 2), stored as its exponent + 127 (E8M0); code = E2M1(x / scale),
//! value = code * scale. Value i has the low bits of code byte i, value i + 16 the high ones.
//! Block 32: 17 bytes, the scale first: 4.25 bits per value.
//! The rule of the scale cuts off what is above 6 of it (up to 8): nearest rounding does so, as
//! the OCP MX specification says; stochastic rounding doubles the scale then and stays unbiased.
//! Differs from ggml: ties go to the even code, not towards zero, and a scale byte of 255 is NaN,
//! which marks a block with a value that is no number.

use super::fixed::{FixedCode, padded};
use super::scaled::largest;
use crate::Rounding;
use crate::element::minifloat::E2M1;
use crate::element::pack;
use crate::rng::Draws;

/// The scale byte of NaN.
const NAN: u8 = 0xff;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mxfp4;

impl FixedCode for Mxfp4 {
    const NAME: &'static str = "mxfp4";
    const ID: u16 = 15;
    const VALUES: usize = 32;
    const BYTES: usize = 17;

    #[inline(always)]
    fn encode_block(_tensor: f32, values: &[f32], block: &mut [u8], rounding: Rounding) {
        let values = padded::<32>(values);
        let largest = largest(&values);
        block.fill(0);
        if !largest.is_finite() {
            block[0] = NAN;
            return;
        }
        let exponent = (largest.to_bits() >> 23).saturating_sub(2);
        let cut_off = largest * power_of_two(254 - exponent) > E2M1::MAX;
        let doubled = cut_off && matches!(rounding, Rounding::Stochastic { .. });
        let exponent = exponent + u32::from(doubled);
        let inverse = power_of_two(254 - exponent);
        block[0] = exponent as u8;
        write_nibbles(&codes(&values, inverse, rounding), &mut block[1..]);
    }

    #[inline(always)]
    fn decode_block(_tensor: f32, block: &[u8], values: &mut [f32]) {
        let scale = if block[0] == NAN { f32::NAN } else { power_of_two(block[0].into()) };
        let mut all = [0.0; 32];
        read_nibbles(&block[1..], scale, &mut all);
        values.copy_from_slice(&all[..values.len()]);
    }
}

/// 2^(exponent - 127).
#[inline(always)]
fn power_of_two(exponent: u32) -> f32 {
    f32::from_bits(if exponent == 0 { 0x0040_0000 } else { exponent << 23 })
}

/// The codes of `values` times `inverse`; no negative zero, which ggml does not make.
#[inline(always)]
pub(super) fn codes<const N: usize>(
    values: &[f32; N],
    inverse: f32,
    rounding: Rounding,
) -> [u8; N] {
    let mut codes = [0; N];
    match rounding {
        Rounding::Nearest => {
            let code = |x: f32| positive_zero(E2M1::nearest(x * inverse));
            pack::from_values::<8, false>(values, &mut codes, code);
        }
        Rounding::Stochastic { key, first_index } => {
            let draws = Draws::new(key, first_index);
            let code = |x: f32, random| positive_zero(E2M1::stochastic(x * inverse, random));
            pack::from_draws::<8, false>(values, &mut codes, draws, code);
        }
    }
    codes
}

#[inline(always)]
fn positive_zero(code: u8) -> u8 {
    if code == 8 { 0 } else { code }
}

/// Two halves of codes side by side: the first in the low bits.
#[inline(always)]
pub(super) fn write_nibbles(codes: &[u8], bytes: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = low | high << 4;
    }
}

/// The values of two halves of codes side by side.
#[inline(always)]
pub(super) fn read_nibbles(bytes: &[u8], scale: f32, values: &mut [f32]) {
    let (low, high) = values.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = E2M1::value(byte & 15) * scale;
        *high = E2M1::value(byte >> 4) * scale;
    }
}
