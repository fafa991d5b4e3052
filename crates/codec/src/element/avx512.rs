//! The codes of tables with AVX-512: 16 values at once, tables in registers.
//!
//! The same arithmetic as in [`codebook`](super::codebook), step by step, so the same codes.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::codebook::{
    ALMOST_HALF, DRAW_SHIFT, Lines, NF4, NF4_LINES, NF4_MIDPOINTS, PARTS, Planes,
};
use crate::Rounding;
use crate::rng::Draws;

/// Values in a register.
const LANES: usize = 16;
/// The bits of a place behind the point.
const PART_BITS: u32 = PARTS.trailing_zeros();
/// See [`int::nearest`](super::int::nearest).
const ROUNDER: f32 = 12_582_912.0;

/// A table of up to 256 numbers in registers.
#[derive(Clone, Copy)]
struct Table([__m512; 16]);

impl Table {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(numbers: &[f32; 256]) -> Self {
        let rows = numbers.as_chunks::<LANES>().0;
        Self(std::array::from_fn(|i| load(&rows[i])))
    }

    /// The numbers at the places, which are below 256.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn get(&self, places: __m512i) -> __m512 {
        let t = &self.0;
        // Each look-up minds the lowest 5 bits; the other three choose among eight.
        let pair = |i: usize| _mm512_permutex2var_ps(t[2 * i], places, t[2 * i + 1]);
        let bit = |n: i32| _mm512_test_epi32_mask(places, _mm512_set1_epi32(n));
        let [fifth, sixth, seventh] = [bit(32), bit(64), bit(128)];
        let quad = |i: usize| _mm512_mask_blend_ps(fifth, pair(2 * i), pair(2 * i + 1));
        let lower = _mm512_mask_blend_ps(sixth, quad(0), quad(1));
        let upper = _mm512_mask_blend_ps(sixth, quad(2), quad(3));
        _mm512_mask_blend_ps(seventh, lower, upper)
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: the array has the 64 bytes of the register, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i32(values: &[i32; LANES]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: &mut [f32; LANES], register: __m512) {
    // SAFETY: the array has room for the 64 bytes of the register.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), register) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_bytes(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// 16 codes in the lowest bytes of 32-bit numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_codes(codes: &mut [u8; LANES], register: __m512i) {
    // SAFETY: the array has room for the 16 bytes of the register.
    unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(register)) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_codes(codes: &[u8; LANES]) -> __m512i {
    // SAFETY: the array has the 16 bytes of the register.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) })
}

/// The nearest integers; see [`int::nearest`](super::int::nearest).
#[inline]
#[target_feature(enable = "avx512f")]
fn nearest(values: __m512) -> __m512i {
    let rounder = _mm512_set1_ps(ROUNDER);
    let sum = _mm512_add_ps(values, rounder);
    _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(rounder))
}

/// The draws of a run, as many as a place has bits.
#[derive(Clone, Copy)]
struct Random {
    draws: Draws,
    /// Whether the upper half of an index changes within the run.
    turns: bool,
}

impl Random {
    fn new(key: u64, first_index: u64, len: usize) -> Self {
        let turns = (first_index as u32).checked_add(len as u32).is_none();
        Self { draws: Draws::new(key, first_index), turns }
    }

    /// The draws of values `at` and the following 15.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn at(&self, at: usize) -> __m512i {
        let mut draws = [0; LANES];
        if self.turns {
            for (i, draw) in (at as u32..).zip(&mut draws) {
                *draw = (self.draws.at(i) >> DRAW_SHIFT) as i32;
            }
            return load_i32(&draws);
        }
        let (first, start) = self.draws.parts();
        let steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let first = _mm512_set1_epi32(first.wrapping_add(at as u32) as i32);
        let index = _mm512_add_epi32(first, steps);
        let mixed = mix(_mm512_xor_si512(index, _mm512_set1_epi32(start as i32)));
        _mm512_srli_epi32::<DRAW_SHIFT>(mixed)
    }
}

/// The mixer of [`bits32`](crate::rng::bits32).
#[inline]
#[target_feature(enable = "avx512f")]
fn mix(x: __m512i) -> __m512i {
    let x = _mm512_xor_si512(x, _mm512_srli_epi32::<16>(x));
    let x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0x7feb_352d));
    let x = _mm512_xor_si512(x, _mm512_srli_epi32::<15>(x));
    let x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0x846c_a68b_u32 as i32));
    _mm512_xor_si512(x, _mm512_srli_epi32::<16>(x))
}

/// The lines of a dynamic map in registers.
#[derive(Clone, Copy)]
struct Ladder {
    first: [__m512i; 2],
    ends: [[__m512; 2]; 2],
    slope: __m512,
    offset: __m512,
}

impl Ladder {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(lines: &Lines) -> Self {
        let first = lines.first.as_chunks().0;
        let ends = lines.ends.each_ref().map(|ends| ends.as_chunks().0);
        Self {
            first: [load_i32(&first[0]), load_i32(&first[1])],
            ends: std::array::from_fn(|i| [load(&ends[i][0]), load(&ends[i][1])]),
            slope: load(&lines.slope),
            offset: load(&lines.offset),
        }
    }

    /// See `Lines::place`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn place(&self, size: __m512) -> __m512i {
        let exponent = _mm512_srli_epi32::<23>(_mm512_castps_si512(size));
        let octave = _mm512_max_epi32(exponent, _mm512_set1_epi32(96));
        let mut line = _mm512_permutex2var_epi32(self.first[0], octave, self.first[1]);
        for [low, high] in self.ends {
            let end = _mm512_permutex2var_ps(low, octave, high);
            let past = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(size, end);
            line = _mm512_mask_add_epi32(line, past, line, _mm512_set1_epi32(1));
        }
        let slope = _mm512_permutexvar_ps(line, self.slope);
        let offset = _mm512_permutexvar_ps(line, self.offset);
        nearest(_mm512_add_ps(_mm512_mul_ps(size, slope), offset))
    }
}

/// Codes values times `inverse` in the dynamic map of `lines`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn encode_dynamic<const UNSIGNED: bool>(
    lines: &Lines,
    values: &[f32],
    inverse: f32,
    codes: &mut [u8],
    rounding: Rounding,
) {
    let ladder = Ladder::new(lines);
    match rounding {
        Rounding::Nearest => {
            each_register(values, codes, |values, _| {
                let (scaled, size) = size_of::<UNSIGNED>(values, inverse);
                let places = _mm512_add_epi32(ladder.place(size), _mm512_set1_epi32(ALMOST_HALF));
                let below = _mm512_srai_epi32::<PART_BITS>(places);
                let part = _mm512_and_si512(places, _mm512_set1_epi32(PARTS - 1));
                let doubtful = _mm512_cmpge_epi32_mask(part, _mm512_set1_epi32(DOUBTFUL));
                let number = match doubtful {
                    0 => below,
                    _ => compare(lines, size, below),
                };
                dynamic_code::<UNSIGNED>(scaled, number)
            });
        }
        Rounding::Stochastic { key, first_index } => {
            let random = Random::new(key, first_index, values.len());
            each_register(values, codes, |values, at| {
                let (scaled, size) = size_of::<UNSIGNED>(values, inverse);
                let places = _mm512_add_epi32(ladder.place(size), random.at(at));
                dynamic_code::<UNSIGNED>(scaled, _mm512_srai_epi32::<PART_BITS>(places))
            });
        }
    }
}

/// Calls `code` for 16 values at a time, the last ones with zeros behind them.
#[inline(always)]
fn each_register(values: &[f32], codes: &mut [u8], code: impl Fn(&[f32; LANES], usize) -> __m512i) {
    let (whole, rest) = values.as_chunks();
    let (slots, tail) = codes[..values.len()].as_chunks_mut();
    for ((values, slots), at) in whole.iter().zip(slots).zip((0..).step_by(LANES)) {
        // SAFETY: the callers are compiled for, and called with, AVX-512.
        unsafe { store_codes(slots, code(values, at)) };
    }
    if !rest.is_empty() {
        let (mut values, mut slots) = ([0.0; LANES], [0; LANES]);
        values[..rest.len()].copy_from_slice(rest);
        // SAFETY: as above.
        unsafe { store_codes(&mut slots, code(&values, LANES * whole.len())) };
        tail.copy_from_slice(&slots[..rest.len()]);
    }
}

/// A value this near to a midpoint, one in 250, is compared with it; its place is far less off.
const DOUBTFUL: i32 = PARTS - 16;

/// The numbers of the nearest levels: those below, or the next where the midpoint is exceeded.
#[cold]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn compare(lines: &Lines, size: __m512, below: __m512i) -> __m512i {
    let midpoint = Table::new(&lines.midpoints).get(below);
    let past = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(size, midpoint);
    _mm512_mask_add_epi32(below, past, below, _mm512_set1_epi32(1))
}

/// The scaled values, and their sizes among the levels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn size_of<const UNSIGNED: bool>(values: &[f32; LANES], inverse: f32) -> (__m512, __m512) {
    let scaled = _mm512_mul_ps(load(values), _mm512_set1_ps(inverse));
    let size = match UNSIGNED {
        true => _mm512_max_ps(scaled, _mm512_setzero_ps()),
        false => _mm512_abs_ps(scaled),
    };
    (scaled, size)
}

/// See `codebook::mirrored` and `codebook::positive`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn dynamic_code<const UNSIGNED: bool>(scaled: __m512, number: __m512i) -> __m512i {
    let zero = _mm512_setzero_ps();
    if UNSIGNED {
        let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scaled, zero);
        let least = _mm512_maskz_set1_epi32(positive, 1);
        return _mm512_min_epi32(_mm512_max_epi32(number, least), _mm512_set1_epi32(255));
    }
    let middle = _mm512_set1_epi32(127);
    let above = _mm512_add_epi32(middle, _mm512_min_epi32(number, _mm512_set1_epi32(128)));
    let below = _mm512_sub_epi32(middle, _mm512_min_epi32(number, middle));
    let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(scaled, zero);
    _mm512_mask_blend_epi32(negative, above, below)
}

/// Decodes as many codes of a table of 256 levels as there are values, times `scale`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn decode_table(levels: &[f32; 256], codes: &[u8], scale: f32, values: &mut [f32]) {
    let (whole, rest) = codes.as_chunks();
    let (slots, tail) = values.as_chunks_mut();
    if !whole.is_empty() {
        let table = Table::new(levels);
        for (codes, slots) in whole.iter().zip(slots) {
            let level = table.get(load_codes(codes));
            store(slots, _mm512_mul_ps(level, _mm512_set1_ps(scale)));
        }
    }
    for (code, value) in rest.iter().zip(tail) {
        *value = levels[usize::from(*code)] * scale;
    }
}

/// Decodes codes of a table of 256 levels, times `scale`: each of the four bytes of 64 levels is looked up
/// at once, and then they are joined.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
pub(super) fn decode_planes(
    planes: &Planes,
    codes: &[[u8; 64]],
    scale: f32,
    values: &mut [[f32; 64]],
) {
    let mut tables = [[_mm512_setzero_si512(); 4]; 4];
    for (table, plane) in tables.iter_mut().zip(planes) {
        for (part, quarter) in table.iter_mut().zip(plane.as_chunks().0) {
            *part = load_bytes(quarter);
        }
    }
    let scale = _mm512_set1_ps(scale);
    // Joining takes bytes out of each quarter of a register, so every fourth group of four codes
    // belongs into one.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (codes, values) in codes.iter().zip(values) {
        let codes = _mm512_permutexvar_epi32(order, load_bytes(codes));
        // Each look-up minds the lowest 7 bits.
        let eighth = _mm512_movepi8_mask(codes);
        let mut bytes = [_mm512_setzero_si512(); 4];
        for (byte, [t, u, v, w]) in bytes.iter_mut().zip(tables) {
            let lower = _mm512_permutex2var_epi8(t, codes, u);
            let upper = _mm512_permutex2var_epi8(v, codes, w);
            *byte = _mm512_mask_blend_epi8(eighth, lower, upper);
        }
        let [a, b, c, d] = bytes;
        let [ab, cd] = [_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d)];
        let [ef, gh] = [_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d)];
        let levels = [
            _mm512_unpacklo_epi16(ab, cd),
            _mm512_unpackhi_epi16(ab, cd),
            _mm512_unpacklo_epi16(ef, gh),
            _mm512_unpackhi_epi16(ef, gh),
        ];
        for (slots, levels) in values.as_chunks_mut().0.iter_mut().zip(levels) {
            store(slots, _mm512_mul_ps(_mm512_castsi512_ps(levels), scale));
        }
    }
}

/// Values in a tile of NF4.
pub(super) const TILE: usize = 64;

/// What each of 31 cells of [-1, 1] knows of NF4: how many marks lie below it, and the one inside. Cell i
/// holds what is nearest to i / 15; negative ones count from 32 down, as the low five bits of i do.
struct Cells {
    below: [i32; 32],
    inside: [f32; 32],
}

/// Cells in a unit of size.
const CELLS: f32 = 15.0;

/// The midpoints of the levels, which a value must exceed.
static MIDPOINTS: Cells = cells(&NF4_MIDPOINTS);
/// The levels but the first, which a value must reach.
static LEVELS: Cells = cells(NF4.last_chunk::<15>().expect("16 levels"));

/// Marks are further from the edge of a cell than the place of a value is off, so that it does not matter
/// into which of two cells a value at the edge falls.
const fn cells(marks: &[f32; 15]) -> Cells {
    let mut all = Cells { below: [0; 32], inside: [f32::INFINITY; 32] };
    let mut cell = -15;
    while cell <= 15 {
        let at = (cell & 31) as usize;
        let mut mark = 0;
        while mark < 15 {
            let place = marks[mark] * CELLS - cell as f32;
            assert!(place.abs() < 0.499 || place.abs() > 0.501, "no mark at an edge");
            if place <= -0.5 {
                all.below[at] += 1;
            } else if place < 0.5 {
                assert!(all.inside[at] == f32::INFINITY, "one mark in each cell");
                all.inside[at] = marks[mark];
            }
            mark += 1;
        }
        cell += 1;
    }
    all
}

/// Codes 64 values times `inverse` in NF4, the first of two in the high bits.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn encode_nf4(
    values: &[f32; TILE],
    inverse: f32,
    bytes: &mut [u8; TILE / 2],
    rounding: Rounding,
) {
    match rounding {
        Rounding::Nearest => {
            each_pair(values, bytes, |values, _| {
                let scaled = _mm512_mul_ps(load(values), _mm512_set1_ps(inverse));
                count_marks::<_CMP_GT_OQ>(&MIDPOINTS, scaled)
            });
        }
        Rounding::Stochastic { key, first_index } => {
            let random = Random::new(key, first_index, TILE);
            let [slope, offset] = NF4_LINES.each_ref().map(|line| load(line));
            each_pair(values, bytes, |values, at| {
                let scaled = _mm512_mul_ps(load(values), _mm512_set1_ps(inverse));
                let below = count_marks::<_CMP_GE_OQ>(&LEVELS, scaled);
                let slope = _mm512_permutexvar_ps(below, slope);
                let offset = _mm512_permutexvar_ps(below, offset);
                let place = nearest(_mm512_add_ps(_mm512_mul_ps(scaled, slope), offset));
                let place = _mm512_max_epi32(place, _mm512_setzero_si512());
                let code = _mm512_add_epi32(place, random.at(at));
                let code = _mm512_srai_epi32::<PART_BITS>(code);
                _mm512_min_epi32(code, _mm512_set1_epi32(15))
            });
        }
    }
}

/// Calls `code` for 16 values at a time and joins each two codes, the first in the high bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn each_pair(
    values: &[f32; TILE],
    bytes: &mut [u8; TILE / 2],
    code: impl Fn(&[f32; LANES], usize) -> __m512i,
) {
    let registers = values.as_chunks::<LANES>().0;
    // Without a loop or a closure around them, these calls are certain to be part of this function.
    let (a, b) = (code(&registers[0], 0), code(&registers[1], LANES));
    let (c, d) = (code(&registers[2], 2 * LANES), code(&registers[3], 3 * LANES));
    // Codes as bytes, in each quarter of the register four of a, four of b, four of c, four of d.
    let bytewise = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
    // Each two bytes become 16 times the first plus the second.
    let pairs = _mm512_maddubs_epi16(bytewise, _mm512_set1_epi16(0x0110));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let pairs = _mm512_permutexvar_epi32(order, pairs);
    // SAFETY: the array has room for the 32 bytes of the register.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), _mm512_cvtepi16_epi8(pairs)) };
}

/// How many marks values exceed or reach.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn count_marks<const COMPARE: i32>(marks: &Cells, scaled: __m512) -> __m512i {
    let (below, inside) = (marks.below.as_chunks().0, marks.inside.as_chunks().0);
    // The sum has the number of the cell in its low bits, and look-ups mind five of them.
    let place = _mm512_fmadd_ps(scaled, _mm512_set1_ps(CELLS), _mm512_set1_ps(ROUNDER));
    let cell = _mm512_castps_si512(place);
    let count = _mm512_permutex2var_epi32(load_i32(&below[0]), cell, load_i32(&below[1]));
    let mark = _mm512_permutex2var_ps(load(&inside[0]), cell, load(&inside[1]));
    let past = _mm512_cmp_ps_mask::<COMPARE>(scaled, mark);
    _mm512_mask_add_epi32(count, past, count, _mm512_set1_epi32(1))
}

/// Decodes 64 values of NF4, times `scale`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn decode_nf4(bytes: &[u8; TILE / 2], scale: f32, values: &mut [f32; TILE]) {
    // The scale first: a product with each level is that of each value.
    let levels = _mm512_mul_ps(load(&NF4), _mm512_set1_ps(scale));
    for (bytes, values) in bytes.as_chunks().0.iter().zip(values.as_chunks_mut::<32>().0) {
        let bytes = load_codes(bytes);
        let first = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), levels);
        let second = _mm512_permutexvar_ps(bytes, levels);
        let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        let (lower, upper) = values.split_first_chunk_mut().expect("32 values");
        store(lower, _mm512_permutex2var_ps(first, low, second));
        let upper = upper.try_into().expect("the other 16");
        store(upper, _mm512_permutex2var_ps(first, high, second));
    }
}
