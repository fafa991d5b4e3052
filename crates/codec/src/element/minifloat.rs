//! Floats of 8 and 4 bits: `E4M3` and `E5M2` (OCP FP8, arXiv 2209.05433), `E2M1` (OCP MX).
//!
//! One sign bit, then the exponent, then the fraction; subnormals as in IEEE 754. Rounding
//! saturates: a number past the largest becomes the largest, NaN included, for a code that stands
//! in a block must never be an infinity.

use super::int;

/// A float of `1 + E + M` bits with subnormals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minifloat<const M: u32, const BIAS: u32, const TOP: u32>;

/// 4 bits of exponent, 3 of fraction; largest 448, NaN at `0x7f`.
pub type E4M3 = Minifloat<3, 7, 0x7e>;
/// 5 bits of exponent, 2 of fraction; largest 57344, infinity at `0x7c` and NaN above.
pub type E5M2 = Minifloat<2, 15, 0x7b>;
/// 2 bits of exponent, 1 of fraction: 0, 0.5, 1, 1.5, 2, 3, 4, 6.
pub type E2M1 = Minifloat<1, 1, 7>;

impl<const M: u32, const BIAS: u32, const TOP: u32> Minifloat<M, BIAS, TOP> {
    /// The code without the sign bit is the upper bits of an f32 less this.
    const REBIAS: u32 = (127 - BIAS) << 23;
    /// The smallest normal number, as f32 bits.
    const NORMAL: u32 = (128 - BIAS) << 23;
    /// The power of two whose unit in the last place is the step of subnormals, as f32 bits.
    const MAGIC: u32 = (128 - BIAS + 23 - M) << 23;
    /// The sign bit of the code.
    const SIGN: u32 = if TOP < 8 { 8 } else { 0x80 };
    /// The largest number.
    pub const MAX: f32 = Self::size(TOP);
    /// The code of the largest number.
    pub const TOP: u8 = TOP as u8;

    /// The code nearest to `value`, ties to the even code.
    #[inline(always)]
    pub fn nearest(value: f32) -> u8 {
        let size = value.to_bits() & 0x7fff_ffff;
        let odd = (size >> (23 - M)) & 1;
        let half = (1 << (22 - M)) - 1 + odd;
        let normal = size.wrapping_sub(Self::REBIAS).wrapping_add(half) >> (23 - M);
        let magic = f32::from_bits(Self::MAGIC);
        let subnormal = (f32::from_bits(size) + magic).to_bits().wrapping_sub(Self::MAGIC);
        Self::signed(value, if size < Self::NORMAL { subnormal } else { normal })
    }

    /// One of the two codes around `value`, the one further from zero with the probability of the
    /// fraction, to 16 bits. `random` has 32 random bits. Exact values stay.
    #[inline(always)]
    pub fn stochastic(value: f32, random: u32) -> u8 {
        let size = value.to_bits() & 0x7fff_ffff;
        let normal = size.wrapping_sub(Self::REBIAS).wrapping_add(random >> (9 + M)) >> (23 - M);
        // Steps of subnormals, in units of 2^-16; a power of two is exact.
        let steps = int::nearest(f32::from_bits(size.min(Self::NORMAL)) * Self::STEPS) as u32;
        let subnormal = (steps + (random >> 16)) >> 16;
        Self::signed(value, if size < Self::NORMAL { subnormal } else { normal })
    }

    /// 2^16 over the step of subnormals.
    const STEPS: f32 = f32::from_bits((127 + BIAS - 1 + M + 16) << 23);

    #[inline(always)]
    fn signed(value: f32, size: u32) -> u8 {
        let sign = if value.to_bits() >> 31 == 1 { Self::SIGN } else { 0 };
        (sign | size.min(TOP)) as u8
    }

    /// The value of a code; the codes past the largest are infinity (`E5M2`) and NaN.
    #[inline(always)]
    pub fn value(code: u8) -> f32 {
        let code = u32::from(code);
        let size = code & (Self::SIGN - 1);
        let sign = (code & Self::SIGN) * (0x8000_0000 / Self::SIGN);
        let special = if M == 2 && size == TOP + 1 { 0x7f80_0000 } else { 0x7fc0_0000 };
        let bits = if size > TOP { special } else { Self::size(size).to_bits() };
        f32::from_bits(sign | bits)
    }

    #[inline(always)]
    const fn size(code: u32) -> f32 {
        let normal = f32::from_bits((code << (23 - M)) + Self::REBIAS);
        let subnormal = f32::from_bits(code + Self::MAGIC) - f32::from_bits(Self::MAGIC);
        if code < 1 << M { subnormal } else { normal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::bits32;

    #[test]
    fn four_bits_are_the_eight_numbers() {
        let numbers = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        assert_eq!(std::array::from_fn(|code| E2M1::value(code as u8)), numbers);
        let negative = std::array::from_fn(|code| -E2M1::value(code as u8 + 8));
        assert_eq!(negative, numbers);
        let ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0];
        assert_eq!(
            ties.map(|tie| E2M1::value(E2M1::nearest(tie))),
            [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]
        );
    }

    fn codes_come_back<const M: u32, const BIAS: u32, const TOP: u32>(sign: u8) {
        for code in (0..=TOP as u8).flat_map(|code| [code, code | sign]) {
            let value = Minifloat::<M, BIAS, TOP>::value(code);
            assert_eq!(Minifloat::<M, BIAS, TOP>::nearest(value), code, "{value}");
            for random in [0, u32::MAX] {
                assert_eq!(Minifloat::<M, BIAS, TOP>::stochastic(value, random), code, "{value}");
            }
        }
    }

    #[test]
    fn every_code_survives_both_roundings() {
        codes_come_back::<3, 7, 0x7e>(0x80);
        codes_come_back::<2, 15, 0x7b>(0x80);
        codes_come_back::<1, 1, 7>(8);
        assert_eq!((E4M3::MAX, E5M2::MAX, E2M1::MAX), (448.0, 57344.0, 6.0));
        assert_eq!(E4M3::value(1), 2f32.powi(-9));
        assert!(E4M3::value(0x7f).is_nan() && E5M2::value(0x7e).is_nan());
        assert_eq!(E5M2::value(0xfc), f32::NEG_INFINITY);
        assert_eq!(E4M3::nearest(f32::NEG_INFINITY), 0xfe);
    }

    #[test]
    fn stochastic_mean_is_the_value() {
        for value in [0.7f32, 2.3, -5.5, 0.1] {
            let n = 100_000;
            let drawn =
                (0..n).map(|i| f64::from(E2M1::value(E2M1::stochastic(value, bits32(3, i)))));
            let mean = drawn.sum::<f64>() / n as f64;
            // Steps are at most 2, so no deviation is above 1.
            assert!((mean - f64::from(value)).abs() < 4.0 / (n as f64).sqrt(), "{value}: {mean}");
        }
    }
}
