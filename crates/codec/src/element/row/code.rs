//! The arithmetic of each code of a row: a value over its scale to a code, and back.

use crate::element::codebook::{NF4, nf4_nearest};
use crate::element::{int, minifloat};

/// One code of `BITS` bits; `zero` is the code of 0 where a scale has a zero point, else ignored.
pub(super) trait Code {
    const BITS: usize;
    /// What the largest size is divided by for a scale.
    const TOP: f32;

    /// The code of a value over its scale.
    fn code(scaled: f32, zero: u8) -> u8;

    /// What a scale is multiplied by.
    fn value(code: u8, zero: u8) -> f32;

    /// Whether an encoder never makes it, though it has a value.
    fn unused(_code: u8) -> bool {
        false
    }

    /// Whether it is not a finite number.
    fn no_number(_code: u8) -> bool {
        false
    }
}

/// The largest number of a symmetric integer.
const fn half_range(bits: usize) -> i32 {
    (1 << (bits - 1)) - 1
}

/// Integers of both signs, in two's complement; the lowest one is never made.
pub(super) struct Int<const BITS: usize>;

impl<const BITS: usize> Code for Int<BITS> {
    const BITS: usize = BITS;
    const TOP: f32 = half_range(BITS) as f32;

    #[inline(always)]
    fn code(scaled: f32, _zero: u8) -> u8 {
        // Cut off before it is rounded, for that is the same and floats have the faster minimum.
        int::nearest(scaled.max(-Self::TOP).min(Self::TOP)) as u8
    }

    #[inline(always)]
    fn value(code: u8, _zero: u8) -> f32 {
        if BITS == 8 {
            return f32::from(code as i8);
        }
        // With its sign turned over, a code counts from the lowest number.
        let lowest = 1u8 << (BITS - 1);
        f32::from(code ^ lowest) - f32::from(lowest)
    }

    #[inline(always)]
    fn unused(code: u8) -> bool {
        code == 1 << (BITS - 1)
    }
}

/// Integers from 0, of which one is the code of 0.
pub(super) struct Uint<const BITS: usize>;

impl<const BITS: usize> Code for Uint<BITS> {
    const BITS: usize = BITS;
    const TOP: f32 = ((1 << BITS) - 1) as f32;

    #[inline(always)]
    fn code(scaled: f32, zero: u8) -> u8 {
        let whole = int::nearest(scaled.max(-Self::TOP).min(Self::TOP));
        (whole + i32::from(zero)).clamp(0, (1 << BITS) - 1) as u8
    }

    #[inline(always)]
    fn value(code: u8, zero: u8) -> f32 {
        (i32::from(code) - i32::from(zero)) as f32
    }
}

/// The 16 quantiles of [`NF4`], the nearest of which counts; ties go down.
pub(super) struct Quantile;

impl Code for Quantile {
    const BITS: usize = 4;
    const TOP: f32 = 1.0;

    #[inline(always)]
    fn code(scaled: f32, _zero: u8) -> u8 {
        nf4_nearest(scaled)
    }

    #[inline(always)]
    fn value(code: u8, _zero: u8) -> f32 {
        NF4[usize::from(code & 15)]
    }
}

macro_rules! fp8 {
    ($name:ident) => {
        impl Code for minifloat::$name {
            const BITS: usize = 8;
            const TOP: f32 = Self::MAX;

            #[inline(always)]
            fn code(scaled: f32, _zero: u8) -> u8 {
                Self::nearest(scaled)
            }

            #[inline(always)]
            fn value(code: u8, _zero: u8) -> f32 {
                minifloat::$name::value(code)
            }

            #[inline(always)]
            fn no_number(code: u8) -> bool {
                code & 0x7f > minifloat::$name::TOP
            }
        }
    };
}

fp8!(E4M3);
fp8!(E5M2);
