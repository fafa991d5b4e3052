//! The f16 code (IEEE half precision): round to it, expand from it, and whole slices of both.

use super::int;
use crate::multiversion;
use crate::rng::Draws;
use crate::simd::Level;

/// The smallest f32 that rounds to infinity to nearest.
const OVERFLOW: u32 = 0x477f_f000;
/// The smallest normal f16, 2^-14, as f32 bits.
const NORMAL: u32 = 0x3880_0000;
/// What the exponents of the two formats differ by, in f32 bits.
const REBIAS: u32 = (127 - 15) << 23;
/// 0.5: one unit in its last place is the step of subnormal f16, 2^-24.
const HALF: u32 = 0x3f00_0000;
/// The bits of infinity.
const INFINITY: u32 = 0x7c00;

/// The bits of the nearest f16, ties to even. NaN stays NaN; past the largest value is infinity.
#[inline(always)]
pub fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, size) = ((bits >> 16) & 0x8000, bits & 0x7fff_ffff);
    let odd = (size >> 13) & 1;
    let normal = size.wrapping_sub(REBIAS).wrapping_add(0xfff + odd) >> 13;
    // The sum rounds to the step of subnormals by itself.
    let subnormal = (f32::from_bits(size) + f32::from_bits(HALF)).to_bits().wrapping_sub(HALF);
    let small = if size < NORMAL { subnormal } else { normal };
    let finite = if size >= OVERFLOW { INFINITY } else { small };
    let nan = INFINITY | 0x200 | (size >> 13) & 0x3ff;
    (sign | if value.is_nan() { nan } else { finite }) as u16
}

/// The bits of one of the two f16 around `value`, the one further from zero with the probability of
/// the fraction. `random` has 32 random bits. Exact values stay.
#[inline(always)]
pub fn round_stochastic(value: f32, random: u32) -> u16 {
    let bits = value.to_bits();
    let (sign, size) = ((bits >> 16) & 0x8000, bits & 0x7fff_ffff);
    let normal = size.wrapping_sub(REBIAS).wrapping_add(random >> 19) >> 13;
    // A power of two is exact: whole steps before the point, the fraction behind it.
    let steps = f32::from_bits(size.min(NORMAL)) * 16_777_216.0;
    let small = if size < NORMAL { int::stochastic(steps, random) as u32 } else { normal };
    let beyond = u32::from(round(value)) & 0x7fff;
    (sign | if size >= OVERFLOW { beyond } else { small }) as u16
}

/// The value of f16 bits; exact.
#[inline(always)]
pub fn expand(code: u16) -> f32 {
    let (sign, size) = (u32::from(code & 0x8000) << 16, u32::from(code & 0x7fff));
    let normal = (size << 13).wrapping_add(REBIAS);
    let subnormal = (f32::from_bits(size + HALF) - f32::from_bits(HALF)).to_bits();
    let special = size << 13 | 0x7f80_0000;
    let finite = if size < 0x400 { subnormal } else { normal };
    f32::from_bits(sign | if size >= INFINITY { special } else { finite })
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
    pack_stochastic_run(Level::detect(), src, dst, Draws::new(key, first_index));
}

multiversion! {
    fn pack_stochastic_run(src: &[f32], dst: &mut [[u8; 2]], draws: Draws) {
        for ((value, code), i) in src.iter().zip(dst).zip(0..) {
            *code = round_stochastic(*value, draws.at(i)).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn every_code_expands_as_in_the_half_crate_and_comes_back() {
        for code in 0..=u16::MAX {
            let (ours, theirs) = (expand(code), f16::from_bits(code).to_f32());
            assert_eq!(ours.is_nan(), theirs.is_nan(), "{code:#x}");
            if !ours.is_nan() {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{code:#x}");
                assert_eq!(round(ours), code);
                assert_eq!(round_stochastic(ours, u32::MAX), code);
            } else {
                assert!(expand(round(ours)).is_nan());
            }
        }
    }

    #[test]
    fn nearest_agrees_with_the_half_crate_around_every_code() {
        for code in 0..=u16::MAX {
            // The code itself and the tie above it, each with its neighbours.
            let bits = expand(code).to_bits();
            let tie =
                (expand(code) + (expand(code.wrapping_add(1)) - expand(code)) / 2.0).to_bits();
            for bits in
                [bits, tie].into_iter().flat_map(|b| [b.wrapping_sub(1), b, b.wrapping_add(1)])
            {
                let value = f32::from_bits(bits);
                let (ours, theirs) = (f16::from_bits(round(value)), f16::from_f32(value));
                assert!(
                    ours.to_bits() == theirs.to_bits() || value.is_nan(),
                    "{value:e}: {ours} {theirs}"
                );
            }
        }
    }

    #[test]
    fn stochastic_mean_is_the_value_for_normal_and_subnormal() {
        for (low, step) in [(1.0, 1.0 / 1024.0), (5.0 * 2f32.powi(-24), 2f32.powi(-24))] {
            let value = low + 0.3 * step;
            let n = 100_000;
            let mut codes = vec![[0; 2]; n];
            pack_stochastic(&vec![value; n], &mut codes, 7, 0);
            let mut back = vec![0.0; n];
            unpack(&codes, &mut back);
            assert!(back.iter().all(|x| *x == low || *x == low + step), "{step:e}");
            let up = back.iter().filter(|x| **x > low).count() as f64 / n as f64;
            // Four standard deviations of a share of 0.3 in as many draws.
            assert!((up - 0.3).abs() < 4.0 * (0.21 / n as f64).sqrt(), "{step:e}: {up}");
        }
    }
}
