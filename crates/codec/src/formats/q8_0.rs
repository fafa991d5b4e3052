//! `q8_0`: 8-bit integers with an f16 scale for every 32 values of a row: GGUF's own byte layout.
//!
//! scale = f16(absmax / 127), code = round(x * 127 / absmax), value = code * scale.
//! Block 32: 34 bytes, the scale first: 8.5 bits per value. A last block of a row that is not full
//! is padded with zeros; GGUF itself has no such rows.
//! Source: the ggml library, whose codes these are to the bit: ties of the nearest rounding go away
//! from zero, and codes are made with the scale before its own rounding.

use crate::rng::bits32;
use crate::{Codec, Layout, Rounding, element};

const VALUES: usize = 32;
const BYTES: usize = 2 + VALUES;

/// 8-bit integers in blocks of 32, as in GGUF.
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct Q8_0;

impl Codec for Q8_0 {
    fn name(&self) -> &'static str {
        "q8_0"
    }

    fn id(&self) -> u16 {
        4
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        Layout::blocks(shape, VALUES, BYTES).row_aligned()
    }

    fn encode(&self, src: &[f32], _header: &[u8], dst: &mut [u8], rounding: Rounding) {
        let blocks = dst.as_chunks_mut::<BYTES>().0;
        for (i, (values, block)) in src.chunks(VALUES).zip(blocks).enumerate() {
            encode_block(values, block, rounding.advance(i * VALUES));
        }
    }

    fn decode(&self, src: &[u8], _header: &[u8], dst: &mut [f32]) {
        for (values, block) in dst.chunks_mut(VALUES).zip(src.as_chunks::<BYTES>().0) {
            let scale = element::f16::expand(u16::from_le_bytes([block[0], block[1]]));
            for (value, code) in values.iter_mut().zip(&block[2..]) {
                *value = f32::from(*code as i8) * scale;
            }
        }
    }
}

fn encode_block(values: &[f32], block: &mut [u8; BYTES], rounding: Rounding) {
    let absmax = values.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    let scale = absmax / 127.0;
    let stored = element::f16::round(scale);
    block.fill(0);
    block[..2].copy_from_slice(&stored.to_le_bytes());
    let codes = block[2..].iter_mut().zip(values);
    match rounding {
        Rounding::Nearest => {
            let inverse = inverse(scale);
            codes.for_each(|(code, value)| *code = (value * inverse).round() as i8 as u8);
        }
        Rounding::Stochastic { key, first_index } => {
            // The stored scale, else the mean would be off by the rounding of the scale.
            let inverse = inverse(element::f16::expand(stored));
            for (i, (code, value)) in codes.enumerate() {
                let random = bits32(key, first_index.wrapping_add(i as u64)) >> 8;
                let share = random as f32 / (1 << 24) as f32;
                *code = (value * inverse + share).floor().clamp(-127.0, 127.0) as i8 as u8;
            }
        }
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[cfg(test)]
mod tests {
    use crate::{Format, Packed, Rounding};

    /// Rows of values and their blocks by the reference implementation, one after the other.
    fn golden() -> (Vec<f32>, Vec<u8>) {
        let bytes = include_bytes!("../../../../testdata/golden/q8_0.bin");
        let count = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let (values, blocks) = bytes[4..].split_at(4 * count);
        let values = values.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v));
        (values.collect(), blocks.to_vec())
    }

    #[test]
    fn bytes_are_those_of_the_reference() {
        let (values, blocks) = golden();
        let shape = [values.len() / 64, 64];
        let format = Format::by_name("q8_0").unwrap();
        let packed = Packed::encode(format, shape, &values, Rounding::Nearest).unwrap();
        assert_eq!(packed.bytes().len(), blocks.len());
        for (i, (ours, theirs)) in packed.bytes().chunks(34).zip(blocks.chunks(34)).enumerate() {
            assert_eq!(ours, theirs, "block {i}: {:?}", &values[32 * i..32 * i + 32]);
        }
    }

    #[test]
    fn a_row_starts_a_block_of_its_own() {
        let format = Format::by_name("q8_0").unwrap();
        let mut values = [0.0; 66];
        (values[32], values[33]) = (127.0, 1.0);
        let packed = Packed::encode(format, [2, 33], &values, Rounding::Nearest).unwrap();
        assert_eq!(packed.bytes().len(), 4 * 34);
        assert_eq!(packed.bytes()[34 + 2..34 + 4], [127, 0]);
        assert_eq!(packed.bytes()[68 + 2..68 + 4], [127, 0], "scaled by its own absmax");
    }
}
