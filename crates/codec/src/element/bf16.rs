//! The bf16 code: round to it, expand from it, and whole slices of both.

use half::bf16;

use crate::multiversion;
use crate::rng::bits32;
use crate::simd::Level;

/// The bits of the nearest bf16, ties to even. NaN stays NaN; past the largest value is infinity.
#[inline(always)]
pub fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7fff + odd);
    (if value.is_nan() { quiet(bits) } else { rounded } >> 16) as u16
}

/// The bits of one of the two bf16 around `value`, the upper with the probability of the fraction.
///
/// `random` has 16 random bits at the bottom; the rest is ignored. Exact values stay.
#[inline(always)]
pub fn round_stochastic(value: f32, random: u32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(random & 0xffff);
    (if value.is_nan() { quiet(bits) } else { rounded } >> 16) as u16
}

/// A NaN whose payload may lie in the lower half only must not become infinity.
#[inline(always)]
fn quiet(bits: u32) -> u32 {
    bits | 0x0040_0000
}

/// The value of bf16 bits; exact.
#[inline(always)]
pub fn expand(code: u16) -> f32 {
    f32::from_bits(u32::from(code) << 16)
}

/// Rounds `src` to the nearest codes, little-endian. The shorter length counts.
pub fn pack(src: &[f32], dst: &mut [[u8; 2]]) {
    pack_run(Level::detect(), src, dst);
}

multiversion! {
    fn pack_run(src: &[f32], dst: &mut [[u8; 2]]) {
        for (value, code) in src.iter().zip(dst) {
            *code = round(*value).to_le_bytes();
        }
    }
}

/// Expands little-endian codes. The shorter length counts.
pub fn unpack(src: &[[u8; 2]], dst: &mut [f32]) {
    unpack_run(Level::detect(), src, dst);
}

multiversion! {
    fn unpack_run(src: &[[u8; 2]], dst: &mut [f32]) {
        for (code, value) in src.iter().zip(dst) {
            *value = expand(u16::from_le_bytes(*code));
        }
    }
}

/// Rounds `src` stochastically; value i takes the random bits of `(key, first_index + i)`.
pub fn pack_stochastic(src: &[f32], dst: &mut [[u8; 2]], key: u64, first_index: u64) {
    let len = src.len().min(dst.len());
    let (mut done, mut index) = (0, first_index);
    // The loop counts in 32 bits, which doubles its width: cut where the upper half changes.
    while done < len {
        let left = (1u64 << 32) - (index & 0xffff_ffff);
        let end = done + (len - done).min(usize::try_from(left).unwrap_or(usize::MAX));
        pack_stochastic_run(Level::detect(), &src[done..end], &mut dst[done..end], key, index);
        index = index.wrapping_add((end - done) as u64);
        done = end;
    }
}

multiversion! {
    /// One run in which the upper half of the index is constant.
    fn pack_stochastic_run(src: &[f32], dst: &mut [[u8; 2]], key: u64, first: u64) {
        let upper = first & !0xffff_ffff;
        let mut lower = first as u32;
        for (value, code) in src.iter().zip(dst) {
            let random = bits32(key, upper | u64::from(lower));
            *code = round_stochastic(*value, random).to_le_bytes();
            lower = lower.wrapping_add(1);
        }
    }
}

/// Rounds to the nearest bf16. The shorter length counts.
pub fn from_f32_slice(src: &[f32], dst: &mut [bf16]) {
    from_f32(Level::detect(), src, dst);
}

/// Expands to f32. The shorter length counts.
pub fn to_f32_slice(src: &[bf16], dst: &mut [f32]) {
    to_f32(Level::detect(), src, dst);
}

multiversion! {
    fn from_f32(src: &[f32], dst: &mut [bf16]) {
        for (value, code) in src.iter().zip(dst) {
            *code = bf16::from_bits(round(*value));
        }
    }
}

multiversion! {
    fn to_f32(src: &[bf16], dst: &mut [f32]) {
        for (code, value) in src.iter().zip(dst) {
            *value = expand(code.to_bits());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values around every rounding edge: exact, below, at and above the tie, of odd and even codes.
    fn edges() -> Vec<f32> {
        let lows = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let highs = [0x0000, 0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x7f7f, 0x7f80, 0x7fc0];
        let signed = highs.iter().flat_map(|h| [*h, h | 0x8000]);
        signed.flat_map(|high| lows.map(|low| f32::from_bits(high << 16 | low))).collect()
    }

    #[test]
    fn nearest_agrees_with_the_half_crate_on_every_edge() {
        for value in edges() {
            let (ours, theirs) = (bf16::from_bits(round(value)), bf16::from_f32(value));
            assert_eq!(ours.is_nan(), value.is_nan(), "{value:e}");
            assert!(ours == theirs || value.is_nan(), "{value:e}: {ours} {theirs}");
        }
    }

    #[test]
    fn every_code_survives_both_roundings() {
        for code in 0..=u16::MAX {
            let value = expand(code);
            if !value.is_nan() {
                assert_eq!(round(value), code);
                assert_eq!(round_stochastic(value, 0xffff), code);
            } else {
                assert!(expand(round(value)).is_nan());
            }
        }
    }

    #[test]
    fn stochastic_mean_is_the_value() {
        let (value, n) = (1.0 + 0.3 / 128.0, 200_000);
        let mut codes = vec![[0; 2]; n];
        pack_stochastic(&vec![value; n], &mut codes, 7, 0);
        let mut back = vec![0.0; n];
        unpack(&codes, &mut back);
        let up = back.iter().filter(|x| **x > 1.0).count() as f64 / n as f64;
        // Four standard deviations of a share of 0.3 in 200,000 draws.
        assert!((up - 0.3).abs() < 4.0 * (0.3f64 * 0.7 / n as f64).sqrt(), "{up}");
        assert!(back.iter().all(|x| *x == 1.0 || *x == 1.0 + 1.0 / 128.0));
    }

    #[test]
    fn stochastic_index_crosses_32_bits() {
        let src = [1.001f32; 64];
        let (mut whole, mut parts) = ([[0; 2]; 64], [[0; 2]; 64]);
        let first = (1u64 << 32) - 20;
        pack_stochastic(&src, &mut whole, 3, first);
        for i in 0..64 {
            pack_stochastic(&src[i..=i], &mut parts[i..=i], 3, first + i as u64);
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn slices_agree_with_single_values_at_odd_lengths() {
        for n in [0, 1, 7, 15, 16, 17, 33] {
            let src: Vec<f32> = edges().into_iter().cycle().take(n).collect();
            let mut codes = vec![bf16::ZERO; n];
            from_f32_slice(&src, &mut codes);
            assert!(codes.iter().zip(&src).all(|(c, x)| c.to_bits() == round(*x)));
            let mut back = vec![0.0f32; n];
            to_f32_slice(&codes, &mut back);
            assert!(back.iter().zip(&codes).all(|(x, c)| x.to_bits() >> 16 == c.to_bits().into()));
        }
    }
}
