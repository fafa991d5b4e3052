//! `tq1_0`: ternary values, five in a byte, an f16 scale for every 256 of a row: GGUF's own layout.
//!
//! scale = absmax, trit = round(x / absmax) + 1, value = (trit - 1) * f16(scale). A byte is the
//! number q of its trits in base 3, stretched to 256 q / 243 rounded up, so that each trit is read with
//! a multiplication: 32 bytes with value 32 n + m of the first 160, 16 with 160 + 16 n + m of the
//! next 80, 4 with 240 + 4 n + m of the last 16, which are four to a byte.
//! Block 256: 54 bytes, the scale last: 1.6875 bits per value.
//! Source: the ggml library, whose codes these are to the bit. See `tq2_0` for what is lossless.

use super::fixed::{FixedCode, padded};
use super::tq2_0::{read_scale, trits};
use crate::Rounding;

/// Where the three parts start and end, and how many trits a byte of each has: (first value, first
/// byte, bytes, trits).
const PARTS: [(usize, usize, usize, usize); 3] = [(0, 0, 32, 5), (160, 32, 16, 5), (240, 48, 4, 4)];

#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub(crate) struct Tq1_0;

impl FixedCode for Tq1_0 {
    const NAME: &'static str = "tq1_0";
    const ID: u16 = 18;
    const VALUES: usize = 256;
    const BYTES: usize = 54;

    #[inline(always)]
    fn encode_block(_tensor: f32, values: &[f32], block: &mut [u8], rounding: Rounding) {
        let (codes, scale) = block.split_at_mut(52);
        let trits = trits(&padded(values), scale, rounding);
        for (value, byte, bytes, count) in PARTS {
            for m in 0..bytes {
                let digit = |n: usize| if n < count { trits[value + bytes * n + m] } else { 0 };
                let number = (0..5).fold(0, |number, n| 3 * number + u32::from(digit(n)));
                codes[byte + m] = (256 * number).div_ceil(243) as u8;
            }
        }
    }

    #[inline(always)]
    fn decode_block(_tensor: f32, block: &[u8], values: &mut [f32]) {
        let (codes, scale) = block.split_at(52);
        let scale = read_scale(scale);
        let mut all = [0.0; 256];
        for (value, byte, bytes, count) in PARTS {
            let mut power = 1u8;
            for n in 0..count {
                for m in 0..bytes {
                    let rest = codes[byte + m].wrapping_mul(power);
                    let trit = (u16::from(rest) * 3) >> 8;
                    all[value + bytes * n + m] = (i32::from(trit) - 1) as f32 * scale;
                }
                power *= 3;
            }
        }
        values.copy_from_slice(&all[..values.len()]);
    }
}
