//! Mean squares of the rows and columns of a matrix, and a matrix times a factor for each of them.
//!
//! Sums are in f64 over bands of rows of a size that the shape alone fixes, joined in order.

use std::sync::OnceLock;

use smidgen_tensor::{Device, Level, multiversion};

use crate::clip::{CHUNK, sum_of_squares};

/// Bands at most: each holds a sum for every column.
const BANDS: usize = 64;

/// The mean squares of rows and of columns.
pub(crate) fn mean_squares(device: &Device, shape: [usize; 2], values: &[f32]) -> [Vec<f64>; 2] {
    let [rows, cols] = shape;
    let sums = bands(device, shape, values, |level, _, band| {
        let mut of_cols = vec![0.0; cols];
        let of_rows = band.chunks(cols.max(1)).map(|row| {
            add_squares(level, row, &mut of_cols);
            sum_of_squares(level, row)
        });
        (of_rows.collect::<Vec<f64>>(), of_cols)
    });
    let mut means = [Vec::with_capacity(rows), vec![0.0; cols]];
    for (of_rows, of_cols) in sums {
        means[0].extend(of_rows.iter().map(|sum| sum / cols as f64));
        for (mean, sum) in means[1].iter_mut().zip(of_cols) {
            *mean += sum / rows as f64;
        }
    }
    means
}

/// What `of` makes of each band of whole rows and the index of its first value, in order.
fn bands<T: Send + Sync>(
    device: &Device,
    [rows, cols]: [usize; 2],
    values: &[f32],
    of: impl Fn(Level, usize, &[f32]) -> T + Sync,
) -> impl Iterator<Item = T> {
    let rows = (CHUNK / cols.max(1)).max(rows.div_ceil(BANDS)).max(1);
    let size = (rows * cols).max(1);
    let bands: Vec<&[f32]> = values.chunks(size).collect();
    let results: Vec<OnceLock<T>> = bands.iter().map(|_| OnceLock::new()).collect();
    device.team().run(bands.len(), |task| {
        let _ = results[task].set(of(device.level(), task * size, bands[task]));
    });
    results.into_iter().map(|result| result.into_inner().expect("the team runs every task"))
}

/// A factor for each row and one for each column.
pub(crate) struct Factors {
    rows: Vec<f32>,
    cols: Vec<f32>,
}

impl Factors {
    /// 1 / sqrt(R C^T / mean(R)), one root at a time: each stays in range where their product does
    /// not. Moments of zero belong to gradients of zero and give zero.
    pub(crate) fn of_moments(rows: &[f32], cols: &[f32]) -> Self {
        let mean = rows.iter().map(|r| f64::from(*r)).sum::<f64>() / rows.len().max(1) as f64;
        let root = |x: f64| if x > 0.0 { (1.0 / x.sqrt()) as f32 } else { 0.0 };
        Self {
            rows: rows.iter().map(|r| root(f64::from(*r) / mean)).collect(),
            cols: cols.iter().map(|c| root(f64::from(*c))).collect(),
        }
    }

    /// The same factors times a number.
    pub(crate) fn scaled(mut self, by: f32) -> Self {
        self.rows.iter_mut().for_each(|row| *row *= by);
        self
    }

    /// Writes the products for the values from `first` on.
    pub(crate) fn multiply(&self, first: usize, values: &[f32], to: &mut [f32]) {
        let cols = self.cols.len();
        let (mut at, mut done) = (first, 0);
        while done < to.len() {
            let (row, col) = (at / cols, at % cols);
            let len = (cols - col).min(to.len() - done);
            let to = &mut to[done..done + len];
            let by_col = self.cols[col..col + len].iter().zip(&values[at..at + len]);
            for (to, (by_col, value)) in to.iter_mut().zip(by_col) {
                *to = value * self.rows[row] * by_col;
            }
            (at, done) = (at + len, done + len);
        }
    }

    /// The root of the sum of squares of all products.
    pub(crate) fn norm(&self, device: &Device, values: &[f32]) -> f64 {
        let cols = self.cols.len();
        let shape = [self.rows.len(), cols];
        let sums = bands(device, shape, values, |level, first, band| {
            let mut row = vec![0.0; cols];
            let squares = (first..first + band.len()).step_by(cols).map(|at| {
                self.multiply(at, values, &mut row);
                sum_of_squares(level, &row)
            });
            squares.sum::<f64>()
        });
        sums.sum::<f64>().sqrt()
    }
}

multiversion! {
    fn add_squares(row: &[f32], sums: &mut [f64]) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use smidgen_codec::Ledger;

    use super::*;

    /// Where g^2 is a product of a row and a column, the factors make every |u| one.
    #[test]
    fn squares_of_rank_one_are_reproduced_exactly() {
        let device = Device::cpu(Ledger::new(), 2);
        let [rows, cols] = [130, 700];
        let row = |i: usize| 1e-3 * (1.0 + (i % 17) as f32);
        let col = |j: usize| 0.1 + (j % 29) as f32;
        let sign = |at: usize| if at.is_multiple_of(3) { -1.0 } else { 1.0 };
        let grad: Vec<f32> =
            (0..rows * cols).map(|at| sign(at) * row(at / cols) * col(at % cols)).collect();
        let means = mean_squares(&device, [rows, cols], &grad);
        let [r, c] = means.map(|means| means.iter().map(|x| *x as f32).collect::<Vec<_>>());
        let factors = Factors::of_moments(&r, &c);
        let mut u = vec![0.0; grad.len() - 5];
        factors.multiply(5, &grad, &mut u);
        for (at, u) in u.iter().enumerate() {
            assert!((u - sign(at + 5)).abs() < 1e-5, "{at}: {u}");
        }
        let norm = factors.norm(&device, &grad);
        assert!((norm / ((rows * cols) as f64).sqrt() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let values: Vec<f32> = (0..300 * 501).map(|i| (i as f32 * 0.37).sin()).collect();
        let of = |threads| {
            let device = Device::cpu(Ledger::new(), threads);
            let means = mean_squares(&device, [300, 501], &values);
            let [r, c] = means.clone().map(|m| m.iter().map(|x| *x as f32).collect::<Vec<_>>());
            (means, Factors::of_moments(&r, &c).norm(&device, &values))
        };
        assert!(of(1) == of(2) && of(1) == of(5));
    }
}
