//! Rows of codes whose scales lie elsewhere: the elements of a cache as it travels.
//!
//! code = code of (value / scale), value = value of code * scale. A division, because a product
//! with the inverse rounds otherwise, and two programs have to make the same bytes. A row begins on
//! a byte, its first code in the lowest bits; the spare bits of its last byte are zero. Under a
//! scale of 0 all values are 0, and so is each code (7 for NF4).
//! Differs from the blocks of [`CODECS`](crate::CODECS): those keep the inverse of an f32 scale.

mod code;

use self::code::{Code, Int, Quantile, Uint};
use super::minifloat::{E4M3, E5M2};
use super::pack;
use crate::{Level, multiversion};

/// What the codes of a row, or of one value, are scaled by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowScale {
    /// The value of a step, rounded to whatever it is kept in; 0 where all values are.
    pub scale: f32,
    /// The code of 0, for codes that have a zero point.
    pub zero: u8,
}

/// A code that needs a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowCode {
    /// 8 bits, -127 to 127.
    Int8,
    /// 6 bits, -31 to 31.
    Int6,
    /// 4 bits, -7 to 7.
    Int4,
    /// 2 bits, -1 to 1.
    Int2,
    /// 8 bits with a zero point.
    Uint8,
    /// 6 bits with a zero point.
    Uint6,
    /// 4 bits with a zero point.
    Uint4,
    /// 2 bits with a zero point.
    Uint2,
    /// 4 bits, quantiles of the normal distribution.
    Nf4,
    /// 8 bits, up to 448.
    E4M3,
    /// 8 bits, up to 57344.
    E5M2,
}

/// What a row may not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFault {
    /// A code that no encoder makes, such as -8 of `int4`.
    Unused,
    /// A code of infinity or of NaN.
    NoNumber,
    /// A code of another value than 0 under a scale of 0.
    NotZero,
    /// Bits behind the last code of the row.
    Spare,
}

/// Calls a function for the type of a code.
macro_rules! dispatch {
    ($code:expr, $run:ident ( $($arg:expr),* )) => {
        match $code {
            RowCode::Int8 => $run::<Int<8>>($($arg),*),
            RowCode::Int6 => $run::<Int<6>>($($arg),*),
            RowCode::Int4 => $run::<Int<4>>($($arg),*),
            RowCode::Int2 => $run::<Int<2>>($($arg),*),
            RowCode::Uint8 => $run::<Uint<8>>($($arg),*),
            RowCode::Uint6 => $run::<Uint<6>>($($arg),*),
            RowCode::Uint4 => $run::<Uint<4>>($($arg),*),
            RowCode::Uint2 => $run::<Uint<2>>($($arg),*),
            RowCode::Nf4 => $run::<Quantile>($($arg),*),
            RowCode::E4M3 => $run::<E4M3>($($arg),*),
            RowCode::E5M2 => $run::<E5M2>($($arg),*),
        }
    };
}

impl RowCode {
    /// Every code.
    pub const ALL: [RowCode; 11] = [
        RowCode::Int8,
        RowCode::Int6,
        RowCode::Int4,
        RowCode::Int2,
        RowCode::Uint8,
        RowCode::Uint6,
        RowCode::Uint4,
        RowCode::Uint2,
        RowCode::Nf4,
        RowCode::E4M3,
        RowCode::E5M2,
    ];

    /// Bits of a code.
    pub fn bits(self) -> usize {
        fn bits<C: Code>() -> usize {
            C::BITS
        }
        dispatch!(self, bits())
    }

    /// What the largest size of values is divided by for their scale; with a zero point, the
    /// distance of the largest from the smallest.
    pub fn top(self) -> f32 {
        fn top<C: Code>() -> f32 {
            C::TOP
        }
        dispatch!(self, top())
    }

    /// The size of the largest value under a scale of 1; `lenient` counts codes that have a value though
    /// no encoder makes them.
    pub fn largest(self, lenient: bool) -> f32 {
        match self {
            RowCode::Int8 | RowCode::Int6 | RowCode::Int4 | RowCode::Int2 if lenient => {
                self.top() + 1.0
            }
            _ => self.top(),
        }
    }

    /// Whether scales have a zero point.
    pub fn has_zero(self) -> bool {
        matches!(self, RowCode::Uint8 | RowCode::Uint6 | RowCode::Uint4 | RowCode::Uint2)
    }

    /// Bytes of a row of `len` values.
    pub fn row_bytes(self, len: usize) -> usize {
        (len * self.bits()).div_ceil(8)
    }

    /// Codes rows of `len` values, each under its scale. Writes every byte; values are finite.
    pub fn pack(
        self,
        level: Level,
        len: usize,
        scales: &[RowScale],
        values: &[f32],
        bytes: &mut [u8],
    ) {
        dispatch!(self, pack_rows(level, len, scales, values, bytes));
    }

    /// Decodes rows of `len` values. Total on any bytes.
    pub fn unpack(
        self,
        level: Level,
        len: usize,
        scales: &[RowScale],
        bytes: &[u8],
        values: &mut [f32],
    ) {
        dispatch!(self, unpack_rows(level, len, scales, bytes, values));
    }

    /// Codes one row of which each value has its own scale.
    pub fn pack_each(self, level: Level, scales: &[RowScale], values: &[f32], bytes: &mut [u8]) {
        dispatch!(self, pack_values(level, scales, values, bytes));
    }

    /// Decodes one row of which each value has its own scale.
    pub fn unpack_each(self, level: Level, scales: &[RowScale], bytes: &[u8], values: &mut [f32]) {
        dispatch!(self, unpack_values(level, scales, bytes, values));
    }

    /// The first of rows of `len` values that holds what it may not, and why.
    ///
    /// `lenient` lets codes pass that have a value though no encoder makes them.
    pub fn fault(
        self,
        level: Level,
        len: usize,
        scales: &[RowScale],
        bytes: &[u8],
        lenient: bool,
    ) -> Option<(usize, RowFault)> {
        let whole = (len * self.bits()).is_multiple_of(8);
        let plain = whole && scales.iter().all(|row| row.scale != 0.0);
        if plain && !dispatch!(self, any_fault(level, bytes, lenient)) {
            return None;
        }
        let rows = bytes.chunks_exact(self.row_bytes(len)).zip(scales).enumerate();
        rows.filter_map(|(row, (bytes, scale))| {
            let scales = std::iter::repeat_n(scale, len);
            Some((row, dispatch!(self, row_fault(scales, bytes, lenient))?))
        })
        .next()
    }

    /// Why one row of which each value has its own scale may not be, if so.
    pub fn fault_each(self, scales: &[RowScale], bytes: &[u8], lenient: bool) -> Option<RowFault> {
        dispatch!(self, row_fault(scales.iter(), bytes, lenient))
    }
}

multiversion! {
    fn pack_rows<C: Code>(len: usize, scales: &[RowScale], values: &[f32], bytes: &mut [u8]) {
        let rows = values.chunks_exact(len).zip(bytes.chunks_exact_mut((len * C::BITS).div_ceil(8)));
        for ((values, bytes), RowScale { scale, zero }) in rows.zip(scales) {
            match *scale {
                0.0 => pack_row::<C>(values, bytes, |_| C::code(0.0, *zero)),
                scale => pack_row::<C>(values, bytes, |x| C::code(x / scale, *zero)),
            }
        }
    }
}

multiversion! {
    fn unpack_rows<C: Code>(len: usize, scales: &[RowScale], bytes: &[u8], values: &mut [f32]) {
        let rows = values.chunks_exact_mut(len).zip(bytes.chunks_exact((len * C::BITS).div_ceil(8)));
        for ((values, bytes), RowScale { scale, zero }) in rows.zip(scales) {
            unpack_row::<C>(bytes, values, |code| C::value(code, *zero) * scale);
        }
    }
}

multiversion! {
    fn pack_values<C: Code>(scales: &[RowScale], values: &[f32], bytes: &mut [u8]) {
        let mut codes = [0.0; TILE];
        let tiles = values.chunks(TILE).zip(scales.chunks(TILE));
        for ((values, scales), bytes) in tiles.zip(bytes.chunks_mut(TILE * C::BITS / 8)) {
            for ((slot, x), RowScale { scale, zero }) in codes.iter_mut().zip(values).zip(scales) {
                let scaled = if *scale == 0.0 { 0.0 } else { x / scale };
                *slot = f32::from(C::code(scaled, *zero));
            }
            pack_row::<C>(&codes[..values.len()], bytes, |code| code as u8);
        }
    }
}

multiversion! {
    fn unpack_values<C: Code>(scales: &[RowScale], bytes: &[u8], values: &mut [f32]) {
        let tiles = values.chunks_mut(TILE).zip(bytes.chunks(TILE * C::BITS / 8));
        for ((values, bytes), scales) in tiles.zip(scales.chunks(TILE)) {
            unpack_row::<C>(bytes, values, f32::from);
            for (value, RowScale { scale, zero }) in values.iter_mut().zip(scales) {
                *value = C::value(*value as u8, *zero) * scale;
            }
        }
    }
}

/// Values of a row at once where each has its own scale.
const TILE: usize = 64;

#[inline(always)]
fn pack_row<C: Code>(values: &[f32], bytes: &mut [u8], code: impl Fn(f32) -> u8) {
    match C::BITS {
        2 => pack::from_values::<2, false>(values, bytes, code),
        4 => pack::from_values::<4, false>(values, bytes, code),
        6 => pack::from_values::<6, false>(values, bytes, code),
        _ => pack::from_values::<8, false>(values, bytes, code),
    }
}

#[inline(always)]
fn unpack_row<C: Code>(bytes: &[u8], values: &mut [f32], value: impl Fn(u8) -> f32) {
    match C::BITS {
        2 => pack::to_values::<2, false>(bytes, values, value),
        4 => pack::to_values::<4, false>(bytes, values, value),
        6 => pack::to_values::<6, false>(bytes, values, value),
        _ => pack::to_values::<8, false>(bytes, values, value),
    }
}

multiversion! {
    /// Whether any code of bytes without spare bits may not be, under scales that are not 0.
    fn any_fault<C: Code>(bytes: &[u8], lenient: bool) -> bool {
        let wrong = |code: u8| C::no_number(code) | (C::unused(code) & !lenient);
        let mut found = false;
        match C::BITS {
            6 => {
                for three in bytes.as_chunks::<3>().0 {
                    let word = u32::from_le_bytes([three[0], three[1], three[2], 0]);
                    found |= [0, 6, 12, 18].map(|at| wrong((word >> at) as u8 & 63)).contains(&true);
                }
            }
            bits => {
                for byte in bytes {
                    let mask = (255 >> (8 - bits)) as u8;
                    for at in (0..8).step_by(bits) {
                        found |= wrong(byte >> at & mask);
                    }
                }
            }
        }
        found
    }
}

/// Why a row may not be.
fn row_fault<'a, C: Code>(
    scales: impl Iterator<Item = &'a RowScale>,
    bytes: &[u8],
    lenient: bool,
) -> Option<RowFault> {
    let mut bits = 0;
    for RowScale { scale, zero } in scales {
        let code = bits_at(bytes, bits, C::BITS);
        if *scale == 0.0 && code != C::code(0.0, *zero) {
            return Some(RowFault::NotZero);
        }
        if C::no_number(code) {
            return Some(RowFault::NoNumber);
        }
        if C::unused(code) && !lenient {
            return Some(RowFault::Unused);
        }
        bits += C::BITS;
    }
    (bits_at(bytes, bits, 8 * bytes.len() - bits) != 0).then_some(RowFault::Spare)
}

/// Up to 8 bits from bit `first` on; nothing lies behind the end.
fn bits_at(bytes: &[u8], first: usize, count: usize) -> u8 {
    let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
    let both = byte(first / 8) | byte(first / 8 + 1) << 8;
    (both >> (first % 8) & ((1 << count) - 1)) as u8
}

/// The largest size of each row of `len` values; NaN and infinity are above all numbers.
pub fn largest(level: Level, len: usize, values: &[f32], sizes: &mut [f32]) {
    largest_rows(level, len, values, sizes);
}

multiversion! {
    fn largest_rows(len: usize, values: &[f32], sizes: &mut [f32]) {
        for (row, size) in values.chunks_exact(len).zip(sizes) {
            // Without the sign, the bits of floats order as integers do.
            let bits = |value: &f32| (value.to_bits() & 0x7fff_ffff) as i32;
            *size = f32::from_bits(row.iter().map(bits).fold(0, i32::max) as u32);
        }
    }
}

#[cfg(test)]
mod tests;
