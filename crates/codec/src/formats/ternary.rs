//! `ternary`: -1, 0 and 1 times the mean size of the tensor, in 2 bits: the weights of BitNet b1.58.
//!
//! gamma = max(mean |x|, 1e-5), an f32, the header; code = clamp(round(x / gamma), -1, 1) + 1, value =
//! (code - 1) * gamma. Four codes in a byte, the first in the low bits; a row starts a new byte.
//! 2 bits per value and 4 bytes per tensor.
//! Stochastic rounding is unbiased for sizes up to gamma alone: what is larger is cut off. A value
//! that is no number does not count in gamma and becomes 0, for one code cannot mark it.
//! Source: Ma et al., The Era of 1-bit LLMs (arXiv 2402.17764).

use super::fixed::FixedCode;
use crate::Rounding;
use crate::element::{int, pack};
use crate::rng::Draws;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ternary;

impl FixedCode for Ternary {
    const NAME: &'static str = "ternary";
    const ID: u16 = 17;
    const VALUES: usize = 64;
    const BYTES: usize = 16;
    const TENSOR_SCALE: Option<fn(&[f32]) -> f32> = Some(gamma);

    #[inline(always)]
    fn encode_block(gamma: f32, values: &[f32], block: &mut [u8], rounding: Rounding) {
        let inverse = if gamma > 0.0 { (1.0 / gamma).min(f32::MAX) } else { 0.0 };
        // Beyond both ends all is the same; NaN fails both comparisons.
        let scaled = |x: f32| {
            let scaled = x * inverse;
            if scaled > -2.0 && scaled < 2.0 { scaled } else { 2.0f32.copysign(scaled) }
        };
        let scaled = |x: f32| if x.is_finite() { scaled(x) } else { 0.0 };
        let code = |whole: i32| (whole.clamp(-1, 1) + 1) as u8;
        // Codes of 1 stand for the zeros of a short block.
        block.fill(0x55);
        match rounding {
            Rounding::Nearest => {
                let code = |x| code(int::nearest(scaled(x)));
                pack::from_values::<2, false>(values, block, code);
            }
            Rounding::Stochastic { key, first_index } => {
                let draws = Draws::new(key, first_index);
                let code = |x, random| code(int::stochastic(scaled(x), random));
                pack::from_draws::<2, false>(values, block, draws, code);
            }
        }
    }

    #[inline(always)]
    fn decode_block(gamma: f32, block: &[u8], values: &mut [f32]) {
        let value = |code| (i32::from(code) - 1) as f32 * gamma;
        pack::to_values::<2, false>(block, values, value);
    }
}

/// The mean size of the finite values, summed in f64 so that no tensor is too long.
fn gamma(values: &[f32]) -> f32 {
    let finite = values.iter().filter(|value| value.is_finite());
    let (count, sum) =
        finite.fold((0u64, 0.0), |(count, sum), value| (count + 1, sum + f64::from(value.abs())));
    (sum / count.max(1) as f64).max(1e-5) as f32
}
