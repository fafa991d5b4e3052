//! CRC32C of parts joined to that of the whole.
//!
//! A checksum is a polynomial over one bit numbers, modulo that of Castagnoli. Bytes behind a part
//! shift it: crc(a b) = crc(a) * x^(8 |b|) + crc(b). Powers come from the squares x, x^2, x^4 .., so
//! that a length costs a product of 32 steps for each of its bits.
//! Source: `crc32_combine` of zlib. `crc32c_combine` squares matrices, some 10 us at each call.

/// The polynomial, its highest power in the lowest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// 1, in that order of bits.
const ONE: u32 = 1 << 31;

/// x to the power of 2^i.
static SQUARES: [u32; 64] = {
    let mut squares = [ONE >> 1; 64];
    let mut i = 1;
    while i < 64 {
        squares[i] = product(squares[i - 1], squares[i - 1]);
        i += 1;
    }
    squares
};

/// The product of two polynomials.
const fn product(a: u32, mut b: u32) -> u32 {
    let (mut sum, mut bit) = (0, ONE);
    while bit != 0 {
        // Masks, for the bits are as good as random.
        sum ^= b & ((a & bit != 0) as u32).wrapping_neg();
        b = b >> 1 ^ POLYNOMIAL & (b & 1).wrapping_neg();
        bit >>= 1;
    }
    sum
}

/// The checksum of bytes with checksum `first` and `second_bytes` more with checksum `second`.
pub(super) fn joined(first: u32, second: u32, second_bytes: usize) -> u32 {
    if first == 0 {
        return second;
    }
    let bits = 8 * second_bytes as u64;
    let set = SQUARES.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
    set.fold(first, |sum, (_, square)| product(sum, *square)) ^ second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_to_the_whole() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let whole = crc32c::crc32c(&bytes);
        for cut in [0, 1, 2, 7, 64, 4096, 65_536, 69_999, 70_000] {
            let (first, second) = bytes.split_at(cut);
            let sums = [first, second].map(crc32c::crc32c);
            assert_eq!(joined(sums[0], sums[1], second.len()), whole, "{cut}");
        }
        for bytes in [1, 3, 1 << 20, 3_000_000_001, usize::MAX >> 4] {
            let expected = crc32c::crc32c_combine(0x1234_5678, 0x9abc_def0, bytes);
            assert_eq!(joined(0x1234_5678, 0x9abc_def0, bytes), expected, "{bytes}");
        }
    }
}
