//! Operands packed into panels of 32 columns, ready for register tiles.
//!
//! A panel is `[words of k][32]`: a word is one f32, or two bf16 neighbours along k. Where the tiles do not
//! apply, the panels are the operand itself, `[k][n]` in f32, rounded to bf16 if the product asks for it.

#![allow(unsafe_code)]

use half::bf16;
use smidgen_codec::Tag;

use super::{Compute, Engine, avx512, fallback, tiles_apply};
use crate::tensor::{Element, Shared, View};
use crate::{Error, Level};

/// An operand of `k x n` values, packed.
pub(crate) struct Panels<S> {
    bytes: S,
    /// Values of k that are multiplied; at most those that were packed.
    pub(crate) k: usize,
    /// Columns that are multiplied; at most those that were packed.
    pub(crate) n: usize,
    pub(super) packed_k: usize,
    pub(super) packed_n: usize,
}

impl<'a> Panels<&'a [u8]> {
    /// The first `k` values of the first `n` columns.
    pub(crate) fn part(&self, k: usize, n: usize) -> Panels<&'a [u8]> {
        assert!(k <= self.packed_k && n <= self.packed_n, "a part lies inside its panels");
        Panels { k, n, ..*self }
    }
}

impl<S: AsRef<[u8]>> Panels<S> {
    pub(super) fn start(&self) -> *const u8 {
        self.bytes.as_ref().as_ptr()
    }

    /// The first `k` values of the first `n` columns, borrowed.
    pub(crate) fn head(&self, k: usize, n: usize) -> Panels<&[u8]> {
        let Panels { packed_k, packed_n, .. } = *self;
        Panels { bytes: self.bytes.as_ref(), k: packed_k, n: packed_n, packed_k, packed_n }
            .part(k, n)
    }
}

impl Panels<crate::Buffer> {
    /// Room for an operand of `k x n` that is filled value by value; zero so far.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn zeroed(engine: &Engine<'_>, k: usize, n: usize, tag: Tag) -> Result<Self, Error> {
        let bytes = engine.pool.zeroed(tag, panel_bytes(engine, k, n))?;
        Ok(Panels { bytes, k, n, packed_k: k, packed_n: n })
    }

    /// Fills column `j` of the operand, from row 0 on.
    pub(crate) fn put_column<A: Element>(&mut self, engine: &Engine<'_>, j: usize, values: &[A]) {
        let (at, size) = self.place(engine, values.len().max(1) - 1, j);
        let (first, per_word) = (self.place(engine, 0, j).0, if size == 2 { 2 } else { 1 });
        let bytes = &mut self.bytes.as_mut()[..at + size];
        let step = if engine.has_tiles() { 128 } else { self.packed_n * 4 };
        for (w, values) in values.chunks(per_word).enumerate() {
            let to = &mut bytes[first + w * step..];
            match values {
                [a, b] => {
                    to[..4].copy_from_slice(&(low_bits(*a) | low_bits(*b) << 16).to_ne_bytes())
                }
                [a] if size == 2 => to[..2].copy_from_slice(&(low_bits(*a) as u16).to_ne_bytes()),
                _ => to[..4]
                    .copy_from_slice(&round_to(engine.compute, values[0].to_f32()).to_ne_bytes()),
            }
        }
    }

    /// Fills row `t` of the operand, from column 0 on.
    pub(crate) fn put_row<A: Element>(&mut self, engine: &Engine<'_>, t: usize, values: &[A]) {
        for (panel, values) in values.chunks(32).enumerate() {
            let (at, size) = self.place(engine, t, panel * 32);
            let bytes = &mut self.bytes.as_mut()[at..];
            for (lane, value) in values.iter().enumerate() {
                match size {
                    2 => bytes[lane * 4..][..2]
                        .copy_from_slice(&(low_bits(*value) as u16).to_ne_bytes()),
                    _ => bytes[lane * 4..][..4]
                        .copy_from_slice(&round_to(engine.compute, value.to_f32()).to_ne_bytes()),
                }
            }
        }
    }

    /// The value at row `t` and column `j` of the operand.
    pub(crate) fn get(&self, engine: &Engine<'_>, t: usize, j: usize) -> f32 {
        let (at, bytes) = self.place(engine, t, j);
        match self.bytes.as_ref()[at..at + bytes] {
            [a, b] => bf16::from_bits(u16::from_ne_bytes([a, b])).to_f32(),
            [a, b, c, d] => f32::from_ne_bytes([a, b, c, d]),
            _ => unreachable!("a value has two or four bytes"),
        }
    }

    /// Where a value lies, and in how many bytes.
    fn place(&self, engine: &Engine<'_>, t: usize, j: usize) -> (usize, usize) {
        assert!(t < self.packed_k && j < self.packed_n, "a place inside the operand");
        if !engine.has_tiles() {
            return ((t * self.packed_n + j) * 4, 4);
        }
        let per_word = engine.compute.values_per_word();
        let bytes = 4 / per_word;
        let word = (j / 32 * self.packed_k.div_ceil(per_word) + t / per_word) * 32 + j % 32;
        (word * 4 + t % per_word * bytes, bytes)
    }
}

/// A value as bf16, in the low half of a word.
fn low_bits<A: Element>(value: A) -> u32 {
    u32::from(<bf16 as Element>::from_f32(value.to_f32()).to_bits())
}

/// A value as an operand of the portable product holds it.
pub(super) fn round_to(compute: Compute, value: f32) -> f32 {
    match compute {
        Compute::F32 => value,
        Compute::Bf16 => <bf16 as Element>::from_f32(value).to_f32(),
    }
}

/// Bytes of panels for a right operand of `k x n`.
pub(crate) fn panel_bytes(engine: &Engine<'_>, k: usize, n: usize) -> usize {
    panel_bytes_at(engine.level, engine.compute, k, n)
}

/// The same at a given level; more than there can be where the product leaves the range.
pub(crate) fn panel_bytes_at(level: Level, compute: Compute, k: usize, n: usize) -> usize {
    if tiles_apply(level, compute) {
        let words = k.div_ceil(compute.values_per_word()) * 4;
        n.next_multiple_of(32).saturating_mul(words)
    } else {
        k.saturating_mul(n).saturating_mul(4)
    }
}

/// The right operand before packing.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Given transposed: the rows of these matrices, stacked, are the columns of the operand.
    Transposed(&'a [View<'a>]),
    /// These matrices, stacked, are the operand.
    Stacked(&'a [View<'a>]),
}

impl Right<'_> {
    /// `(k, n)`.
    pub(super) fn size(&self) -> (usize, usize) {
        let rows = |views: &[View<'_>]| views.iter().map(|v| v.rows).sum::<usize>();
        match self {
            Right::Transposed(views) => (views[0].cols, rows(views)),
            Right::Stacked(views) => (rows(views), views[0].cols),
        }
    }

    /// How many panels it makes.
    fn panels(&self, engine: &Engine<'_>) -> usize {
        self.size().1.div_ceil(engine.panel_width())
    }
}

/// The matrix and the row in it that hold row `index` of a stack.
pub(super) fn find<'a>(views: &[View<'a>], mut index: usize) -> View<'a> {
    for view in views {
        if index < view.rows {
            return view.window(index, 1, 0, view.cols);
        }
        index -= view.rows;
    }
    unreachable!("a row inside the stack")
}

/// Packs one panel; `dst` points at the first byte of all panels.
fn pack_panel(engine: &Engine<'_>, right: &Right<'_>, panel: usize, dst: Shared<u8>) {
    let (k, n) = right.size();
    if !engine.has_tiles() {
        return fallback::pack_columns(engine, right, panel, dst);
    }
    let words = k.div_ceil(engine.compute.values_per_word());
    let first = panel * avx512::NR;
    let count = avx512::NR.min(n - first);
    let to = dst.at(panel * words * avx512::NR * 4).cast::<i32>();
    match right {
        Right::Transposed(views) => {
            let mut rows = [views[0]; avx512::NR];
            for (lane, row) in rows.iter_mut().enumerate().take(count) {
                *row = find(views, first + lane);
            }
            // SAFETY: `has_tiles` says the instructions are there; a panel has `words` rows of 32.
            unsafe { avx512::pack_rows(engine.compute, &rows[..count], k, to) }
        }
        Right::Stacked(views) => {
            let mut done = 0;
            for view in *views {
                // Every matrix but the last has an even number of rows, see `product`.
                let to = to.wrapping_add(done / engine.compute.values_per_word() * avx512::NR);
                // SAFETY: as above.
                unsafe { avx512::pack_columns(engine.compute, *view, first, count, to) }
                done += view.rows;
            }
        }
    }
}

/// Packs the right operand over the whole team.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn pack(
    engine: &Engine<'_>,
    right: Right<'_>,
    tag: Tag,
) -> Result<Panels<crate::Buffer>, Error> {
    let (k, n) = right.size();
    let mut bytes = engine.pool.bytes(tag, panel_bytes(engine, k, n))?;
    let dst = Shared::new(bytes.as_mut());
    engine.team.run(right.panels(engine), |panel| pack_panel(engine, &right, panel, dst));
    Ok(Panels { bytes, k, n, packed_k: k, packed_n: n })
}

/// Packs the right operand on the calling thread, into memory it was given.
pub(crate) fn pack_into<'b>(
    engine: &Engine<'_>,
    right: Right<'_>,
    bytes: &'b mut [u8],
) -> Panels<&'b [u8]> {
    let (k, n) = right.size();
    assert!(bytes.len() >= panel_bytes(engine, k, n), "room for the panels");
    let dst = Shared::new(bytes);
    (0..right.panels(engine)).for_each(|panel| pack_panel(engine, &right, panel, dst));
    Panels { bytes, k, n, packed_k: k, packed_n: n }
}
