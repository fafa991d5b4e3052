//! The quantiser of the wire: values of a payload to codes and scales.
//!
//! With a the largest size of the values that share a scale, in f32:
//! scale = a / top rounded to the type of scales, the smallest number of that type where it would
//! become 0; code = value / scale rounded to even and cut off at top. top is 127, 31, 7 or 1 for
//! int8, int6, int4 and int2, 1 for NF4, 448 and 57344 for FP8.
//! With zero points: lo = min(0, smallest), hi = max(0, largest), scale = (hi - lo) / (2^bits - 1)
//! rounded as above; zero = -lo / scale, code = value / scale + zero, each rounded and cut off.
//! The error is at most scale / 2, and a * 2^-10 more at the ends where f16 rounded a scale down;
//! below a / top = 2^-14 f16 scales are subnormal and no such bound holds at the ends.
//! Source: symmetric absmax quantisation as in KVWire; differs by coding with the rounded scale.

use std::ops::Range;

use smidgen_codec::Level;
use smidgen_codec::element::row::{self, RowCode, RowScale};
use smidgen_codec::element::{bf16, f16};
use smidgen_codec::multiversion;
use smidgen_codec::simd::prefetch;

use super::precision::{Element, Precision};
use super::scale::{Granularity, Grid, ScaleType};

/// Rows at once: their sizes and scales stay in the first cache.
const TILE: usize = 64;
/// Rows that are coded while as many are fetched.
const NEAR: usize = 8;

/// One payload that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) grid: Grid,
    pub(super) granularity: Granularity,
    pub(super) scale: ScaleType,
    pub(super) precision: Precision,
    pub(super) element: Element,
    /// Keys or values of the whole cache, `[L T K E]`.
    pub(super) values: &'a [f32],
    /// T.
    pub(super) seq_len: usize,
    /// The source layers of the block.
    pub(super) layers: &'a [u16],
    /// The tokens of the group.
    pub(super) tokens: &'a [u32],
}

/// A value could not be coded; where is looked for afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Uncodable;

/// The smallest and the largest of some values and 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    lo: f32,
    hi: f32,
}

impl Span {
    /// NaN stays NaN, for it must be found.
    #[inline(always)]
    fn include(&mut self, value: f32) {
        if value.is_nan() || value > self.hi {
            self.hi = value;
        }
        if value < self.lo {
            self.lo = value;
        }
    }

    #[inline(always)]
    fn of_size(size: f32) -> Span {
        Span { lo: -size, hi: size }
    }

    fn join(self, other: Span) -> Span {
        let mut span = self;
        span.include(other.lo);
        span.include(other.hi);
        span
    }
}

/// The scale of values that span so much.
#[inline(always)]
fn scale_of(code: RowCode, scale: ScaleType, span: Span) -> Result<RowScale, Uncodable> {
    let Span { lo, hi } = span;
    let size = if code.has_zero() { hi - lo } else { hi.max(-lo) };
    let step = scale.round(size / code.top());
    // The largest code comes back as this. `max` passes NaN over.
    if !(step * code.top()).is_finite() || hi.is_nan() {
        return Err(Uncodable);
    }
    let zero = if code.has_zero() && step > 0.0 { (-lo / step).round_ties_even() } else { 0.0 };
    Ok(RowScale { scale: step, zero: zero.min(code.top()) as u8 })
}

multiversion! {
    /// Sets the largest sizes of rows to their scales, as [`scale_of`] makes them; whether the largest
    /// codes under all of them are numbers.
    fn steps_of(scale: ScaleType, top: f32, sizes: &mut [f32]) -> bool {
        match scale {
            ScaleType::F16 => round_all(top, sizes, |exact| ScaleType::F16.round(exact)),
            ScaleType::Bf16 => round_all(top, sizes, |exact| ScaleType::Bf16.round(exact)),
            ScaleType::F32 => round_all(top, sizes, |exact| ScaleType::F32.round(exact)),
        }
    }
}

#[inline(always)]
fn round_all(top: f32, sizes: &mut [f32], round: impl Fn(f32) -> f32) -> bool {
    let mut finite = true;
    for size in sizes {
        *size = round(*size / top);
        finite &= (*size * top).is_finite();
    }
    finite
}

impl<'a> Source<'a> {
    /// Elements of one token, all heads.
    pub(super) fn token_len(&self) -> usize {
        self.grid.heads * self.grid.dim
    }

    /// Tokens of all planes.
    pub(super) fn slots(&self) -> usize {
        self.grid.planes() * self.grid.tokens
    }

    /// Bytes of codes, of scales and of zero points of one token, where these are its own.
    pub(super) fn token_bytes(&self) -> [usize; 3] {
        let codes = self.grid.heads * self.precision.row_bytes(self.grid.dim);
        let Element::Scaled(code) = self.element else { return [codes, 0, 0] };
        let scales = match self.granularity {
            Granularity::Block => self.grid.heads,
            Granularity::Group(size) => self.grid.heads * self.grid.dim.div_ceil(size.into()),
            _ => 0,
        };
        [codes, scales * self.scale.bytes(), if code.has_zero() { scales } else { 0 }]
    }

    /// Whether tokens share scales, so that these are made before any code.
    pub(super) fn shares_scales(&self) -> bool {
        let local = matches!(self.granularity, Granularity::Block | Granularity::Group(_));
        matches!(self.element, Element::Scaled(_)) && !local
    }

    /// Where in the cache a plane begins.
    fn plane(&self, plane: usize) -> &'a [f32] {
        let layer = usize::from(self.layers[plane / self.grid.batch]);
        let len = self.seq_len * self.token_len();
        &self.values[(layer * self.grid.batch + plane % self.grid.batch) * len..][..len]
    }

    /// Slots of one plane whose tokens are neighbours in memory, and their values.
    fn runs(&self, slots: Range<usize>) -> impl Iterator<Item = (Range<usize>, &'a [f32])> {
        let (source, n, mut at) = (*self, self.grid.tokens, slots.start);
        std::iter::from_fn(move || {
            let (plane, first) = (at / n, at % n);
            let end = slots.end.min((plane + 1) * n);
            if at >= end {
                return None;
            }
            let listed = &source.tokens[first..first + (end - at)];
            let len = listed.windows(2).take_while(|pair| pair[0] + 1 == pair[1]).count() + 1;
            let run = at..at + len;
            at += len;
            let start = listed[0] as usize * source.token_len();
            Some((run, &source.plane(plane)[start..][..len * source.token_len()]))
        })
    }

    /// What the values of each scale span, for scales that tokens share; those of one plane, or the
    /// one of a plane where whole planes share them.
    pub(super) fn plane_spans(&self, level: Level, plane: usize, spans: &mut [Span]) {
        let Grid { heads, dim, tokens, .. } = self.grid;
        let symmetric = !matches!(self.element, Element::Scaled(code) if code.has_zero());
        let first = match self.granularity {
            Granularity::Tensor | Granularity::Layer => 0,
            granularity => self.grid.scale_of(granularity, plane, 0, 0, 0),
        };
        let mut sizes = [0.0; TILE];
        for (run, values) in self.runs(plane * tokens..(plane + 1) * tokens) {
            let rows = (run.start - plane * tokens) * heads..;
            if symmetric && self.granularity.by_row() {
                let tiles = values.chunks(TILE * dim).zip(rows.step_by(TILE));
                for (values, row) in tiles {
                    let sizes = &mut sizes[..values.len() / dim];
                    row::largest(level, dim, values, sizes);
                    for (size, row) in sizes.iter().zip(row..) {
                        let unit = if spans.len() == 1 { 0 } else { row % heads };
                        spans[unit] = spans[unit].join(Span::of_size(*size));
                    }
                }
                continue;
            }
            for (row_values, row) in values.chunks_exact(dim).zip(rows) {
                for (value, at) in row_values.iter().zip(0..) {
                    let (token, head) = (row / heads, row % heads);
                    let unit = self.grid.scale_of(self.granularity, plane, token, head, at);
                    let unit = if spans.len() == 1 { 0 } else { unit - first };
                    spans[unit].include(*value);
                }
            }
        }
    }

    /// Spans of a plane.
    pub(super) fn spans_per_plane(&self) -> usize {
        match self.granularity {
            Granularity::Tensor | Granularity::Layer => 1,
            Granularity::Head => self.grid.heads,
            granularity => {
                self.grid.scales(granularity).expect("the plan fits into memory") as usize
                    / self.grid.planes()
            }
        }
    }

    /// Makes the scales that tokens share of the spans of all planes, and writes them.
    pub(super) fn shared_scales(
        &self,
        spans: &[Span],
        scales: &mut [u8],
        zeros: &mut [u8],
    ) -> Result<Vec<RowScale>, Uncodable> {
        let Element::Scaled(code) = self.element else { return Ok(Vec::new()) };
        let planes = match self.granularity {
            Granularity::Tensor => spans.len(),
            Granularity::Layer => self.grid.batch,
            _ => 1,
        };
        let joined =
            spans.chunks(planes).map(|s| s.iter().fold(Span::default(), |a, b| a.join(*b)));
        let made = joined.map(|span| scale_of(code, self.scale, span));
        let made: Vec<RowScale> = made.collect::<Result<_, _>>()?;
        self.write_scales(&made, scales, zeros);
        Ok(made)
    }

    #[inline(always)]
    fn write_scales(&self, made: &[RowScale], scales: &mut [u8], zeros: &mut [u8]) {
        for (scale, slot) in made.iter().zip(scales.chunks_exact_mut(self.scale.bytes())) {
            self.scale.write(scale.scale, slot);
        }
        for (scale, slot) in made.iter().zip(zeros) {
            *slot = scale.zero;
        }
    }

    /// Codes the tokens of these slots; `shared` has the scales that tokens share, and where each
    /// token has its own they are written to `scales` and `zeros`.
    pub(super) fn code(
        &self,
        level: Level,
        slots: Range<usize>,
        shared: &[RowScale],
        codes: &mut [u8],
        scales: &mut [u8],
        zeros: &mut [u8],
    ) -> Result<(), Uncodable> {
        let [code_bytes, scale_bytes, zero_bytes] = self.token_bytes();
        let first = slots.start;
        for (run, values) in self.runs(slots) {
            let (from, len) = (run.start - first, run.len());
            let codes = &mut codes[from * code_bytes..][..len * code_bytes];
            let scales = &mut scales[from * scale_bytes..][..len * scale_bytes];
            let zeros = &mut zeros[from * zero_bytes..][..len * zero_bytes];
            match (self.element, self.granularity) {
                (Element::Scaled(code), Granularity::Block) if !code.has_zero() => {
                    self.code_blocks(level, code, self.grid.dim, values, codes, scales)?;
                }
                (Element::Scaled(code), Granularity::Group(size))
                    if !code.has_zero() && self.groups_are_rows(size) =>
                {
                    self.code_blocks(level, code, size.into(), values, codes, scales)?;
                }
                (Element::Scaled(code), granularity) if granularity.by_row() => {
                    self.code_rows(level, code, run.start, shared, values, codes, scales, zeros)?;
                }
                (Element::Scaled(code), _) => {
                    self.code_each(level, code, run.start, shared, values, codes, scales, zeros)?;
                }
                (plain, _) => code_plain(plain, values, codes)?,
            }
        }
        Ok(())
    }

    /// Whether the groups of a row are rows themselves: as many bytes one by one as together.
    fn groups_are_rows(&self, size: u16) -> bool {
        let (size, bits) = (usize::from(size), self.precision.bits());
        self.grid.dim.is_multiple_of(size) && (size * bits).is_multiple_of(8)
    }

    /// Codes rows of `len` values that have a scale each, in one pass through the first cache. The values of the next
    /// tile come from memory while those of this one are coded.
    fn code_blocks(
        &self,
        level: Level,
        code: RowCode,
        len: usize,
        values: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
    ) -> Result<(), Uncodable> {
        let (mut sizes, mut made) = ([0.0; TILE], [RowScale::default(); TILE]);
        let tiles = values.chunks(TILE * len).zip(codes.chunks_mut(TILE * code.row_bytes(len)));
        let mut rest = values;
        for ((values, codes), scales) in tiles.zip(scales.chunks_mut(TILE * self.scale.bytes())) {
            rest = &rest[values.len()..];
            let rows = values.len() / len;
            row::largest(level, len, values, &mut sizes[..rows]);
            let steps = &mut sizes[..rows];
            if !steps_of(level, self.scale, code.top(), steps) {
                return Err(Uncodable);
            }
            self.scale.write_all(steps, scales);
            for (step, scale) in steps.iter().zip(&mut made) {
                scale.scale = *step;
            }
            let parts = values.chunks(NEAR * len).zip(codes.chunks_mut(NEAR * code.row_bytes(len)));
            let mut next = rest.chunks(NEAR * len);
            for ((values, codes), made) in parts.zip(made[..rows].chunks(NEAR)) {
                prefetch(next.next().unwrap_or_default());
                code.pack(level, len, made, values, codes);
            }
        }
        Ok(())
    }

    /// Codes rows of one scale each, which is shared, or made here.
    #[allow(clippy::too_many_arguments)]
    fn code_rows(
        &self,
        level: Level,
        code: RowCode,
        slot: usize,
        shared: &[RowScale],
        values: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
        zeros: &mut [u8],
    ) -> Result<(), Uncodable> {
        let Grid { heads, dim, tokens, .. } = self.grid;
        let (plane, row) = (slot / tokens, slot % tokens * heads);
        let mut made = Vec::new();
        for (values, row) in values.chunks_exact(dim).zip(row..) {
            let unit = self.grid.scale_of(self.granularity, plane, row / heads, row % heads, 0);
            made.push(match self.granularity {
                Granularity::Block => scale_of(code, self.scale, span_of(values))?,
                _ => shared[unit],
            });
        }
        if self.granularity == Granularity::Block {
            self.write_scales(&made, scales, zeros);
        }
        code.pack(level, dim, &made, values, codes);
        Ok(())
    }

    /// Codes rows whose values have different scales, shared or made here.
    #[allow(clippy::too_many_arguments)]
    fn code_each(
        &self,
        level: Level,
        code: RowCode,
        slot: usize,
        shared: &[RowScale],
        values: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
        zeros: &mut [u8],
    ) -> Result<(), Uncodable> {
        let Grid { heads, dim, tokens, .. } = self.grid;
        let (plane, row) = (slot / tokens, slot % tokens * heads);
        let rows = values.chunks_exact(dim).zip(codes.chunks_exact_mut(code.row_bytes(dim)));
        let mut own = Vec::new();
        let mut of_row = vec![RowScale::default(); dim];
        for ((values, codes), row) in rows.zip(row..) {
            match self.granularity {
                Granularity::Group(size) => {
                    let groups = values.chunks(size.into()).zip(of_row.chunks_mut(size.into()));
                    for (values, of_row) in groups {
                        own.push(scale_of(code, self.scale, span_of(values))?);
                        of_row.fill(own[own.len() - 1]);
                    }
                }
                granularity => {
                    let (token, head) = (row / heads, row % heads);
                    let first = self.grid.scale_of(granularity, plane, token, head, 0);
                    of_row.copy_from_slice(&shared[first..][..dim]);
                }
            }
            code.pack_each(level, &of_row, values, codes);
        }
        self.write_scales(&own, scales, zeros);
        Ok(())
    }

    /// The plane, token, head and place of the first value that cannot be coded; where values are
    /// too large only together, of the largest.
    pub(super) fn culprit(&self) -> [usize; 4] {
        let Grid { heads, dim, tokens, .. } = self.grid;
        let (mut largest, mut culprit) = (-1.0, [0; 4]);
        for (run, values) in self.runs(0..self.slots()) {
            for (value, at) in values.iter().zip(0..) {
                let bad = !self.can_be_coded(*value);
                if bad || value.abs() > largest {
                    let slot = run.start + at / (heads * dim);
                    let token = self.tokens[slot % tokens] as usize;
                    largest = value.abs();
                    culprit = [slot / tokens, token, at / dim % heads, at % dim];
                }
                if bad {
                    return culprit;
                }
            }
        }
        culprit
    }

    /// The value with these places.
    pub(super) fn value(&self, [plane, token, head, at]: [usize; 4]) -> f32 {
        self.plane(plane)[token * self.token_len() + head * self.grid.dim + at]
    }

    /// Whether a value alone could be.
    fn can_be_coded(&self, value: f32) -> bool {
        let coded = match self.element {
            Element::Scaled(code) => self.scale.round(value.abs() / code.top()) * code.top(),
            Element::F16 => f16::expand(f16::round(value)),
            Element::Bf16 => bf16::expand(bf16::round(value)),
            Element::F32 => value,
        };
        coded.is_finite() && value.is_finite()
    }
}

fn span_of(values: &[f32]) -> Span {
    let mut span = Span::default();
    values.iter().for_each(|value| span.include(*value));
    span
}

/// Codes values that need no scale.
fn code_plain(element: Element, values: &[f32], codes: &mut [u8]) -> Result<(), Uncodable> {
    let mut size = [0.0];
    row::largest(Level::detect(), values.len().max(1), values, &mut size);
    let largest = match element {
        Element::F16 => {
            f16::pack(values, codes.as_chunks_mut().0);
            f16::expand(f16::round(size[0]))
        }
        Element::Bf16 => {
            bf16::pack(values, codes.as_chunks_mut().0);
            bf16::expand(bf16::round(size[0]))
        }
        _ => {
            for (value, code) in values.iter().zip(codes.as_chunks_mut().0) {
                *code = value.to_le_bytes();
            }
            size[0]
        }
    };
    if largest.is_finite() { Ok(()) } else { Err(Uncodable) }
}
