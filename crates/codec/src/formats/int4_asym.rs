//! `int4-asym`: 4-bit integers between the smallest and the largest of every 64 values.
//!
//! With lo = min(0, smallest) and hi = max(0, largest): scale = (hi - lo) / 15, an f32; zero =
//! round(-lo / scale), a byte; code = round(x / scale) + zero in 0..=15, value = (code - zero) *
//! scale. 0 stays 0. Two codes in a byte, the first in the low bits.
//! Block 64: 37 bytes, scale and zero first: 4.625 bits per value. For data off centre, such as
//! values after an activation; the error at the ends may reach a whole step, for zero is rounded.

use super::scaled::{BlockCode, Scale};
use crate::element::{int, pack};
use crate::rng::Draws;
use crate::{Level, Rounding};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int4Asym;

impl BlockCode for Int4Asym {
    const NAME: &'static str = "int4-asym";
    const ID: u16 = 8;
    const BLOCK: usize = 64;
    const BITS: usize = 4;
    const HEAD_BYTES: usize = 5;

    #[inline(always)]
    fn encode_block(
        _level: Level,
        values: &[f32],
        head: &mut [u8],
        codes: &mut [u8],
        rounding: Rounding,
    ) {
        let finite = super::scaled::largest(values).is_finite();
        let (lo, hi) = span(values);
        // Halves, for the span of the largest numbers of both signs is past them.
        let scale = Scale::of_largest(hi / 2.0 - lo / 2.0, 7.5).filter(|_| finite);
        let Some(Scale { value, inverse }) = scale else {
            head[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            head[4] = 0;
            codes.fill(0);
            return;
        };
        let zero = int::nearest(-lo * inverse).clamp(0, 15);
        head[..4].copy_from_slice(&value.to_le_bytes());
        head[4] = zero as u8;
        let code = |whole: i32| (whole + zero).clamp(0, 15) as u8;
        match rounding {
            Rounding::Nearest => {
                let code = |x: f32| code(int::nearest(x * inverse));
                pack::from_values::<4, false>(values, codes, code);
            }
            Rounding::Stochastic { key, first_index } => {
                let draws = Draws::new(key, first_index);
                let code = |x: f32, random| code(int::stochastic(x * inverse, random));
                pack::from_draws::<4, false>(values, codes, draws, code);
            }
        }
    }

    #[inline(always)]
    fn decode_block(_level: Level, head: &[u8], codes: &[u8], values: &mut [f32]) {
        let scale = Scale::read(head);
        let zero = i32::from(head[4]);
        pack::to_values::<4, false>(codes, values, |code| (i32::from(code) - zero) as f32 * scale);
    }
}

/// The smallest and the largest of the values and 0.
#[inline(always)]
fn span(values: &[f32]) -> (f32, f32) {
    // Integers in the order of the floats, for a fast minimum; the map is its own inverse.
    let ordered = |bits: i32| bits ^ (bits >> 31 & 0x7fff_ffff);
    let (mut lo, mut hi) = (0, 0);
    for value in values {
        let place = ordered(value.to_bits() as i32);
        (lo, hi) = (lo.min(place), hi.max(place));
    }
    let value = |place: i32| f32::from_bits(ordered(place) as u32);
    (value(lo), value(hi))
}
