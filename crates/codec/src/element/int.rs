//! Integer codes: a scaled value becomes the integer beside it.
//!
//! The wire and the blocks of `int8`, `int6`, `int4` and `int2` hold them in two's complement.

/// Adding it leaves no bits behind the point: rounding to nearest, ties to even, in one addition.
const ROUNDER: f32 = 12_582_912.0;

/// The integer nearest to `scaled`, ties to even; for sizes below 2^22.
#[inline(always)]
pub fn nearest(scaled: f32) -> i32 {
    (scaled + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i32
}

/// The integer below or above `scaled`, the upper with the probability of the fraction, to 16 bits.
///
/// Integers stay. `random` has 32 random bits; for sizes below 2^15.
#[inline(always)]
pub fn stochastic(scaled: f32, random: u32) -> i32 {
    // Whole and fraction apart: a cast of their sum would have to mind numbers out of range.
    let whole = nearest(scaled);
    let fraction = nearest((scaled - whole as f32) * 65536.0);
    whole.wrapping_add(fraction.wrapping_add((random >> 16) as i32) >> 16)
}

/// The integer in the lowest `BITS` bits, in two's complement.
#[inline(always)]
pub fn sign_extend<const BITS: u32>(code: u8) -> i32 {
    i32::from((code << (8 - BITS)) as i8 >> (8 - BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::bits32;

    #[test]
    fn ties_go_to_even_and_integers_stay() {
        for whole in -300..300 {
            let value = whole as f32;
            assert_eq!(nearest(value), whole);
            assert_eq!([0, u32::MAX].map(|random| stochastic(value, random)), [whole; 2]);
            assert_eq!(nearest(value + 0.5), (value + 0.5).round_ties_even() as i32);
        }
    }

    #[test]
    fn stochastic_mean_is_the_value() {
        for value in [0.3f32, -0.3, 100.75, -126.99] {
            let n = 100_000;
            let drawn = (0..n).map(|i| f64::from(stochastic(value, bits32(5, i))));
            let mean = drawn.sum::<f64>() / n as f64;
            let fraction = f64::from(value - value.floor());
            let deviation = (fraction * (1.0 - fraction) / n as f64).sqrt();
            assert!((mean - f64::from(value)).abs() < 4.0 * deviation + 1e-5, "{value}: {mean}");
        }
    }

    #[test]
    fn two_s_complement_in_few_bits() {
        assert_eq!([0, 1, 7, 8, 15].map(sign_extend::<4>), [0, 1, 7, -8, -1]);
        assert_eq!([0, 1, 2, 3].map(sign_extend::<2>), [0, 1, -2, -1]);
    }
}
