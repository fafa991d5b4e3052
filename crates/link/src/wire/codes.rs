//! One payload that was received: its codes and scales, checked, and the values they stand for.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Mutex;

use smidgen_codec::Level;
use smidgen_codec::element::row::{RowCode, RowFault, RowScale};
use smidgen_codec::element::{bf16, f16};
use smidgen_codec::simd::copy_streaming;
use smidgen_tensor::Device;

use super::error::Fault;
use super::precision::{Element, Precision};
use super::scale::{Granularity, Grid, ScaleType, first};

/// Rows at once; see the encoder.
const TILE: usize = 64;
/// Values of a task.
const CHUNK: usize = 1 << 16;
/// Values that no cache keeps until somebody reads them: 32 MiB.
const LARGE: usize = 1 << 23;

/// Keys or values of a group of tokens in a block of layers.
#[derive(Clone, Debug)]
pub struct Codes<'a> {
    pub(super) grid: Grid,
    pub(super) granularity: Granularity,
    pub(super) scale: ScaleType,
    pub(super) precision: Precision,
    pub(super) element: Element,
    pub(super) codes: Cow<'a, [u8]>,
    pub(super) scales: Cow<'a, [u8]>,
    pub(super) zeros: Cow<'a, [u8]>,
}

impl Codes<'_> {
    /// The format of its elements.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Values in it: layers x batch x tokens x heads x elements.
    pub fn len(&self) -> usize {
        self.grid.rows() * self.grid.dim
    }

    /// Whether it is empty, which no payload that was received is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn scale_at(&self, number: usize) -> RowScale {
        let zero = self.zeros.get(number).copied().unwrap_or(0);
        RowScale { scale: self.scale.read(&self.scales, number), zero }
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.precision.row_bytes(self.grid.dim)
    }

    /// The scales of some rows of one scale each.
    fn row_scales(&self, rows: Range<usize>, out: &mut [RowScale]) {
        let Grid { tokens, heads, .. } = self.grid;
        for (row, scale) in rows.zip(out) {
            let (token, head) = (row / heads, row % heads);
            let (plane, token) = (token / tokens, token % tokens);
            let unit = match self.granularity {
                Granularity::Block => row,
                granularity => self.grid.scale_of(granularity, plane, token, head, 0),
            };
            *scale = self.scale_at(unit);
        }
    }

    /// The scales of the values of one row.
    fn value_scales(&self, row: usize, out: &mut [RowScale]) {
        let Grid { tokens, heads, .. } = self.grid;
        let (plane, token, head) = (row / heads / tokens, row / heads % tokens, row % heads);
        for (at, scale) in out.iter_mut().enumerate() {
            *scale = self.scale_at(self.grid.scale_of(self.granularity, plane, token, head, at));
        }
    }

    /// Whether the groups of a row are rows themselves.
    fn groups_are_rows(&self) -> Option<usize> {
        let Granularity::Group(size) = self.granularity else { return None };
        let size = usize::from(size);
        let whole = (size * self.precision.bits()).is_multiple_of(8);
        (whole && self.grid.dim.is_multiple_of(size)).then_some(size)
    }

    /// Decodes rows to `values`.
    fn rows(&self, level: Level, rows: Range<usize>, values: &mut [f32]) {
        let (dim, row_bytes) = (self.grid.dim, self.row_bytes());
        let codes = &self.codes[rows.start * row_bytes..rows.end * row_bytes];
        let Element::Scaled(code) = self.element else {
            return unpack_plain(self.element, codes, values);
        };
        let mut scales = [RowScale::default(); TILE];
        let by_row = self.granularity.by_row().then_some(dim);
        if let Some(len) = by_row.or(self.groups_are_rows()) {
            let parts = dim / len;
            let tiles = codes.chunks(TILE * code.row_bytes(len)).zip(values.chunks_mut(TILE * len));
            for ((codes, values), first) in tiles.zip((rows.start * parts..).step_by(TILE)) {
                let scales = &mut scales[..values.len() / len];
                self.tile_scales(first, scales);
                code.unpack(level, len, scales, codes, values);
            }
            return;
        }
        let mut scales = vec![RowScale::default(); dim];
        let each = codes.chunks_exact(row_bytes).zip(values.chunks_exact_mut(dim));
        for ((codes, values), row) in each.zip(rows) {
            self.value_scales(row, &mut scales);
            code.unpack_each(level, &scales, codes, values);
        }
    }

    /// The scales of rows, or of the groups that are rows.
    fn tile_scales(&self, first: usize, out: &mut [RowScale]) {
        if !matches!(self.granularity, Granularity::Block | Granularity::Group(_)) {
            return self.row_scales(first..first + out.len(), out);
        }
        let mut steps = [0.0; TILE];
        let steps = &mut steps[..out.len()];
        self.scale.read_all(&self.scales, first, steps);
        for (scale, step) in out.iter_mut().zip(&*steps) {
            *scale = RowScale { scale: *step, zero: 0 };
        }
        for (scale, zero) in out.iter_mut().zip(self.zeros.iter().skip(first)) {
            scale.zero = *zero;
        }
    }

    /// Writes all values to `out`, `[layer][batch][token][head][dim]`; past the caches where it is large.
    ///
    /// # Panics
    /// When `out` is not [`Codes::len`] long.
    pub fn decode_into(&self, device: &Device, out: &mut [f32]) {
        self.decode(device, out, out.len() >= LARGE);
    }

    /// As [`Codes::decode_into`], to room that is new: the system brings its pages into the caches anyway.
    pub(super) fn decode_to_new(&self, device: &Device, out: &mut [f32]) {
        self.decode(device, out, false);
    }

    fn decode(&self, device: &Device, out: &mut [f32], is_large: bool) {
        assert_eq!(out.len(), self.len(), "room for each value");
        let token_len = self.grid.heads * self.grid.dim;
        let step = (CHUNK / token_len).max(1);
        let tasks: Vec<_> = out.chunks_mut(step * token_len).map(Mutex::new).collect();
        device.team().run(tasks.len(), |task| {
            let mut values = tasks[task].lock().expect("each chunk has one task");
            let first = task * step * self.grid.heads;
            let rows = first..first + values.len() / self.grid.dim;
            if !is_large {
                return self.rows(device.level(), rows, &mut values);
            }
            let mut tile = vec![0.0; TILE * self.grid.dim];
            for (out, first) in values.chunks_mut(tile.len()).zip(rows.step_by(TILE)) {
                let tile = &mut tile[..out.len()];
                self.rows(device.level(), first..first + out.len() / self.grid.dim, tile);
                copy_streaming(tile, out);
            }
        });
    }

    /// Writes the tokens of one plane, a layer of one sequence, to their places in
    /// `out`, `[token][head][dim]`: token i of the group to place `places[i]`.
    ///
    /// # Panics
    /// When there are not as many places as tokens, or when `out` has no such place.
    pub fn decode_plane(&self, level: Level, plane: usize, places: &[u32], out: &mut [f32]) {
        let Grid { tokens, heads, dim, .. } = self.grid;
        assert_eq!(places.len(), tokens, "a place for each token");
        let mut first = plane * tokens;
        for run in places.chunk_by(|a, b| a + 1 == *b) {
            let rows = first * heads..(first + run.len()) * heads;
            let start = run[0] as usize * heads * dim;
            let values = &mut out[start..start + run.len() * heads * dim];
            self.rows(level, rows, values);
            first += run.len();
        }
    }

    /// Checks the scales, under which every value is finite. An error is at a byte of the scales, or
    /// of the zero points.
    pub(super) fn check_scales(&self, lenient: bool) -> Result<(), (bool, usize, Fault)> {
        let Element::Scaled(code) = self.element else { return Ok(()) };
        if let Some(number) = self.scale.first_wrong(&self.scales, code.largest(lenient)) {
            return Err((false, number * self.scale.bytes(), Fault::Scale));
        }
        let top = code.top() as u8;
        let wrong = |(number, zero): &(usize, &u8)| {
            **zero > top || **zero > 0 && self.scale.read(&self.scales, *number) == 0.0
        };
        match self.zeros.iter().enumerate().find(wrong) {
            Some((number, zero)) => Err((true, number, Fault::Zero(*zero))),
            None => Ok(()),
        }
    }

    /// Checks the codes of some rows. An error is at a byte of all codes. Total on any bytes.
    pub(super) fn check_rows(
        &self,
        level: Level,
        rows: Range<usize>,
        lenient: bool,
    ) -> Result<(), (usize, Fault)> {
        let row_bytes = self.row_bytes();
        let start = rows.start * row_bytes;
        let codes = &self.codes[start..rows.end * row_bytes];
        let Element::Scaled(code) = self.element else {
            let bad = first_not_finite(self.element, codes);
            return bad.map_or(Ok(()), |at| Err((start + at, Fault::Row(RowFault::NoNumber))));
        };
        let by_row = self.granularity.by_row().then_some(self.grid.dim);
        let found = match by_row.or(self.groups_are_rows()) {
            Some(len) => self.first_fault(level, code, len, rows.start, codes, lenient),
            None => self.first_fault_each(code, rows.start, codes, lenient),
        };
        found.map_or(Ok(()), |(at, fault)| Err((start + at, Fault::Row(fault))))
    }

    fn first_fault(
        &self,
        level: Level,
        code: RowCode,
        len: usize,
        first_row: usize,
        codes: &[u8],
        lenient: bool,
    ) -> Option<(usize, RowFault)> {
        let mut scales = [RowScale::default(); TILE];
        let (bytes, parts) = (code.row_bytes(len), self.grid.dim / len);
        for (tile, codes) in codes.chunks(TILE * bytes).enumerate() {
            let scales = &mut scales[..codes.len() / bytes];
            self.tile_scales(first_row * parts + tile * TILE, scales);
            if let Some((row, fault)) = code.fault(level, len, scales, codes, lenient) {
                return Some(((tile * TILE + row) * bytes, fault));
            }
        }
        None
    }

    fn first_fault_each(
        &self,
        code: RowCode,
        first_row: usize,
        codes: &[u8],
        lenient: bool,
    ) -> Option<(usize, RowFault)> {
        let mut scales = vec![RowScale::default(); self.grid.dim];
        let rows = codes.chunks_exact(self.row_bytes()).enumerate();
        rows.filter_map(|(row, codes)| {
            self.value_scales(first_row + row, &mut scales);
            let fault = code.fault_each(&scales, codes, lenient)?;
            Some((row * self.row_bytes(), fault))
        })
        .next()
    }
}

fn unpack_plain(element: Element, codes: &[u8], values: &mut [f32]) {
    match element {
        Element::F16 => f16::unpack(codes.as_chunks().0, values),
        Element::Bf16 => bf16::unpack(codes.as_chunks().0, values),
        _ => {
            for (code, value) in codes.as_chunks().0.iter().zip(values) {
                *value = f32::from_le_bytes(*code);
            }
        }
    }
}

/// The byte of the first element that is infinite or NaN: all bits of its exponent are set.
fn first_not_finite(element: Element, codes: &[u8]) -> Option<usize> {
    let halves = |exponent: u16| {
        let bad = |code: &[u8; 2]| u16::from_le_bytes(*code) & exponent == exponent;
        first(codes.as_chunks().0, bad).map(|at| 2 * at)
    };
    match element {
        Element::F16 => halves(0x7c00),
        Element::Bf16 => halves(0x7f80),
        _ => {
            let bad = |code: &[u8; 4]| !f32::from_le_bytes(*code).is_finite();
            first(codes.as_chunks().0, bad).map(|at| 4 * at)
        }
    }
}
