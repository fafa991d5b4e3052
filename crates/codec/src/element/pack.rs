//! Codes of 2, 4, 6 and 8 bits in bytes: the first code in the lowest bits of its byte.
//!
//! Only bitsandbytes has the first of two nibbles on top: `HIGH_FIRST`.

use crate::rng::Draws;

/// Codes made at once, between the arithmetic and the packing: few enough for the first cache.
const TILE: usize = 256;
/// Codes that stay in registers where their arithmetic is short.
const SHORT: usize = 64;

/// Packs `code(value)` of each value; spare bits of the last byte are zero.
#[inline(always)]
pub fn from_values<const BITS: usize, const HIGH_FIRST: bool>(
    values: &[f32],
    bytes: &mut [u8],
    code: impl Fn(f32) -> u8,
) {
    if BITS == 8 {
        for (value, slot) in values.iter().zip(bytes) {
            *slot = code(*value);
        }
        return;
    }
    let (whole, rest) = values.as_chunks::<SHORT>();
    let (tiles, tail) = bytes.split_at_mut(whole.len() * SHORT * BITS / 8);
    for (values, bytes) in whole.iter().zip(tiles.chunks_exact_mut(SHORT * BITS / 8)) {
        let codes: [u8; SHORT] = values.map(&code);
        pack_codes::<BITS, HIGH_FIRST>(&codes, bytes);
    }
    if !rest.is_empty() {
        let mut codes = [0; SHORT];
        for (value, slot) in rest.iter().zip(&mut codes) {
            *slot = code(*value);
        }
        pack_codes::<BITS, HIGH_FIRST>(&codes, tail);
    }
}

/// Packs `code(value, draw)` of each value and its draw.
#[inline(always)]
pub fn from_draws<const BITS: usize, const HIGH_FIRST: bool>(
    values: &[f32],
    bytes: &mut [u8],
    draws: Draws,
    code: impl Fn(f32, u32) -> u8,
) {
    if BITS == 8 {
        return each_draw(0, values, bytes, draws, code);
    }
    let mut codes = [0; TILE];
    let tiles = values.chunks(TILE).zip(bytes.chunks_mut(TILE * BITS / 8));
    for (t, (values, bytes)) in tiles.enumerate() {
        each_draw((t * TILE) as u32, values, &mut codes, draws, &code);
        // The codes of a longer tile before this one are not its own.
        let end = values.len().next_multiple_of(8);
        codes[values.len()..end].fill(0);
        pack_codes::<BITS, HIGH_FIRST>(&codes[..end], bytes);
    }
}

/// A loop of unknown length: one of known length is unrolled before it is vectorised, and badly
/// with as much arithmetic as this.
#[inline(always)]
fn each_draw(
    first: u32,
    values: &[f32],
    codes: &mut [u8],
    draws: Draws,
    code: impl Fn(f32, u32) -> u8,
) {
    for ((value, slot), i) in values.iter().zip(codes).zip(first..) {
        *slot = code(*value, draws.at(i));
    }
}

/// Sets each value to `value(code)`.
#[inline(always)]
pub fn to_values<const BITS: usize, const HIGH_FIRST: bool>(
    bytes: &[u8],
    values: &mut [f32],
    value: impl Fn(u8) -> f32,
) {
    if BITS == 8 {
        return each_value(bytes, values, value);
    }
    let mut codes = [0; TILE];
    for (values, bytes) in values.chunks_mut(TILE).zip(bytes.chunks(TILE * BITS / 8)) {
        unpack_codes::<BITS, HIGH_FIRST>(bytes, &mut codes);
        each_value(&codes, values, &value);
    }
}

#[inline(always)]
fn each_value(codes: &[u8], values: &mut [f32], value: impl Fn(u8) -> f32) {
    for (code, slot) in codes.iter().zip(values) {
        *slot = value(*code);
    }
}

/// Packs as many of the codes as `bytes` has room for; bits above the code are cut off.
#[inline(always)]
fn pack_codes<const BITS: usize, const HIGH_FIRST: bool>(codes: &[u8], bytes: &mut [u8]) {
    match BITS {
        2 => {
            for (codes, byte) in codes.as_chunks::<4>().0.iter().zip(bytes) {
                let codes = u32::from_le_bytes(*codes) & 0x0303_0303;
                *byte = (codes | codes >> 6 | codes >> 12 | codes >> 18) as u8;
            }
        }
        4 => {
            for (codes, byte) in codes.as_chunks::<2>().0.iter().zip(bytes) {
                let codes = u16::from_le_bytes(*codes) & 0x0f0f;
                let swapped = if HIGH_FIRST { codes.rotate_left(8) } else { codes };
                *byte = (swapped | swapped >> 4) as u8;
            }
        }
        _ => {
            for (codes, bytes) in codes.as_chunks().0.iter().zip(bytes.chunks_mut(3)) {
                let packed = pack_six(*codes);
                match bytes.first_chunk_mut() {
                    Some(bytes) => *bytes = packed,
                    None => bytes.copy_from_slice(&packed[..bytes.len()]),
                }
            }
        }
    }
}

#[inline(always)]
fn pack_six(codes: [u8; 4]) -> [u8; 3] {
    let codes = u32::from_le_bytes(codes) & 0x3f3f_3f3f;
    let lower = codes & 0x3f | codes >> 2 & 0xfc0;
    let [a, b, c, _] = (lower | codes >> 4 & 0x3_f000 | codes >> 6 & 0xfc_0000).to_le_bytes();
    [a, b, c]
}

#[inline(always)]
fn unpack_six([a, b, c]: [u8; 3]) -> [u8; 4] {
    let word = u32::from_le_bytes([a, b, c, 0]);
    let lower = word & 0x3f | word << 2 & 0x3f00;
    (lower | word << 4 & 0x3f_0000 | word << 6 & 0x3f00_0000).to_le_bytes()
}

/// Unpacks the codes that `bytes` has; the rest stays.
#[inline(always)]
fn unpack_codes<const BITS: usize, const HIGH_FIRST: bool>(bytes: &[u8], codes: &mut [u8; TILE]) {
    match BITS {
        2 => {
            for (codes, byte) in codes.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
                let byte = u32::from(*byte);
                let spread = byte | byte << 6 | byte << 12 | byte << 18;
                *codes = (spread & 0x0303_0303).to_le_bytes();
            }
        }
        4 => {
            for (codes, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
                let byte = u16::from(*byte);
                let spread = (byte | byte << 4) & 0x0f0f;
                *codes = if HIGH_FIRST { spread.rotate_left(8) } else { spread }.to_le_bytes();
            }
        }
        _ => {
            for (codes, bytes) in codes.as_chunks_mut::<4>().0.iter_mut().zip(bytes.chunks(3)) {
                *codes = unpack_six([0, 1, 2].map(|i| bytes.get(i).copied().unwrap_or(0)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<const BITS: usize, const HIGH_FIRST: bool>() {
        for n in [0, 1, 3, 4, 63, 64, 65, 130] {
            let values: Vec<f32> = (0..n).map(|i| (i * 7 % (1 << BITS)) as f32).collect();
            let mut bytes = vec![0xaa; (n * BITS).div_ceil(8)];
            from_values::<BITS, HIGH_FIRST>(&values, &mut bytes, |value| value as u8);
            let mut back = vec![-1.0; n];
            to_values::<BITS, HIGH_FIRST>(&bytes, &mut back, f32::from);
            assert_eq!(values, back, "{BITS} bits, {n}");
        }
    }

    #[test]
    fn every_width_comes_back() {
        there_and_back::<2, false>();
        there_and_back::<4, false>();
        there_and_back::<4, true>();
        there_and_back::<6, false>();
        there_and_back::<8, false>();
    }

    #[test]
    fn the_first_code_is_in_the_low_bits_unless_said() {
        let (mut low, mut high, mut six) = ([0], [0], [0; 3]);
        from_values::<4, false>(&[1.0, 2.0], &mut low, |value| value as u8);
        from_values::<4, true>(&[1.0, 2.0], &mut high, |value| value as u8);
        from_values::<6, false>(&[1.0, 2.0, 3.0, 63.0], &mut six, |value| value as u8);
        assert_eq!((low, high), ([0x21], [0x12]));
        assert_eq!(six, [0x81, 0x30, 0xfc]);
    }
}
