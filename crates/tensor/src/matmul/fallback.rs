//! The portable product: operands as plain f32, multiplied by the `gemm` crate.
//!
//! Panels are the operand itself, `[k][n]` in f32, rounded to bf16 where the product asks for it.
//! Rows of C are cut into fixed blocks, so the result is the same for any number of threads.

#![allow(unsafe_code)]

use half::bf16;

use super::panels::{find, round_to};
use super::product::{Mix, Region};
use super::{Compute, Engine, Left, Out, Panels, Right, Store};
use crate::Error;
use crate::kernels::with_format;
use crate::tensor::{Element, Format, Shared, View};

const ROWS: usize = 64;

/// Columns of the right operand that one task packs: a cache line of f32.
pub(super) const COLUMNS: usize = 16;

/// Packs some columns of the right operand.
pub(super) fn pack_columns(engine: &Engine<'_>, right: &Right<'_>, block: usize, dst: Shared<u8>) {
    let (k, n) = right.size();
    let cols = block * COLUMNS..(block * COLUMNS + COLUMNS).min(n);
    // SAFETY: every column is packed by one task, and the panels hold `k * n` values.
    let row = |t: usize| unsafe {
        let start = dst.at((t * n + cols.start) * 4).cast::<f32>();
        std::slice::from_raw_parts_mut(start, cols.len())
    };
    match right {
        Right::Transposed(views) => {
            let views: Vec<View<'_>> = cols.clone().map(|col| find(views, col)).collect();
            for first in (0..k).step_by(COLUMNS) {
                let count = COLUMNS.min(k - first);
                let mut square = [[0.0; COLUMNS]; COLUMNS];
                for (line, view) in square.iter_mut().zip(&views) {
                    let part = view.window(0, 1, first, count);
                    convert_row(engine.compute, &part, 0, &mut line[..count]);
                }
                for t in 0..count {
                    for (to, line) in row(first + t).iter_mut().zip(&square) {
                        *to = line[t];
                    }
                }
            }
        }
        Right::Stacked(views) => {
            let lines = views.iter().flat_map(|view| (0..view.rows).map(move |row| (view, row)));
            for (t, (view, line)) in lines.enumerate() {
                let part = view.window(line, 1, cols.start, cols.len());
                convert_row(engine.compute, &part, 0, row(t));
            }
        }
    }
}

/// A row of a view, rounded as the product asks for it.
fn convert_row(compute: Compute, view: &View<'_>, row: usize, to: &mut [f32]) {
    with_format!(view.format, T => {
        for (to, from) in to.iter_mut().zip(view.row::<T>(row)) {
            *to = round_to(compute, from.to_f32());
        }
    });
}

/// As [`super::product()`].
pub(super) fn product<S: AsRef<[u8]> + Sync>(
    engine: &Engine<'_>,
    left: Left<'_>,
    panels: &Panels<S>,
    out: Out,
    store: Store,
    region: Region,
) -> Result<(), Error> {
    let m = left.size().0;
    engine.team.run(m.div_ceil(ROWS), |task| {
        let range = task * ROWS..(task * ROWS + ROWS).min(m);
        let n = match region {
            Region::Full => panels.n,
            Region::Lower { first_col } => panels.n.min(range.end.saturating_sub(first_col)),
        };
        rows(engine, left, &panels.head(panels.k, n), out, store, range);
    });
    Ok(())
}

/// As [`super::product_serial()`].
pub(super) fn product_serial<S: AsRef<[u8]>>(
    engine: &Engine<'_>,
    left: Left<'_>,
    panels: &Panels<S>,
    out: Out,
    store: Store,
) {
    let m = left.size().0;
    for first in (0..m).step_by(ROWS) {
        rows(engine, left, panels, out, store, first..(first + ROWS).min(m));
    }
}

/// Some rows of the left operand, as the `gemm` crate reads them.
struct LeftRows {
    start: *const f32,
    row_stride: isize,
    col_stride: isize,
    /// What `start` points into where the operand had to be converted.
    _copy: Vec<f32>,
}

impl LeftRows {
    /// Read in place where the operand is f32 as the product takes it, else converted.
    fn new(compute: Compute, left: Left<'_>, range: &std::ops::Range<usize>, k: usize) -> LeftRows {
        let (view, steps) = match left {
            Left::Rows(view) => (view.window(range.start, range.len(), 0, k), (view.stride, 1)),
            Left::Columns(view) => (view.window(0, k, range.start, range.len()), (1, view.stride)),
        };
        let in_place = view.format == Format::F32 && compute == Compute::F32;
        let (copy, steps) = match in_place {
            true => (Vec::new(), steps),
            false => {
                let by_rows = steps.1 == 1;
                let steps = if by_rows { (view.cols, 1) } else { (1, view.cols) };
                let mut copy = vec![0.0; view.rows * view.cols];
                for (row, to) in copy.chunks_exact_mut(view.cols.max(1)).enumerate() {
                    convert_row(compute, &view, row, to);
                }
                (copy, steps)
            }
        };
        let start = if in_place { view.start.cast::<f32>() } else { copy.as_ptr() };
        let (row_stride, col_stride) = (steps.0 as isize, steps.1 as isize);
        LeftRows { start, row_stride, col_stride, _copy: copy }
    }
}

fn rows<S: AsRef<[u8]>>(
    engine: &Engine<'_>,
    left: Left<'_>,
    panels: &Panels<S>,
    out: Out,
    store: Store,
    range: std::ops::Range<usize>,
) {
    let (k, n, m) = (panels.k, panels.n, range.len());
    let a = LeftRows::new(engine.compute, left, &range, k);
    // Sums that are f32 and not mixed go where they belong.
    let direct = matches!(store, Store::Set | Store::Add);
    let mut sums = vec![0f32; if direct { 0 } else { m * n }];
    let (c, stride) = match direct {
        // SAFETY: the caller lends these rows of C to this task alone.
        true => (unsafe { out.start.cast::<f32>().add(range.start * out.stride) }, out.stride),
        false => (sums.as_mut_ptr(), n),
    };
    // SAFETY: all three matrices have the sizes given.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            stride as isize,
            matches!(store, Store::Add),
            a.start,
            a.col_stride,
            a.row_stride,
            panels.start().cast::<f32>(),
            1,
            panels.packed_n as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    for (i, sums) in sums.chunks_exact(n.max(1)).enumerate() {
        put_row(out, store, range.start + i, sums);
    }
}

pub(super) fn put_row(out: Out, store: Store, row: usize, sums: &[f32]) {
    let at = row * out.stride;
    // SAFETY: the caller lends this row of C to this task alone, and `other` has the shape of C.
    unsafe {
        match store {
            Store::Set => {
                sums.as_ptr().copy_to(out.start.cast::<f32>().add(at), sums.len());
            }
            Store::Add => {
                let row =
                    std::slice::from_raw_parts_mut(out.start.cast::<f32>().add(at), sums.len());
                row.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
            }
            Store::AddTo { other, stride } => {
                // The other matrix may be C itself.
                for (j, sum) in sums.iter().enumerate() {
                    let other = *other.add(row * stride + j);
                    out.start.cast::<f32>().add(at + j).write(other + sum);
                }
            }
            Store::Bf16 => {
                for (j, sum) in sums.iter().enumerate() {
                    let rounded = <bf16 as Element>::from_f32(*sum);
                    out.start.cast::<bf16>().add(at + j).write(rounded);
                }
            }
            Store::Mix(mix) => {
                sums.iter().enumerate().for_each(|(j, sum)| mixed(out, &mix, row, j, *sum));
            }
        }
    }
}

/// # Safety
/// The caller lends this value of C to this task alone.
unsafe fn mixed(out: Out, mix: &Mix, row: usize, col: usize, sum: f32) {
    let (at, other_at) = (row * out.stride + col, row * mix.stride + col);
    // SAFETY: passed on from the caller; the other matrix has the shape of C.
    unsafe {
        let other = match mix.format {
            _ if mix.other.is_null() => 0.0,
            Format::F32 => *mix.other.cast::<f32>().add(other_at),
            Format::Bf16 => mix.other.cast::<bf16>().add(other_at).read().to_f32(),
        };
        let value = mix.by * sum + mix.times * other;
        match mix.out {
            Format::F32 => out.start.cast::<f32>().add(at).write(value),
            Format::Bf16 => {
                out.start.cast::<bf16>().add(at).write(<bf16 as Element>::from_f32(value))
            }
        }
    }
}
