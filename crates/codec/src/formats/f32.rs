//! `f32`: 32-bit floats as they are, little-endian.
//!
//! 4 bytes per value; every value and every bit pattern survives. Used in place where the memory
//! order of the machine is little-endian.

use crate::{Codec, Layout, Rounding};

/// 32-bit floats.
#[derive(Clone, Copy, Debug)]
pub struct F32;

impl Codec for F32 {
    fn name(&self) -> &'static str {
        "f32"
    }

    fn id(&self) -> u16 {
        0
    }

    fn keeps_positive(&self) -> bool {
        true
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        Layout::blocks(shape, 1, 4)
    }

    fn encode(&self, src: &[f32], _header: &[u8], dst: &mut [u8], _rounding: Rounding) {
        for (value, code) in src.iter().zip(dst.as_chunks_mut().0) {
            *code = value.to_le_bytes();
        }
    }

    fn decode(&self, src: &[u8], _header: &[u8], dst: &mut [f32]) {
        for (code, value) in src.as_chunks().0.iter().zip(dst) {
            *value = f32::from_le_bytes(*code);
        }
    }

    fn is_plain_f32(&self) -> bool {
        cfg!(target_endian = "little")
    }
}
