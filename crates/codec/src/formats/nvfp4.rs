//! `nvfp4`: E2M1 codes, an E4M3 scale for every 16 values of a row, an f32 scale for the tensor.
//!
//! tensor scale = absmax / (6 * 448), the header; scale of 16 values = E4M3(their absmax / (6 *
//! tensor scale)); code = E2M1(x / both scales), value = code * both. Blocks are ggml's: 64 values,
//! the four scales first, then of each 16 the value i in low and i + 8 in high bits. ggml keeps
//! the scale of the tensor in a tensor of its own.
//! 36 bytes per 64 values: 4.5 bits per value, and 4 bytes per tensor.
//! Stochastic rounding takes the scale above, so that nothing is cut off and the mean is the value.
//! Differs from ggml: a scale byte of 0x7f is NaN, which marks 16 values with one that is no number.
//! Source: NVIDIA, Pretraining Large Language Models with NVFP4 (arXiv 2509.25149).

use super::fixed::{FixedCode, padded};
use super::mxfp4::{codes, read_nibbles, write_nibbles};
use super::scaled::largest;
use crate::Rounding;
use crate::element::minifloat::{E2M1, E4M3};

/// Values under one scale.
const GROUP: usize = 16;
/// The scale byte of NaN.
const NAN: u8 = 0x7f;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Nvfp4;

impl FixedCode for Nvfp4 {
    const NAME: &'static str = "nvfp4";
    const ID: u16 = 16;
    const VALUES: usize = 64;
    const BYTES: usize = 36;
    const TENSOR_SCALE: Option<fn(&[f32]) -> f32> = Some(tensor_scale);

    #[inline(always)]
    fn encode_block(tensor: f32, values: &[f32], block: &mut [u8], rounding: Rounding) {
        let values = padded::<64>(values);
        let (scales, bytes) = block.split_at_mut(4);
        let mut scaled = values;
        for (i, values) in scaled.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            scales[i] = scale_code(largest(values), tensor, rounding);
            let scale = E4M3::value(scales[i]) * tensor;
            let inverse = if scale > 0.0 { (1.0 / scale).min(f32::MAX) } else { 0.0 };
            values.iter_mut().for_each(|x| *x *= inverse);
        }
        let codes = codes(&scaled, 1.0, rounding);
        for (i, codes) in codes.as_chunks::<GROUP>().0.iter().enumerate() {
            let bytes = &mut bytes[8 * i..8 * i + 8];
            match scales[i] {
                NAN => bytes.fill(0),
                _ => write_nibbles(codes, bytes),
            }
        }
    }

    #[inline(always)]
    fn decode_block(tensor: f32, block: &[u8], values: &mut [f32]) {
        let (scales, bytes) = block.split_at(4);
        let mut all = [0.0; 64];
        for (i, values) in all.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let scale = E4M3::value(scales[i] & 0x7f) * tensor;
            read_nibbles(&bytes[8 * i..8 * i + 8], scale, values);
        }
        values.copy_from_slice(&all[..values.len()]);
    }
}

/// The scale of the tensor: the largest scale code, 448, is for its largest finite value.
fn tensor_scale(values: &[f32]) -> f32 {
    let finite = values.iter().filter(|value| value.is_finite());
    finite.fold(0.0f32, |max, value| max.max(value.abs())) / (E2M1::MAX * E4M3::MAX)
}

/// The code of the scale of 16 values: one under which nothing is cut off, if rounding is to be
/// unbiased.
#[inline(always)]
fn scale_code(largest: f32, tensor: f32, rounding: Rounding) -> u8 {
    if !largest.is_finite() {
        return NAN;
    }
    let exact = if tensor > 0.0 { largest / E2M1::MAX / tensor } else { 0.0 };
    let code = E4M3::nearest(exact);
    let below = E4M3::value(code) < exact && matches!(rounding, Rounding::Stochastic { .. });
    (code + u8::from(below)).min(E4M3::TOP)
}
