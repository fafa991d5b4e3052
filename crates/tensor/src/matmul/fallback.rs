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
use crate::tensor::{Element, Format, Shared, View};

const ROWS: usize = 64;

fn value(compute: Compute, view: &View<'_>, row: usize, col: usize) -> f32 {
    let wide = match view.format {
        Format::F32 => view.row::<f32>(row)[col],
        Format::Bf16 => view.row::<bf16>(row)[col].to_f32(),
    };
    round_to(compute, wide)
}

/// Packs one column of the right operand.
pub(super) fn pack_column(engine: &Engine<'_>, right: &Right<'_>, col: usize, dst: Shared<u8>) {
    let (k, n) = right.size();
    let put = |t: usize, x: f32| {
        // SAFETY: every column is packed by one task, and the panels hold `k * n` values.
        unsafe { dst.at((t * n + col) * 4).cast::<f32>().write(x) }
    };
    match right {
        Right::Transposed(views) => {
            let row = find(views, col);
            (0..k).for_each(|t| put(t, value(engine.compute, &row, 0, t)));
        }
        Right::Stacked(views) => {
            let mut t = 0;
            for view in *views {
                for row in 0..view.rows {
                    put(t, value(engine.compute, view, row, col));
                    t += 1;
                }
            }
        }
    }
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

fn rows<S: AsRef<[u8]>>(
    engine: &Engine<'_>,
    left: Left<'_>,
    panels: &Panels<S>,
    out: Out,
    store: Store,
    range: std::ops::Range<usize>,
) {
    let (k, n, m) = (panels.k, panels.n, range.len());
    let mut a = vec![0f32; m * k];
    for (i, row) in a.chunks_exact_mut(k.max(1)).enumerate() {
        for (t, x) in row.iter_mut().enumerate() {
            *x = match &left {
                Left::Rows(view) => value(engine.compute, view, range.start + i, t),
                Left::Columns(view) => value(engine.compute, view, t, range.start + i),
            };
        }
    }
    let mut c = vec![0f32; m * n];
    // SAFETY: all three matrices have the sizes given.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            panels.start().cast::<f32>(),
            1,
            panels.packed_n as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    for (i, sums) in c.chunks_exact(n.max(1)).enumerate() {
        put_row(out, store, range.start + i, sums);
    }
}

pub(super) fn put_row(out: Out, store: Store, row: usize, sums: &[f32]) {
    let at = row * out.stride;
    for (j, sum) in sums.iter().enumerate() {
        // SAFETY: the caller lends these rows of C to this task alone.
        unsafe {
            match store {
                Store::Set => out.start.cast::<f32>().add(at + j).write(*sum),
                Store::Add => *out.start.cast::<f32>().add(at + j) += sum,
                Store::AddTo { other, stride } => {
                    out.start.cast::<f32>().add(at + j).write(*other.add(row * stride + j) + sum)
                }
                Store::Bf16 => {
                    out.start.cast::<bf16>().add(at + j).write(<bf16 as Element>::from_f32(*sum))
                }
                Store::Mix(mix) => mixed(out, &mix, row, j, *sum),
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
