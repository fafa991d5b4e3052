//! `f16`: IEEE half precision: its sign, 5 exponent bits, 10 bits of fraction.
//!
//! 2 bytes per value, little-endian; relative error at most 2^-11 to nearest from 6.1e-5 to 65504,
//! steps of 2^-24 below, infinity above. What GGUF and many published weights are stored in.

use crate::{Codec, Layout, Rounding, element};

/// 16-bit floats of IEEE 754.
#[derive(Clone, Copy, Debug)]
pub struct F16;

impl Codec for F16 {
    fn name(&self) -> &'static str {
        "f16"
    }

    fn id(&self) -> u16 {
        3
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        Layout::blocks(shape, 1, 2)
    }

    fn encode(&self, src: &[f32], _header: &[u8], dst: &mut [u8], rounding: Rounding) {
        let dst = dst.as_chunks_mut().0;
        match rounding {
            Rounding::Nearest => element::f16::pack(src, dst),
            Rounding::Stochastic { key, first_index } => {
                element::f16::pack_stochastic(src, dst, key, first_index);
            }
        }
    }

    fn decode(&self, src: &[u8], _header: &[u8], dst: &mut [f32]) {
        element::f16::unpack(src.as_chunks().0, dst);
    }
}
