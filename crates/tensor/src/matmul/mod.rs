//! Matrix products, f32 or bf16 operands with f32 accumulation.
//!
//! `C = A B` in three shapes: the right operand is always packed into panels (from rows or from columns,
//! which is where transposes, strides and the rounding to bf16 are absorbed); the left one is read in
//! place ([`Left::Rows`]) or packed into strips when it comes transposed ([`Left::Columns`]).
//! The order of accumulation along k is fixed by [`KC`] and the kernel alone, so results do not depend on
//! threads, tile sizes or the cutting into tasks. The plain fallback is the `gemm` crate.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx512;
mod fallback;

use half::bf16;
use smidgen_codec::Tag;

use crate::Level;
use crate::tensor::{Element, Format, Shared, View};
use crate::{Error, Pool, Team, Tensor};

/// Values of k accumulated in registers before C is touched.
const KC: usize = 2048;
/// Bytes of panels one task keeps going over; a good half of a core's second-level cache.
const PANEL_BLOCK_BYTES: usize = 448 << 10;
/// Rows of C in one task, at most.
const ROW_BLOCK: usize = 384;

/// The operand format of a product; sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// f32 operands.
    F32,
    /// Operands rounded to bf16.
    Bf16,
}

impl Compute {
    /// The format operands are kept in.
    pub fn format(self) -> Format {
        match self {
            Compute::F32 => Format::F32,
            Compute::Bf16 => Format::Bf16,
        }
    }

    fn values_per_word(self) -> usize {
        match self {
            Compute::F32 => 1,
            Compute::Bf16 => 2,
        }
    }
}

/// What a product needs to know of the machine.
#[derive(Clone, Copy)]
pub(crate) struct Engine<'a> {
    pub(crate) level: Level,
    pub(crate) compute: Compute,
    pub(crate) pool: &'a Pool,
    pub(crate) team: &'a Team,
}

impl Engine<'_> {
    /// Whether the register-tile kernels apply; otherwise the portable product does.
    fn has_tiles(&self) -> bool {
        cfg!(target_arch = "x86_64")
            && match self.compute {
                Compute::F32 => self.level >= Level::Avx512,
                Compute::Bf16 => self.level >= Level::Avx512Bf16,
            }
    }

    /// Where the tiles do not apply, bf16 operands are f32 numbers rounded to bf16.
    fn panel_width(&self) -> usize {
        if self.has_tiles() { 32 } else { 1 }
    }
}

/// How a tile of results is put into C.
#[derive(Clone, Copy)]
pub(crate) enum Store {
    /// `C = A B` in f32.
    Set,
    /// `C += A B` in f32.
    Add,
    /// `C = other + A B` in f32; `other` has the shape of C.
    AddTo {
        /// First value of the other matrix.
        other: *const f32,
        /// Values between its rows.
        stride: usize,
    },
    /// `C = A B` rounded to bf16.
    Bf16,
}

// SAFETY: `other` is only read, and `product` keeps its borrow alive.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

/// Where results go: rows `stride` values apart, f32 or bf16 as [`Store`] says.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    pub(crate) start: *mut u8,
    pub(crate) stride: usize,
}

// SAFETY: tasks write tiles that do not overlap.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    /// The whole of a tensor.
    pub(crate) fn tensor(tensor: &mut Tensor) -> Out {
        let stride = tensor.cols();
        Out { start: tensor.as_bytes_mut().as_mut_ptr(), stride }
    }

    /// Rows of f32 values in a slice.
    pub(crate) fn slice<T: Element>(values: &mut [T], stride: usize) -> Out {
        Out { start: values.as_mut_ptr().cast(), stride }
    }

    /// The part that begins at (row, col), for values of `bytes` bytes.
    pub(crate) fn window(self, row: usize, col: usize, bytes: usize) -> Out {
        Out { start: self.start.wrapping_add((row * self.stride + col) * bytes), ..self }
    }
}

/// The right operand, packed: `k x n` values.
pub(crate) struct Panels<S> {
    bytes: S,
    /// Values of k that are multiplied; at most those that were packed.
    pub(crate) k: usize,
    /// Columns that are multiplied; at most those that were packed.
    pub(crate) n: usize,
    packed_k: usize,
    packed_n: usize,
}

impl<'a> Panels<&'a [u8]> {
    /// The first `k` values of the first `n` columns.
    pub(crate) fn part(&self, k: usize, n: usize) -> Panels<&'a [u8]> {
        assert!(k <= self.packed_k && n <= self.packed_n, "a part lies inside its panels");
        Panels { k, n, ..*self }
    }
}

impl<S: AsRef<[u8]>> Panels<S> {
    fn start(&self) -> *const u8 {
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
fn round_to(compute: Compute, value: f32) -> f32 {
    match compute {
        Compute::F32 => value,
        Compute::Bf16 => <bf16 as Element>::from_f32(value).to_f32(),
    }
}

/// Bytes of panels for a right operand of `k x n`.
pub(crate) fn panel_bytes(engine: &Engine<'_>, k: usize, n: usize) -> usize {
    if engine.has_tiles() {
        n.next_multiple_of(32) * k.div_ceil(engine.compute.values_per_word()) * 4
    } else {
        k * n * 4
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
    fn size(&self) -> (usize, usize) {
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
fn find<'a>(views: &[View<'a>], mut index: usize) -> View<'a> {
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
        return fallback::pack_column(engine, right, panel, dst);
    }
    #[cfg(target_arch = "x86_64")]
    {
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
                    unsafe {
                        avx512::pack_columns(engine.compute, *view, first, count, avx512::NR, to)
                    }
                    done += view.rows;
                }
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (k, n);
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

/// The left operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `[m, k]`, read where it is when its format is the operand format.
    Rows(View<'a>),
    /// `[k, m]`: the operand is its transpose.
    Columns(View<'a>),
}

impl Left<'_> {
    /// `(m, k)`.
    fn size(&self) -> (usize, usize) {
        match self {
            Left::Rows(view) => (view.rows, view.cols),
            Left::Columns(view) => (view.cols, view.rows),
        }
    }
}

/// `C = A B` over the whole team.
///
/// # Errors
/// [`Error::OutOfMemory`].
///
/// # Panics
/// When the sizes of the operands differ.
pub(crate) fn product<S: AsRef<[u8]> + Sync>(
    engine: &Engine<'_>,
    left: Left<'_>,
    panels: &Panels<S>,
    out: Out,
    store: Store,
) -> Result<(), Error> {
    let (m, k) = left.size();
    assert_eq!(k, panels.k, "both operands of a product have the same k");
    let n = panels.n;
    if m == 0 || n == 0 {
        return Ok(());
    }
    if !engine.has_tiles() {
        return fallback::product(engine, left, panels, out, store);
    }
    #[cfg(target_arch = "x86_64")]
    {
        if matches!(store, Store::Bf16) && k > KC {
            // Partial sums need f32; they are rounded once, at the end.
            let mut sums = Tensor::uninit(engine.pool, Tag::Workspace, [m, n], Format::F32)?;
            product(engine, left, panels, Out::tensor(&mut sums), Store::Set)?;
            narrow(engine, sums.slice(), n, out);
            return Ok(());
        }
        let words = k.div_ceil(engine.compute.values_per_word());
        let (source, _keep) = prepare(engine, left)?;
        let panel_block = (PANEL_BLOCK_BYTES / (words.clamp(1, KC) * avx512::NR * 4)).max(1);
        let panel_count = n.div_ceil(avx512::NR);
        // Blocks of panels of about equal size, and enough tasks to share out evenly.
        let strips = m.div_ceil(avx512::MR);
        let wanted = 4 * engine.team.threads();
        let panel_blocks =
            panel_count.div_ceil(panel_block).max(wanted.div_ceil(strips).min(panel_count));
        let panel_block = panel_count.div_ceil(panel_blocks);
        let panel_blocks = panel_count.div_ceil(panel_block);
        let row_blocks = m.div_ceil(ROW_BLOCK).max(wanted.div_ceil(panel_blocks).min(strips));
        let row_block = m.div_ceil(row_blocks).next_multiple_of(avx512::MR);
        let row_blocks = m.div_ceil(row_block);
        engine.team.run(row_blocks * panel_blocks, |task| {
            let (pb, rb) = (task / row_blocks, task % row_blocks);
            let panel_range = pb * panel_block..((pb + 1) * panel_block).min(panel_count);
            let rows = rb * row_block..((rb + 1) * row_block).min(m);
            // SAFETY: tasks cover disjoint tiles of C.
            unsafe { block(engine.compute, source, rows, panels, panel_range, out, store) }
        });
    }
    Ok(())
}

/// `C = A B` on the calling thread; `left` must have the operand format and an even stride and k for bf16.
pub(crate) fn product_serial<S: AsRef<[u8]>>(
    engine: &Engine<'_>,
    left: Left<'_>,
    strips: &mut Vec<i32>,
    panels: &Panels<S>,
    out: Out,
    store: Store,
) {
    let (m, k) = left.size();
    assert_eq!(k, panels.k, "both operands of a product have the same k");
    if m == 0 || panels.n == 0 {
        return;
    }
    if !engine.has_tiles() {
        return fallback::product_serial(engine, left, panels, out, store);
    }
    #[cfg(target_arch = "x86_64")]
    {
        let source = match left {
            Left::Rows(view) => Source::Rows(view),
            Left::Columns(view) => {
                let words = k.div_ceil(engine.compute.values_per_word());
                let count = m.div_ceil(avx512::MR);
                strips.resize(count * words * avx512::MR, 0);
                let dst = Shared::new(strips.as_mut_slice());
                (0..count).for_each(|strip| pack_strip(engine, view, strip, dst));
                Source::Strips { start: strips.as_ptr().cast(), words }
            }
        };
        // SAFETY: the caller lends the whole of C.
        unsafe {
            block(
                engine.compute,
                source,
                0..m,
                panels,
                0..panels.n.div_ceil(avx512::NR),
                out,
                store,
            )
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = strips;
}

/// A left operand the tiles can read.
#[derive(Clone, Copy)]
enum Source<'a> {
    Rows(View<'a>),
    Strips { start: *const u8, words: usize },
}

// SAFETY: only read, and kept alive by `product`.
unsafe impl Send for Source<'_> {}
// SAFETY: as above.
unsafe impl Sync for Source<'_> {}

/// Brings the left operand into a form the tiles can read; the buffer keeps a copy alive, if one was made.
#[cfg(target_arch = "x86_64")]
fn prepare<'a>(
    engine: &Engine<'_>,
    left: Left<'a>,
) -> Result<(Source<'a>, Option<crate::Buffer>), Error> {
    let per_word = engine.compute.values_per_word();
    let (m, k) = left.size();
    let words = k.div_ceil(per_word);
    match left {
        Left::Rows(view) if view.format == engine.compute.format() && k % per_word == 0 => {
            Ok((Source::Rows(view), None))
        }
        Left::Rows(view) => {
            let stride = words * per_word;
            let mut bytes =
                engine.pool.bytes(Tag::Workspace, m * stride * engine.compute.format().bytes())?;
            let dst = Shared::new(bytes.as_mut());
            engine.team.run(m.div_ceil(64), |task| {
                for row in task * 64..(task * 64 + 64).min(m) {
                    convert_row(engine, view, row, stride, dst);
                }
            });
            let start = bytes.as_ref().as_ptr();
            let copy =
                View { start, format: engine.compute.format(), stride, cols: stride, ..view };
            Ok((Source::Rows(copy), Some(bytes)))
        }
        Left::Columns(view) => {
            let count = m.div_ceil(avx512::MR);
            let mut bytes = engine.pool.bytes(Tag::Workspace, count * words * avx512::MR * 4)?;
            let start = bytes.as_ref().as_ptr();
            let dst = Shared::new(bytemuck::cast_slice_mut::<u8, i32>(bytes.as_mut()));
            engine.team.run(count, |strip| pack_strip(engine, view, strip, dst));
            Ok((Source::Strips { start, words }, Some(bytes)))
        }
    }
}

/// Packs twelve columns of a transposed left operand.
#[cfg(target_arch = "x86_64")]
fn pack_strip(engine: &Engine<'_>, view: View<'_>, strip: usize, dst: Shared<i32>) {
    let words = view.rows.div_ceil(engine.compute.values_per_word());
    let first = strip * avx512::MR;
    let count = avx512::MR.min(view.cols - first);
    // SAFETY: the tiles apply, and a strip has `words` rows of twelve words.
    unsafe {
        avx512::pack_columns(
            engine.compute,
            view,
            first,
            count,
            avx512::MR,
            dst.at(strip * words * avx512::MR),
        )
    }
}

/// Copies a row into the operand format, zeros behind its end.
#[cfg(target_arch = "x86_64")]
fn convert_row(engine: &Engine<'_>, view: View<'_>, row: usize, stride: usize, dst: Shared<u8>) {
    let bytes = engine.compute.format().bytes();
    // SAFETY: every row has its own part.
    let to = unsafe { dst.slice(row * stride * bytes, stride * bytes) };
    match (view.format, engine.compute) {
        (Format::F32, Compute::F32) => {
            convert(engine.level, view.row::<f32>(row), bytemuck::cast_slice_mut::<u8, f32>(to))
        }
        (Format::Bf16, Compute::F32) => {
            convert(engine.level, view.row::<bf16>(row), bytemuck::cast_slice_mut::<u8, f32>(to))
        }
        (Format::F32, Compute::Bf16) => {
            convert(engine.level, view.row::<f32>(row), bytemuck::cast_slice_mut::<u8, bf16>(to))
        }
        (Format::Bf16, Compute::Bf16) => {
            convert(engine.level, view.row::<bf16>(row), bytemuck::cast_slice_mut::<u8, bf16>(to))
        }
    }
}

crate::multiversion! {
    /// Copies values into another format; what `to` has more becomes zero.
    pub(crate) fn convert<A: Element, B: Element>(from: &[A], to: &mut [B]) {
        let (head, tail) = to.split_at_mut(from.len());
        for (to, from) in head.iter_mut().zip(from) {
            *to = B::from_f32(from.to_f32());
        }
        tail.fill(B::from_f32(0.0));
    }
}

/// Rounds f32 sums to the bf16 rows of `out`.
fn narrow(engine: &Engine<'_>, sums: &[f32], n: usize, out: Out) {
    engine.team.run(sums.len() / n, |row| {
        let to = out.window(row, 0, 2);
        // SAFETY: every row of the output is written by one task.
        let to = unsafe { std::slice::from_raw_parts_mut(to.start.cast::<bf16>(), n) };
        convert(engine.level, &sums[row * n..][..n], to);
    });
}

/// The tiles of one task: strips of rows outside, panels inside, so that a strip stays in the first-level
/// cache and the block of panels in the second.
///
/// # Safety
/// Nobody else touches these tiles of C.
#[cfg(target_arch = "x86_64")]
unsafe fn block<S: AsRef<[u8]>>(
    compute: Compute,
    source: Source<'_>,
    rows: std::ops::Range<usize>,
    panels: &Panels<S>,
    range: std::ops::Range<usize>,
    out: Out,
    store: Store,
) {
    let per_word = compute.values_per_word();
    let words = panels.k.div_ceil(per_word);
    let packed = panels.packed_k.div_ceil(per_word);
    let step = KC / per_word;
    for from in (0..words.max(1)).step_by(step) {
        let count = step.min(words - from);
        let store = match store {
            Store::Set | Store::AddTo { .. } if from > 0 => Store::Add,
            other => other,
        };
        for row in rows.clone().step_by(avx512::MR) {
            let height = avx512::MR.min(rows.end - row);
            let a = match source {
                Source::Rows(view) => avx512::Words {
                    start: view.at(row, from * per_word),
                    row: view.stride * view.format.bytes(),
                    direct: true,
                },
                Source::Strips { start, words } => {
                    let skip = (row / avx512::MR * words + from) * avx512::MR * 4;
                    avx512::Words { start: start.wrapping_add(skip), row: 4, direct: false }
                }
            };
            for panel in range.clone() {
                let right = panels.start().wrapping_add((panel * packed + from) * avx512::NR * 4);
                let col = panel * avx512::NR;
                let width = avx512::NR.min(panels.n - col);
                // SAFETY: the operands were packed for these sizes; the caller owns the tile.
                unsafe {
                    avx512::run_tile(compute, count, height, a, right, &out, store, row, col, width)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
