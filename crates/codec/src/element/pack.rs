//! Codes of 2, 4, 6 and 8 bits in bytes: the first code in the lowest bits of its byte.
//!
//! Only bitsandbytes has the first of two nibbles on top: `HIGH_FIRST`.

/// Codes packed at once: a tile stays in registers.
const TILE: usize = 64;

/// Packs `code(i, value)` of each value; spare bits of the last byte are zero.
#[inline(always)]
pub fn from_values<const BITS: usize, const HIGH_FIRST: bool>(
    values: &[f32],
    bytes: &mut [u8],
    code: impl Fn(u32, f32) -> u8,
) {
    if BITS == 8 {
        for (i, (value, byte)) in values.iter().zip(bytes).enumerate() {
            *byte = code(i as u32, *value);
        }
        return;
    }
    let (whole, rest) = values.as_chunks::<TILE>();
    let (tiles, tail) = bytes.split_at_mut((whole.len() * TILE * BITS / 8).min(bytes.len()));
    for (t, (values, bytes)) in whole.iter().zip(tiles.chunks_exact_mut(8 * BITS)).enumerate() {
        let mut codes = [0; TILE];
        for i in 0..TILE {
            codes[i] = code((t * TILE + i) as u32, values[i]);
        }
        pack_tile::<BITS, HIGH_FIRST>(&codes, bytes);
    }
    if !rest.is_empty() {
        let mut codes = [0; TILE];
        let first = (whole.len() * TILE) as u32;
        for (i, (value, slot)) in rest.iter().zip(&mut codes).enumerate() {
            *slot = code(first + i as u32, *value);
        }
        pack_tile::<BITS, HIGH_FIRST>(&codes, tail);
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
        for (byte, slot) in bytes.iter().zip(values) {
            *slot = value(*byte);
        }
        return;
    }
    let (whole, rest) = values.as_chunks_mut::<TILE>();
    let (tiles, tail) = bytes.split_at((whole.len() * TILE * BITS / 8).min(bytes.len()));
    for (values, bytes) in whole.iter_mut().zip(tiles.chunks_exact(8 * BITS)) {
        let mut codes = [0; TILE];
        unpack_tile::<BITS, HIGH_FIRST>(bytes, &mut codes);
        for i in 0..TILE {
            values[i] = value(codes[i]);
        }
    }
    if !rest.is_empty() {
        let mut codes = [0; TILE];
        unpack_tile::<BITS, HIGH_FIRST>(tail, &mut codes);
        for (slot, code) in rest.iter_mut().zip(codes) {
            *slot = value(code);
        }
    }
}

/// Packs as many of the codes as `bytes` has room for; bits above the code are cut off.
#[inline(always)]
fn pack_tile<const BITS: usize, const HIGH_FIRST: bool>(codes: &[u8; TILE], bytes: &mut [u8]) {
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
            for (codes, bytes) in codes.as_chunks::<4>().0.iter().zip(bytes.chunks_mut(3)) {
                let codes = u32::from_le_bytes(*codes) & 0x3f3f_3f3f;
                let [a, b] = [codes & 0x3f, codes >> 2 & 0xfc0];
                let packed = a | b | codes >> 4 & 0x3_f000 | codes >> 6 & 0xfc_0000;
                bytes.copy_from_slice(&packed.to_le_bytes()[..bytes.len()]);
            }
        }
    }
}

/// Unpacks the codes that `bytes` has; the rest stays.
#[inline(always)]
fn unpack_tile<const BITS: usize, const HIGH_FIRST: bool>(bytes: &[u8], codes: &mut [u8; TILE]) {
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
                let mut word = [0; 4];
                word[..bytes.len()].copy_from_slice(bytes);
                let word = u32::from_le_bytes(word);
                *codes = [0, 6, 12, 18].map(|shift| (word >> shift & 0x3f) as u8);
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
            from_values::<BITS, HIGH_FIRST>(&values, &mut bytes, |_, value| value as u8);
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
        from_values::<4, false>(&[1.0, 2.0], &mut low, |_, value| value as u8);
        from_values::<4, true>(&[1.0, 2.0], &mut high, |_, value| value as u8);
        from_values::<6, false>(&[1.0, 2.0, 3.0, 63.0], &mut six, |_, value| value as u8);
        assert_eq!((low, high), ([0x21], [0x12]));
        assert_eq!(six, [0x81, 0x30, 0xfc]);
    }
}
