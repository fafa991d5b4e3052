//! `q8_0`: 8-bit integers with an f16 scale for every 32 values of a row: GGUF's own byte layout.
//!
//! scale = f16(absmax / 127), code = round(x * 127 / absmax), value = code * scale.
//! Block 32: 34 bytes, the scale first: 8.5 bits per value. A last block of a row that is not full
//! is padded with zeros; GGUF itself has no such rows.
//! Source: the ggml library, whose codes these are to the bit: ties of the nearest rounding go away
//! from zero, and codes are made with the scale before its own rounding. A block with a value that
//! is no number gets a scale of NaN.

use super::fixed::FixedCode;
use super::scaled::largest;
use crate::Rounding;
use crate::element::{f16, int, pack};
use crate::rng::Draws;

/// 8-bit integers in blocks of 32, as in GGUF.
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub(crate) struct Q8_0;

impl FixedCode for Q8_0 {
    const NAME: &'static str = "q8_0";
    const ID: u16 = 4;
    const VALUES: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    fn encode_block(_tensor: f32, values: &[f32], block: &mut [u8], rounding: Rounding) {
        let largest = largest(values);
        let scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
        let stored = f16::round(scale);
        let (head, codes) = block.split_at_mut(2);
        head.copy_from_slice(&stored.to_le_bytes());
        let (codes, padding) = codes.split_at_mut(values.len());
        padding.fill(0);
        match rounding {
            _ if scale.is_nan() => codes.fill(0),
            Rounding::Nearest => {
                let inverse = inverse(scale);
                let code = |x: f32| int::nearest((x * inverse).round()) as u8;
                pack::from_values::<8, false>(values, codes, code);
            }
            Rounding::Stochastic { key, first_index } => {
                // The stored scale, else the mean would be off by the rounding of the scale.
                let inverse = inverse(f16::expand(stored));
                let draws = Draws::new(key, first_index);
                let code = |x: f32, random| {
                    let scaled = (x * inverse).clamp(-127.0, 127.0);
                    int::stochastic(scaled, random).clamp(-127, 127) as u8
                };
                pack::from_draws::<8, false>(values, codes, draws, code);
            }
        }
    }

    #[inline(always)]
    fn decode_block(_tensor: f32, block: &[u8], values: &mut [f32]) {
        let scale = f16::expand(u16::from_le_bytes([block[0], block[1]]));
        let value = |code| f32::from(code as i8) * scale;
        pack::to_values::<8, false>(&block[2..], values, value);
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { (1.0 / scale).min(f32::MAX) }
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
