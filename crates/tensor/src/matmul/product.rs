//! The products themselves: over the team, or on the calling thread.

#![allow(unsafe_code)]

use std::ops::Range;

use half::bf16;
use smidgen_codec::Tag;

use super::{
    Compute, Engine, Panels, Right, avx512, convert, fallback, pack, pack_into, panel_bytes,
};
use crate::tensor::{Element, Format, Shared, View};
use crate::{Buffer, Error, Tensor};

/// Values of k accumulated in registers before C is touched.
pub(crate) const KC: usize = 2048;
/// Bytes of panels one task keeps going over; a good half of a core's second-level cache.
const PANEL_BLOCK_BYTES: usize = 448 << 10;
/// Rows of C in one task, at most; whole panels and whole register tiles.
const ROW_BLOCK: usize = 384;
/// Rows of a task are a multiple of both the rows of a tile and the columns of a panel.
const ROW_UNIT: usize = 96;

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
    /// `C = by A B + times other`.
    Mix(Mix),
}

// SAFETY: `other` is only read, and `product` keeps its borrow alive.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// The same for partial sums after the first, which are already in C.
    fn onto(self, out: Out) -> Store {
        match self {
            Store::Set | Store::AddTo { .. } => Store::Add,
            Store::Mix(mix) => Store::Mix(mix.onto(out)),
            Store::Add | Store::Bf16 => self,
        }
    }

    /// Where C is bf16 and the tiles cannot put it so at once: the same with C in f32.
    fn unrounded(self, compute: Compute, k: usize) -> Option<Store> {
        if compute == Compute::Bf16 && k <= KC {
            return None;
        }
        match self {
            Store::Bf16 => Some(Store::Set),
            Store::Mix(mix) if mix.out == Format::Bf16 => {
                Some(Store::Mix(Mix { out: Format::F32, ..mix }))
            }
            _ => None,
        }
    }
}

/// A sum of a product and another matrix, each with a factor.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    /// Multiplies the product.
    pub(crate) by: f32,
    /// Multiplies the other matrix.
    pub(crate) times: f32,
    /// First value of the other matrix, none of which is read where this is null; it may be C itself.
    pub(crate) other: *const u8,
    /// Format of the other matrix.
    pub(crate) format: Format,
    /// Values between its rows.
    pub(crate) stride: usize,
    /// Format of C; bf16 only where the operands are.
    pub(crate) out: Format,
}

impl Mix {
    /// The same for partial sums after the first, which are already in C.
    fn onto(self, out: Out) -> Mix {
        Mix { times: 1.0, other: out.start, format: self.out, stride: out.stride, ..self }
    }

    /// The part of the other matrix that begins at a column.
    pub(crate) fn at_col(self, col: usize) -> Mix {
        if self.other.is_null() {
            return self;
        }
        Mix { other: self.other.wrapping_add(col * self.format.bytes()), ..self }
    }
}

/// Which part of C is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// All of it.
    Full,
    /// What lies on and below the diagonal, where column 0 of the panels is this column of C; more may
    /// be written, up to the end of a tile.
    Lower {
        /// The column of C that the panels begin at.
        first_col: usize,
    },
}

impl Region {
    /// Whether a tile from `row` to `row + height` and from panel column `col` on is wanted at all.
    #[inline(always)]
    pub(super) fn has(self, row: usize, height: usize, col: usize) -> bool {
        match self {
            Region::Full => true,
            Region::Lower { first_col } => first_col + col < row + height,
        }
    }
}

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
    pub(super) fn size(&self) -> (usize, usize) {
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
    product_of(engine, &Ready::new(engine, left)?, panels, out, store, Region::Full)
}

/// `C = A B` over the whole team, with a left operand that is used several times.
///
/// # Errors
/// [`Error::OutOfMemory`].
///
/// # Panics
/// When the sizes of the operands differ.
pub(crate) fn product_of<S: AsRef<[u8]> + Sync>(
    engine: &Engine<'_>,
    left: &Ready<'_>,
    panels: &Panels<S>,
    out: Out,
    store: Store,
    region: Region,
) -> Result<(), Error> {
    let (m, k) = left.left.size();
    assert_eq!(k, panels.k, "both operands of a product have the same k");
    let n = panels.n;
    if m == 0 || n == 0 {
        return Ok(());
    }
    if !engine.has_tiles() {
        return fallback::product(engine, left.left, panels, out, store, region);
    }
    if let Some(wide) = store.unrounded(engine.compute, k) {
        // Partial sums need f32; they are rounded once, at the end.
        let mut sums = Tensor::uninit(engine.pool, Tag::Workspace, [m, n], Format::F32)?;
        product_of(engine, left, panels, Out::tensor(&mut sums), wide, region)?;
        narrow(engine, sums.slice(), n, out);
        return Ok(());
    }
    let source = left.source();
    let grid = Grid::new(engine, m, k, n);
    engine.team.run(grid.row_blocks * grid.panel_blocks, |task| {
        let (panel_range, rows) = grid.task(task);
        let tiles = Tiles { rows, panels: panel_range, region };
        // SAFETY: tasks cover disjoint tiles of C.
        unsafe { block(engine.compute, source, tiles, panels, out, store) }
    });
    Ok(())
}

/// How C is cut into tasks. Changes nothing about the sums: they run along k alone.
struct Grid {
    m: usize,
    panels: usize,
    row_block: usize,
    panel_block: usize,
    row_blocks: usize,
    panel_blocks: usize,
}

impl Grid {
    fn new(engine: &Engine<'_>, m: usize, k: usize, n: usize) -> Grid {
        let panels = n.div_ceil(avx512::NR);
        let word_bytes = k.clamp(1, KC).div_ceil(engine.compute.values_per_word()) * avx512::NR * 4;
        let units = m.div_ceil(ROW_UNIT);
        // Blocks of about equal size, and enough tasks to share out evenly.
        let wanted = 4 * engine.team.threads();
        let fitting = (PANEL_BLOCK_BYTES / word_bytes).max(1);
        let panel_blocks = panels.div_ceil(fitting).max(wanted.div_ceil(units).min(panels));
        let panel_block = panels.div_ceil(panel_blocks);
        let panel_blocks = panels.div_ceil(panel_block);
        let row_blocks = m.div_ceil(ROW_BLOCK).max(wanted.div_ceil(panel_blocks).min(units));
        let row_block = m.div_ceil(row_blocks).next_multiple_of(ROW_UNIT);
        Grid { m, panels, row_block, panel_block, row_blocks: m.div_ceil(row_block), panel_blocks }
    }

    /// Panels and rows of a task.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (panel, row) =
            (task / self.row_blocks * self.panel_block, task % self.row_blocks * self.row_block);
        (
            panel..(panel + self.panel_block).min(self.panels),
            row..(row + self.row_block).min(self.m),
        )
    }
}

/// `C = A B` on the calling thread; a left operand given by rows must have the operand format and, for
/// bf16, be readable up to an even k. `room` is memory for packing that can be used again.
pub(crate) fn product_serial<S: AsRef<[u8]>>(
    engine: &Engine<'_>,
    left: Left<'_>,
    room: &mut Vec<i32>,
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
    let source = match left {
        Left::Rows(view) => Source::Rows(view),
        Left::Columns(view) => {
            room.resize(panel_bytes(engine, k, m) / 4, 0);
            let packed = pack_into(engine, Right::Stacked(&[view]), bytemuck::cast_slice_mut(room));
            Source::Panels {
                start: packed.start(),
                words: k.div_ceil(engine.compute.values_per_word()),
            }
        }
    };
    let all = 0..panels.n.div_ceil(avx512::NR);
    let tiles = Tiles { rows: 0..m, panels: all, region: Region::Full };
    // SAFETY: the caller lends the whole of C.
    unsafe { block(engine.compute, source, tiles, panels, out, store) }
}

/// A left operand the tiles can read.
#[derive(Clone, Copy)]
enum Source<'a> {
    Rows(View<'a>),
    /// Panels whose columns are the rows of the operand.
    Panels {
        start: *const u8,
        words: usize,
    },
}

// SAFETY: only read, and kept alive by `product`.
unsafe impl Send for Source<'_> {}
// SAFETY: as above.
unsafe impl Sync for Source<'_> {}

impl Source<'_> {
    /// The words of a tile from a row and a word of k on, and how many rows it may have.
    fn words(&self, row: usize, from: usize, per_word: usize) -> (avx512::Words, usize) {
        match self {
            Source::Rows(view) => {
                let start = view.at(row, from * per_word);
                let row = view.stride * view.format.bytes();
                (avx512::Words { start, row, direct: true }, avx512::MR)
            }
            Source::Panels { start, words } => {
                // Tiles of 12, 12 and 8 rows out of each panel of 32.
                let (panel, lane) = (row / avx512::NR, row % avx512::NR);
                let skip = ((panel * words + from) * avx512::NR + lane) * 4;
                let start = start.wrapping_add(skip);
                (avx512::Words { start, row: 4, direct: false }, avx512::MR.min(avx512::NR - lane))
            }
        }
    }
}

/// A left operand in a form the tiles can read; below their levels it stays as it is.
pub(crate) struct Ready<'a> {
    left: Left<'a>,
    form: Form,
}

enum Form {
    AsItIs,
    Copy { bytes: Buffer, stride: usize, format: Format },
    Packed(Panels<Buffer>, usize),
}

impl<'a> Ready<'a> {
    /// Rounds or packs an operand that the tiles cannot read in place.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn new(engine: &Engine<'_>, left: Left<'a>) -> Result<Ready<'a>, Error> {
        let form = if engine.has_tiles() { Form::of(engine, left)? } else { Form::AsItIs };
        Ok(Ready { left, form })
    }

    fn source(&self) -> Source<'_> {
        let (Left::Rows(view) | Left::Columns(view)) = self.left;
        match &self.form {
            Form::AsItIs => Source::Rows(view),
            Form::Copy { bytes, stride, format } => Source::Rows(View {
                start: bytes.as_ref().as_ptr(),
                format: *format,
                stride: *stride,
                cols: *stride,
                ..view
            }),
            Form::Packed(panels, words) => Source::Panels { start: panels.start(), words: *words },
        }
    }
}

impl Form {
    fn of(engine: &Engine<'_>, left: Left<'_>) -> Result<Form, Error> {
        let (per_word, format) = (engine.compute.values_per_word(), engine.compute.format());
        let (m, k) = left.size();
        match left {
            Left::Rows(view) if view.format == format && k.is_multiple_of(per_word) => {
                Ok(Form::AsItIs)
            }
            Left::Rows(view) => {
                let stride = k.next_multiple_of(per_word);
                let mut bytes = engine.pool.bytes(Tag::Workspace, m * stride * format.bytes())?;
                let dst = Shared::new(bytes.as_mut());
                engine.team.run(m.div_ceil(64), |task| {
                    for row in task * 64..(task * 64 + 64).min(m) {
                        convert_row(engine, view, row, stride, dst);
                    }
                });
                Ok(Form::Copy { bytes, stride, format })
            }
            Left::Columns(view) => {
                let panels = pack(engine, Right::Stacked(&[view]), Tag::Workspace)?;
                Ok(Form::Packed(panels, k.div_ceil(per_word)))
            }
        }
    }
}

/// Copies a row into the operand format, zeros behind its end.
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

/// Rounds f32 sums to the bf16 rows of `out`.
fn narrow(engine: &Engine<'_>, sums: &[f32], n: usize, out: Out) {
    engine.team.run(sums.len() / n, |row| {
        let to = out.window(row, 0, 2);
        // SAFETY: every row of the output is written by one task.
        let to = unsafe { std::slice::from_raw_parts_mut(to.start.cast::<bf16>(), n) };
        convert(engine.level, &sums[row * n..][..n], to);
    });
}

/// The tiles of one task.
struct Tiles {
    rows: Range<usize>,
    panels: Range<usize>,
    region: Region,
}

/// Computes them: rows outside, panels inside, so that a tile's rows stay in the first-level
/// cache and the block of panels in the second.
///
/// # Safety
/// Nobody else touches these tiles of C.
unsafe fn block<S: AsRef<[u8]>>(
    compute: Compute,
    source: Source<'_>,
    tiles: Tiles,
    panels: &Panels<S>,
    out: Out,
    store: Store,
) {
    let per_word = compute.values_per_word();
    let words = panels.k.div_ceil(per_word);
    let packed = panels.packed_k.div_ceil(per_word);
    let step = KC / per_word;
    for from in (0..words.max(1)).step_by(step) {
        let count = step.min(words - from);
        let store = if from > 0 { store.onto(out) } else { store };
        let mut row = tiles.rows.start;
        while row < tiles.rows.end {
            let (a, height) = source.words(row, from, per_word);
            let height = height.min(tiles.rows.end - row);
            for panel in tiles.panels.clone() {
                let col = panel * avx512::NR;
                if !tiles.region.has(row, height, col) {
                    break;
                }
                let right = panels.start().wrapping_add((panel * packed + from) * avx512::NR * 4);
                let width = avx512::NR.min(panels.n - col);
                // SAFETY: the operands were packed for these sizes; the caller owns the tile.
                unsafe {
                    avx512::run_tile(compute, count, height, a, right, &out, store, row, col, width)
                }
            }
            row += height;
        }
    }
}
