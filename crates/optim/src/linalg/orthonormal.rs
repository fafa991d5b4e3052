//! Orthonormal rows by Cholesky factors, for matrices with many more columns than rows.
//!
//! `Y Y^T = L L^T`, then `L^-1 Y` has orthonormal rows and spans the same space. The square of the
//! condition is too much for one pass in f32, so a small shift keeps the first factors positive and
//! further passes make up for it (shifted CholeskyQR3: Fukaya et al., arXiv 1809.11085). Rows that
//! depend on others are completed by noise. The inverse factor is found by halves, so that nearly
//! all of it is products.

use smidgen_tensor::{Blend, Compute, Device, Operand, Tensor, gram, product};

use super::{Draws, scratch};
use crate::Error;

/// What a Gram matrix may miss of the identity before another pass; rounding alone is some 1e-7 for
/// each row.
const TOLERANCE: f64 = 1e-5;
/// Share of the mean square row that the first factors are shifted by.
const SHIFT: f32 = 3e-6;
/// Passes with a shift, and passes in all; noise comes in between where rows depend on others.
const SHIFTED: usize = 4;
const PASSES: usize = 12;
/// Pivots are at least this, so that no pass leaves the numbers there are.
const LEAST_PIVOT: f64 = 1e-7;
/// Side below which factors are found by plain sums.
const SMALL: usize = 48;

/// Makes the rows of `y` orthonormal; there may be no more rows than columns.
///
/// # Errors
/// [`Error::Tensor`] for want of memory.
pub(crate) fn orthonormalise(
    device: &Device,
    mut y: Tensor,
    draws: &Draws<'_>,
) -> Result<Tensor, Error> {
    let rows = y.rows();
    for pass in 0..PASSES {
        normalise(&mut y);
        if pass > 0 && pass % SHIFTED == 0 {
            draws.add_noise(device, &mut y, pass as u64);
        }
        let mut squares = scratch(device, [rows, rows])?;
        gram(device, Compute::F32, Operand::of(&y), Blend::SET, &mut squares)?;
        let miss = distance_to_identity(squares.slice(), rows);
        if miss < TOLERANCE {
            break;
        }
        // No eigenvalue can be near 0 then, and a shift would only stand in the way.
        let shift = if miss < 0.5 { 0.0 } else { SHIFT * rows as f32 };
        squares.slice_mut::<f32>().iter_mut().step_by(rows + 1).for_each(|x| *x += shift);
        let factor = inverse_factor(device, &squares)?;
        let mut next = scratch(device, y.shape())?;
        let (left, right) = (Operand::of(&factor), Operand::of(&y));
        product(device, Compute::F32, left, right, Blend::SET, &mut next)?;
        y = next;
    }
    Ok(y)
}

/// Gives each row the length 1, and a row of zeros to noise.
fn normalise(y: &mut Tensor) {
    let cols = y.cols().max(1);
    for row in y.slice_mut::<f32>().chunks_mut(cols) {
        let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
        let by = if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 };
        row.iter_mut().for_each(|x| *x = (f64::from(*x) * by) as f32);
    }
}

/// The norm of the difference to the identity.
fn distance_to_identity(squares: &[f32], rows: usize) -> f64 {
    let one = |at: usize| if at.is_multiple_of(rows + 1) { 1.0 } else { 0.0 };
    let miss = |(at, x): (usize, &f32)| f64::from(x - one(at)).powi(2);
    squares.iter().enumerate().map(miss).sum::<f64>().sqrt()
}

/// `L^-1` of `A = L L^T`. Pivots that are not positive are taken for tiny ones: later passes see
/// what is wrong with the result.
fn inverse_factor(device: &Device, a: &Tensor) -> Result<Tensor, Error> {
    let n = a.rows();
    if n <= SMALL {
        let mut small = scratch(device, [n, n])?;
        plain_inverse_factor(a.slice(), n, small.slice_mut());
        return Ok(small);
    }
    let (half, rest) = (n / 2, n - n / 2);
    let times = |a: Operand<'_>, b: Operand<'_>, by: f32| -> Result<Tensor, Error> {
        let mut out = scratch(device, [a.shape()[0], b.shape()[1]])?;
        product(device, Compute::F32, a, b, Blend::scaled(by), &mut out)?;
        Ok(out)
    };
    let first = inverse_factor(device, &block(device, a, [0, 0], [half, half])?)?;
    // A = [[A1, B^T], [B, A2]]: the factor below the diagonal is F = B L1^-T.
    let below = block(device, a, [half, 0], [rest, half])?;
    let below = times(Operand::of(&below), Operand::of(&first).transposed(), 1.0)?;
    let mut second = block(device, a, [half, half], [rest, rest])?;
    gram(device, Compute::F32, Operand::of(&below), Blend::scaled(-1.0).onto(1.0), &mut second)?;
    let second = inverse_factor(device, &second)?;
    let corner = times(Operand::of(&second), Operand::of(&below), -1.0)?;
    let corner = times(Operand::of(&corner), Operand::of(&first), 1.0)?;
    let mut whole = scratch(device, [n, n])?;
    whole.slice_mut::<f32>().fill(0.0);
    place(&mut whole, [0, 0], &first);
    place(&mut whole, [half, 0], &corner);
    place(&mut whole, [half, half], &second);
    Ok(whole)
}

/// The same by plain sums in f64.
fn plain_inverse_factor(a: &[f32], n: usize, out: &mut [f32]) {
    let mut factor: Vec<f64> = a.iter().map(|x| f64::from(*x)).collect();
    for col in 0..n {
        for row in col..n {
            let known: f64 = (0..col).map(|k| factor[row * n + k] * factor[col * n + k]).sum();
            let value = factor[row * n + col] - known;
            factor[row * n + col] = match row == col {
                true => value.max(LEAST_PIVOT).sqrt(),
                false => value / factor[col * n + col],
            };
        }
    }
    let mut inverse = vec![0.0f64; n * n];
    for row in 0..n {
        for col in 0..=row {
            let one = if row == col { 1.0 } else { 0.0 };
            let known: f64 = (col..row).map(|k| factor[row * n + k] * inverse[k * n + col]).sum();
            inverse[row * n + col] = (one - known) / factor[row * n + row];
        }
    }
    for (to, from) in out.iter_mut().zip(inverse) {
        *to = from as f32;
    }
}

/// A rectangle of `from`, copied.
fn block(
    device: &Device,
    from: &Tensor,
    [row, col]: [usize; 2],
    shape: [usize; 2],
) -> Result<Tensor, Error> {
    let mut to = scratch(device, shape)?;
    let lines = from.slice::<f32>().chunks(from.cols()).skip(row);
    for (to, from) in to.slice_mut::<f32>().chunks_mut(shape[1]).zip(lines) {
        to.copy_from_slice(&from[col..col + shape[1]]);
    }
    Ok(to)
}

/// Copies `from` into `to`, with its first value at `[row, col]`.
fn place(to: &mut Tensor, [row, col]: [usize; 2], from: &Tensor) {
    let (cols, width) = (to.cols(), from.cols());
    let lines = to.slice_mut::<f32>().chunks_mut(cols).skip(row);
    for (to, from) in lines.zip(from.slice::<f32>().chunks(width)) {
        to[col..col + width].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use smidgen_codec::{Ledger, Rng, Stream, Tag};

    use super::*;

    fn orthonormal(shape: [usize; 2], values: &[f32], threads: usize) -> Vec<f32> {
        let device = Device::cpu(Ledger::new(), threads);
        let y = Tensor::from_f32(device.pool(), Tag::Workspace, shape, values).unwrap();
        let rng = Rng::new(1, Stream::Init);
        let draws = Draws { rng: &rng, refresh: 0, param: 0 };
        orthonormalise(&device, y, &draws).unwrap().to_vec()
    }

    fn check(shape @ [rows, cols]: [usize; 2], values: &[f32]) -> Vec<f32> {
        let q = orthonormal(shape, values, 2);
        assert!(q == orthonormal(shape, values, 1), "threads");
        for (i, a) in q.chunks(cols).enumerate() {
            for (j, b) in q.chunks(cols).enumerate() {
                let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
                let one = if i == j { 1.0 } else { 0.0 };
                assert!((dot - one).abs() < 1e-5, "{rows} {cols}: {i} {j} {dot}");
            }
        }
        q
    }

    fn normals(count: usize, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; count];
        Rng::new(seed, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
        values
    }

    /// The span stays: every row of the input is what its projection gives back.
    #[test]
    fn rows_become_orthonormal_and_keep_their_span() {
        for shape @ [rows, cols] in [[1, 1], [1, 9], [7, 7], [50, 64], [130, 400]] {
            let values = normals(rows * cols, 4);
            let q = check(shape, &values);
            for row in values.chunks(cols) {
                let mut rest: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                for q in q.chunks(cols) {
                    let dot: f64 = q.iter().zip(row).map(|(a, b)| f64::from(a * b)).sum();
                    rest.iter_mut().zip(q).for_each(|(x, q)| *x -= dot * f64::from(*q));
                }
                let left = rest.iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!(left < 1e-4 * (cols as f64).sqrt(), "{rows} {cols}: {left}");
            }
        }
    }

    #[test]
    fn rows_that_depend_on_others_are_completed() {
        check([5, 8], &[0.0; 40]);
        check([8, 8], &[1.0; 64]);
        let (left, right) = (normals(60 * 3, 1), normals(3 * 100, 2));
        let one =
            |at: usize| (0..3).map(|k| left[at / 100 * 3 + k] * right[k * 100 + at % 100]).sum();
        check([60, 100], &(0..6000).map(one).collect::<Vec<f32>>());
        // All rows along one axis.
        let axis: Vec<f32> = (0..400).map(|at| if at % 40 == 3 { 1e-20 } else { 0.0 }).collect();
        check([10, 40], &axis);
        // Rows of very different sizes, nearly the same.
        let mut steep = normals(64 * 200, 7);
        for (at, x) in steep.iter_mut().enumerate() {
            let i = at / 200;
            *x = if i > 0 { *x * 10f32.powi(-(i as i32) / 8) } else { *x };
        }
        let first = steep[..200].to_vec();
        steep.iter_mut().enumerate().skip(200).for_each(|(at, x)| *x += first[at % 200]);
        check([64, 200], &steep);
    }
}
