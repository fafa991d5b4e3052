//! Codes whose levels stand in a table: NF4, and the dynamic maps of 8 bits.
//!
//! No code is searched for. Levels lie on a few straight lines, so the place of a value among them
//! is a product and a sum with the line's numbers, to 2^-12 of a step: a draw added to it rounds
//! stochastically, and one comparison with the exact midpoint rounds to nearest.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::{int, pack};
use crate::rng::Draws;
use crate::{Level, Rounding, multiversion};

/// The 16 levels of NF4: quantiles of the normal distribution, with an exact 0 (Dettmers et al.,
/// QLoRA, arXiv 2305.14314).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The dynamic map for both signs: levels of seven decades, finer in the higher ones (Dettmers et
/// al., 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861). Ascending; 0 is code 127.
///
/// The largest level is 1, the lowest -0.993.
pub static DYNAMIC: [f32; 256] = dynamic(true);

/// The dynamic map for values that are never negative. Ascending; 0 is code 0.
pub static DYNAMIC_UNSIGNED: [f32; 256] = dynamic(false);

/// The bytes of 256 numbers: the lowest of each, then the next ones.
pub(crate) type Planes = [[u8; 256]; 4];

static DYNAMIC_PLANES: Planes = planes(&DYNAMIC);
static DYNAMIC_UNSIGNED_PLANES: Planes = planes(&DYNAMIC_UNSIGNED);

const fn planes(numbers: &[f32; 256]) -> Planes {
    let mut planes = [[0; 256]; 4];
    let mut i = 0;
    while i < 4 * 256 {
        planes[i % 4][i / 4] = numbers[i / 4].to_le_bytes()[i % 4];
        i += 1;
    }
    planes
}

const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Decade i has 2^i levels on each side, or 2^(i+1) on one: the middles of equal parts of [0.1, 1].
const fn dynamic(signed: bool) -> [f32; 256] {
    let zero = if signed { 127 } else { 0 };
    let mut levels = [0.0; 256];
    levels[255] = 1.0;
    let mut above = 1;
    let mut decade = 0;
    while decade < 7 {
        let parts = if signed { 1 << decade } else { 2 << decade };
        let mut part = 0;
        while part < parts {
            let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
            let level = DECADES[decade] * middle;
            levels[zero + above] = level;
            if signed {
                levels[zero - above] = -level;
            }
            (part, above) = (part + 1, above + 1);
        }
        decade += 1;
    }
    levels
}

/// Boundary `i` of `n` equal parts of [0.1, 1], counted from the nearer end and rounded once, as
/// PyTorch does, by which bitsandbytes makes its maps.
const fn boundary(i: usize, n: usize) -> f32 {
    let step = ((1.0 - 0.1f32) / n as f32) as f64;
    let exact = if i < n.div_ceil(2) {
        0.1f32 as f64 + step * i as f64
    } else {
        1.0 - step * (n - i) as f64
    };
    exact as f32
}

/// Places are counted in this many parts of a step.
pub(crate) const PARTS: i32 = 1 << 12;
/// Stochastic rounding takes as many bits as a place has behind the point.
pub(crate) const DRAW_SHIFT: u32 = 20;
/// Less than half a step by more than the error of a place.
pub(crate) const ALMOST_HALF: i32 = PARTS / 2 - 8;

/// Which line a size lies on, and where on it.
///
/// Lines are found by the octave of the size: 2^-31 and below, up to 1. Two may end in one octave.
pub(crate) struct Lines {
    pub(crate) first: [i32; 32],
    pub(crate) ends: [[f32; 32]; 2],
    pub(crate) slope: [f32; 16],
    pub(crate) offset: [f32; 16],
    /// Midpoints above each level, then infinity.
    pub(crate) midpoints: [f32; 256],
}

/// The lines of [`DYNAMIC`] from 0 up; below 0 it mirrors them.
pub(crate) static SIGNED_LINES: Lines = lines(&DYNAMIC, 127, 1);
/// The lines of [`DYNAMIC_UNSIGNED`].
pub(crate) static UNSIGNED_LINES: Lines = lines(&DYNAMIC_UNSIGNED, 0, 2);

/// `levels` from `zero` on, whose lowest decade has `lowest` levels.
const fn lines(levels: &[f32; 256], zero: usize, lowest: usize) -> Lines {
    let mut lines = Lines {
        first: [0; 32],
        ends: [[f32::INFINITY; 32]; 2],
        slope: [0.0; 16],
        offset: [0.0; 16],
        midpoints: [f32::INFINITY; 256],
    };
    // The numbers of the levels where lines meet: the first and the last of each decade, and 1.
    let mut corners = [0; 17];
    let mut count = 1;
    let (mut first, mut size) = (1, lowest);
    while first <= 255 - zero {
        corners[count] = first;
        count += 1;
        if size > 1 && first < 255 - zero {
            corners[count] = first + size - 1;
            count += 1;
        }
        (first, size) = (first + size, 2 * size);
    }
    let mut line = 0;
    while line + 1 < count {
        let (low, high) = (corners[line], corners[line + 1]);
        let start = levels[zero + low] as f64;
        let slope = (high - low) as f64 / (levels[zero + high] as f64 - start) * PARTS as f64;
        lines.slope[line] = slope as f32;
        lines.offset[line] = (low as f64 * PARTS as f64 - start * slope) as f32;
        line += 1;
    }
    let mut octave = 0;
    while octave < 32 {
        let start = f32::from_bits((96 + octave as u32) << 23);
        let (mut corner, mut inside) = (1, 0);
        while corner + 1 < count {
            let level = levels[zero + corners[corner]];
            if level <= start {
                lines.first[octave] += 1;
            } else if level < 2.0 * start {
                lines.ends[inside][octave] = level;
                inside += 1;
            }
            corner += 1;
        }
        octave += 1;
    }
    let mut level = zero;
    while level < 255 {
        lines.midpoints[level - zero] = (levels[level] + levels[level + 1]) / 2.0;
        level += 1;
    }
    lines
}

impl Lines {
    /// The place of a size up to 1 among the levels, in [`PARTS`] of a step.
    #[inline(always)]
    fn place(&self, size: f32) -> i32 {
        let octave = ((size.to_bits() >> 23).max(96) & 31) as usize;
        let past = |end: usize| i32::from(size >= self.ends[end][octave]);
        let line = (self.first[octave] + past(0) + past(1)) as usize & 15;
        int::nearest(size * self.slope[line] + self.offset[line])
    }

    /// The number of the level nearest to a size up to 1; ties go to the smaller.
    #[inline(always)]
    fn nearest(&self, size: f32) -> i32 {
        let below = (self.place(size) + ALMOST_HALF) / PARTS;
        below + i32::from(size > self.midpoints[below as usize & 255])
    }

    /// The number of one of the two levels around a size up to 1. Levels stay.
    #[inline(always)]
    fn stochastic(&self, size: f32, random: u32) -> i32 {
        (self.place(size) + (random >> DRAW_SHIFT) as i32) / PARTS
    }
}

/// The code of the level of [`DYNAMIC`] nearest to `value`, from -1 to 1; ties go towards 0.
#[inline(always)]
pub fn dynamic_nearest(value: f32) -> u8 {
    mirrored(value, SIGNED_LINES.nearest(value.abs()))
}

/// The code of one of the two levels of [`DYNAMIC`] around `value`, from -1 to 1, the one further
/// from 0 with the probability of the fraction, to 12 bits. Levels stay.
#[inline(always)]
pub fn dynamic_stochastic(value: f32, random: u32) -> u8 {
    mirrored(value, SIGNED_LINES.stochastic(value.abs(), random))
}

/// The code of level `number` on the side of `value`; the negative side has no 1.
#[inline(always)]
fn mirrored(value: f32, number: i32) -> u8 {
    (127 + if value < 0.0 { -number.min(127) } else { number.min(128) }) as u8
}

/// The code of the level of [`DYNAMIC_UNSIGNED`] nearest to `value`, up to 1, but at least 1 for a
/// positive value; 0 for a negative one.
#[inline(always)]
pub fn dynamic_unsigned_nearest(value: f32) -> u8 {
    positive(value, UNSIGNED_LINES.nearest(value.max(0.0)))
}

/// The code of one of the two levels of [`DYNAMIC_UNSIGNED`] around `value`, under the same rule.
#[inline(always)]
pub fn dynamic_unsigned_stochastic(value: f32, random: u32) -> u8 {
    positive(value, UNSIGNED_LINES.stochastic(value.max(0.0), random))
}

#[inline(always)]
fn positive(value: f32, number: i32) -> u8 {
    number.max(i32::from(value > 0.0)).min(255) as u8
}

/// Codes values times `inverse` in [`DYNAMIC`]: 0 to 1 in size.
pub fn encode_dynamic(
    level: Level,
    values: &[f32],
    inverse: f32,
    codes: &mut [u8],
    rounding: Rounding,
) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512(level) {
        // SAFETY: the machine has the instructions.
        return unsafe {
            avx512::encode_dynamic::<false>(&SIGNED_LINES, values, inverse, codes, rounding)
        };
    }
    encode_each(level, values, inverse, codes, rounding, dynamic_nearest, dynamic_stochastic);
}

/// Codes values times `inverse` in [`DYNAMIC_UNSIGNED`]: up to 1.
pub fn encode_dynamic_unsigned(
    level: Level,
    values: &[f32],
    inverse: f32,
    codes: &mut [u8],
    rounding: Rounding,
) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512(level) {
        // SAFETY: the machine has the instructions.
        return unsafe {
            avx512::encode_dynamic::<true>(&UNSIGNED_LINES, values, inverse, codes, rounding)
        };
    }
    let (nearest, stochastic) = (dynamic_unsigned_nearest, dynamic_unsigned_stochastic);
    encode_each(level, values, inverse, codes, rounding, nearest, stochastic);
}

multiversion! {
    fn encode_each<N: Fn(f32) -> u8, S: Fn(f32, u32) -> u8>(
        values: &[f32],
        inverse: f32,
        codes: &mut [u8],
        rounding: Rounding,
        nearest: N,
        stochastic: S,
    ) {
        match rounding {
            Rounding::Nearest => {
                pack::from_values::<8, false>(values, codes, |x| nearest(x * inverse));
            }
            Rounding::Stochastic { key, first_index } => {
                let draws = Draws::new(key, first_index);
                let code = |x: f32, random| stochastic(x * inverse, random);
                pack::from_draws::<8, false>(values, codes, draws, code);
            }
        }
    }
}

/// Decodes codes of [`DYNAMIC`], times `scale`.
pub fn decode_dynamic(level: Level, codes: &[u8], scale: f32, values: &mut [f32]) {
    decode_table(level, (&DYNAMIC, &DYNAMIC_PLANES), codes, scale, values);
}

/// Decodes codes of [`DYNAMIC_UNSIGNED`], times `scale`.
pub fn decode_dynamic_unsigned(level: Level, codes: &[u8], scale: f32, values: &mut [f32]) {
    let table = (&DYNAMIC_UNSIGNED, &DYNAMIC_UNSIGNED_PLANES);
    decode_table(level, table, codes, scale, values);
}

fn decode_table(
    level: Level,
    (levels, planes): (&[f32; 256], &Planes),
    codes: &[u8],
    scale: f32,
    values: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512(level) {
        // The shorter length counts; what is left of both must be the same.
        let count = codes.len().min(values.len());
        let bytewise = if is_x86_feature_detected!("avx512vbmi") { count & !63 } else { 0 };
        let (codes, rest) = codes[..count].split_at(bytewise);
        let (values, tail) = values[..count].split_at_mut(bytewise);
        // SAFETY: the machine has the instructions.
        unsafe {
            avx512::decode_planes(planes, codes.as_chunks().0, scale, values.as_chunks_mut().0);
            return avx512::decode_table(levels, rest, scale, tail);
        }
    }
    let _ = planes;
    for (code, value) in codes.iter().zip(values) {
        *value = levels[usize::from(*code)] * scale;
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512(level: Level) -> bool {
    level.min(Level::detect()) >= Level::Avx512
}

/// Codes values times `inverse` in [`NF4`], the first of two in the high bits.
pub fn encode_nf4(
    level: Level,
    values: &[f32],
    inverse: f32,
    bytes: &mut [u8],
    rounding: Rounding,
) {
    #[cfg(target_arch = "x86_64")]
    let (values, bytes, rounding) = if has_avx512(level) {
        let (whole, rest) = values.as_chunks();
        let (tiles, tail) = bytes.split_at_mut(whole.len() * avx512::TILE / 2);
        for (i, (values, bytes)) in whole.iter().zip(tiles.as_chunks_mut().0).enumerate() {
            let rounding = rounding.advance(i * avx512::TILE);
            // SAFETY: the machine has the instructions.
            unsafe { avx512::encode_nf4(values, inverse, bytes, rounding) };
        }
        (rest, tail, rounding.advance(whole.len() * avx512::TILE))
    } else {
        (values, bytes, rounding)
    };
    if !values.is_empty() {
        encode_nf4_plainly(level, values, inverse, bytes, rounding);
    }
}

multiversion! {
    fn encode_nf4_plainly(values: &[f32], inverse: f32, bytes: &mut [u8], rounding: Rounding) {
        match rounding {
            Rounding::Nearest => {
                pack::from_values::<4, true>(values, bytes, |x| nf4_nearest(x * inverse));
            }
            Rounding::Stochastic { key, first_index } => {
                let draws = Draws::new(key, first_index);
                let code = |x: f32, random| nf4_stochastic(x * inverse, random);
                pack::from_draws::<4, true>(values, bytes, draws, code);
            }
        }
    }
}

/// Decodes [`NF4`], times `scale`.
pub fn decode_nf4(level: Level, bytes: &[u8], scale: f32, values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    let (bytes, values) = if has_avx512(level) {
        let (whole, rest) = values.as_chunks_mut();
        let (tiles, tail) = bytes.split_at(whole.len() * avx512::TILE / 2);
        for (values, bytes) in whole.iter_mut().zip(tiles.as_chunks().0) {
            // SAFETY: the machine has the instructions.
            unsafe { avx512::decode_nf4(bytes, scale, values) };
        }
        (tail, rest)
    } else {
        (bytes, values)
    };
    let _ = level;
    pack::to_values::<4, true>(bytes, values, |code| NF4[usize::from(code & 15)] * scale);
}

/// Midpoints of the levels of [`NF4`].
pub(crate) const NF4_MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        midpoints[i] = (NF4[i] + NF4[i + 1]) / 2.0;
        i += 1;
    }
    midpoints
};

/// Slope and offset of the place between each level of [`NF4`] and the next.
pub(crate) static NF4_LINES: [[f32; 16]; 2] = {
    let [mut slope, mut offset] = [[0.0; 16]; 2];
    let mut i = 0;
    while i < 16 {
        // From the last level on there is nothing to go to.
        let gap = if i < 15 { NF4[i + 1] as f64 - NF4[i] as f64 } else { f64::INFINITY };
        slope[i] = (PARTS as f64 / gap) as f32;
        offset[i] = (i as f64 * PARTS as f64 - NF4[i] as f64 * PARTS as f64 / gap) as f32;
        i += 1;
    }
    [slope, offset]
};

/// The code of the level of [`NF4`] nearest to `value`, from -1 to 1; ties go down.
#[inline(always)]
pub fn nf4_nearest(value: f32) -> u8 {
    NF4_MIDPOINTS.iter().map(|midpoint| u8::from(value > *midpoint)).sum()
}

/// The code of one of the two levels of [`NF4`] around `value`, from -1 to 1, the upper with the
/// probability of the fraction, to 12 bits. Levels stay.
#[inline(always)]
pub fn nf4_stochastic(value: f32, random: u32) -> u8 {
    let below: u8 = NF4[1..].iter().map(|level| u8::from(value >= *level)).sum();
    let [slope, offset] = NF4_LINES.each_ref().map(|line| line[usize::from(below & 15)]);
    let place = int::nearest(value * slope + offset);
    // A value just below -1, by the rounding of its scale, has no level below it.
    ((place.max(0) + (random >> DRAW_SHIFT) as i32) / PARTS).min(15) as u8
}

#[cfg(test)]
mod tests;
