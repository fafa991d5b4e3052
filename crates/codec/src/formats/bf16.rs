//! `bf16`: the upper half of a 32-bit float: its sign, its 8 exponent bits, 7 bits of fraction.
//!
//! 2 bytes per value, little-endian; relative error at most 2^-8 to nearest, same range as f32.
//! An update smaller than half a step is lost to nearest rounding, so parameters kept in it want
//! stochastic rounding.

use crate::{Codec, Layout, Rounding, element};

/// 16-bit floats with the range of `f32`.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

impl Codec for Bf16 {
    fn name(&self) -> &'static str {
        "bf16"
    }

    fn id(&self) -> u16 {
        1
    }

    fn keeps_positive(&self) -> bool {
        true
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        Layout::blocks(shape, 1, 2)
    }

    fn encode(&self, src: &[f32], _header: &[u8], dst: &mut [u8], rounding: Rounding) {
        let dst = dst.as_chunks_mut().0;
        match rounding {
            Rounding::Nearest => element::bf16::pack(src, dst),
            Rounding::Stochastic { key, first_index } => {
                element::bf16::pack_stochastic(src, dst, key, first_index);
            }
        }
    }

    fn decode(&self, src: &[u8], _header: &[u8], dst: &mut [f32]) {
        element::bf16::unpack(src.as_chunks().0, dst);
    }
}
