//! Matrices in a number format as right operands: decoded where they are used, never whole.
//!
//! Many rows are multiplied by strips: a strip of columns is decoded into workspace in the operand format
//! and packed from there. One row is multiplied past the panels: each row of the matrix is decoded a
//! piece at a time into the first-level cache and multiplied there, so that only its codes come from
//! memory.

#![allow(unsafe_code)]

use half::bf16;
use smidgen_codec::{Packed, Tag};

use super::{Compute, Engine, convert};
use crate::tensor::{Format, Shared, View};
use crate::{Error, Tensor};

/// Values decoded at once: 8 KiB, a part of the first-level cache.
const PIECE: usize = 2048;
/// Rows of the matrix in one task of a one-row product.
const ROWS: usize = 32;
/// Sums of a dot product that run side by side, for the widest vectors.
const LANES: usize = 64;

/// Rows of numbers in some format, read by place.
pub(crate) trait Coded: Sync {
    /// `[rows, cols]`.
    fn shape(&self) -> [usize; 2];

    /// Decodes the values from `first` on, in row-major order. `room` is memory that can be used again.
    fn read(&self, first: usize, to: &mut [f32], room: &mut Vec<f32>);
}

impl<S: AsRef<[u8]> + Sync> Coded for Packed<S> {
    fn shape(&self) -> [usize; 2] {
        self.shape()
    }

    fn read(&self, first: usize, to: &mut [f32], room: &mut Vec<f32>) {
        let unit = self.layout().chunk_unit().max(1);
        let end = first + to.len();
        let last = end.next_multiple_of(unit).min(self.layout().values());
        if first.is_multiple_of(unit) && last == end {
            return self.decode_at(first, to);
        }
        // Blocks that begin before or end behind what is wanted are decoded whole.
        let from = first / unit * unit;
        room.resize(last - from, 0.0);
        self.decode_at(from, room);
        to.copy_from_slice(&room[first - from..end - from]);
    }
}

/// Columns `col..col + cols` of all rows, in the operand format.
pub(super) fn columns(
    engine: &Engine<'_>,
    matrix: &dyn Coded,
    col: usize,
    cols: usize,
) -> Result<Tensor, Error> {
    let [rows, width] = matrix.shape();
    strip(engine, [rows, cols], |row| row * width + col, matrix)
}

/// Rows `row..row + rows`, in the operand format.
pub(super) fn rows(
    engine: &Engine<'_>,
    matrix: &dyn Coded,
    row: usize,
    rows: usize,
) -> Result<Tensor, Error> {
    let width = matrix.shape()[1];
    strip(engine, [rows, width], |index| (row + index) * width, matrix)
}

/// Decodes rows whose first values lie where `first` says.
fn strip(
    engine: &Engine<'_>,
    [rows, cols]: [usize; 2],
    first: impl Fn(usize) -> usize + Sync,
    matrix: &dyn Coded,
) -> Result<Tensor, Error> {
    let format = engine.compute.format();
    let mut out = Tensor::uninit(engine.pool, Tag::Workspace, [rows, cols], format)?;
    let bytes = format.bytes();
    let to = Shared::new(out.as_bytes_mut());
    engine.team.run(rows.div_ceil(ROWS), |task| {
        let (mut values, mut room) = (vec![0f32; cols], Vec::new());
        for row in task * ROWS..(task * ROWS + ROWS).min(rows) {
            // SAFETY: every row belongs to one task.
            let to = unsafe { to.slice(row * cols * bytes, cols * bytes) };
            matrix.read(first(row), &mut values, &mut room);
            match engine.compute {
                Compute::F32 => bytemuck::cast_slice_mut(to).copy_from_slice(&values),
                Compute::Bf16 => {
                    convert(engine.level, &values, bytemuck::cast_slice_mut::<u8, bf16>(to))
                }
            }
        }
    });
    Ok(out)
}

/// `sums = x W^T` for one row `x` and all rows of the matrix, in f32.
pub(super) fn one_row(engine: &Engine<'_>, x: View<'_>, matrix: &dyn Coded, sums: &mut [f32]) {
    let [rows, width] = matrix.shape();
    let x: Vec<f32> = match x.format {
        Format::F32 => x.row::<f32>(0).to_vec(),
        Format::Bf16 => x.row::<bf16>(0).iter().map(|value| value.to_f32()).collect(),
    };
    let to = Shared::new(sums);
    engine.team.run(rows.div_ceil(ROWS), |task| {
        let (mut values, mut room) = ([0f32; PIECE], Vec::new());
        for row in task * ROWS..(task * ROWS + ROWS).min(rows) {
            let mut sum = 0.0;
            for (piece, x) in x.chunks(PIECE).enumerate() {
                let values = &mut values[..x.len()];
                matrix.read(row * width + piece * PIECE, values, &mut room);
                sum += dot(engine.level, x, values);
            }
            // SAFETY: every value belongs to one task.
            unsafe { *to.at(row) = sum };
        }
    });
}

crate::multiversion! {
    /// A dot product whose order of additions does not depend on the width of vectors.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0f32; LANES];
        let (a, a_rest) = a.as_chunks::<LANES>();
        let (b, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a.iter().zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        sums.iter().sum::<f32>() + rest
    }
}
