//! The orthogonal matrix nearest to a matrix, by products alone.
//!
//! X = U / norm(U); a few times A = X X^T, X = a X + (b A + c A^2) X. Each singular value s becomes
//! a s + b s^3 + c s^5, which drives it towards 1; vectors stay. Both products of A are symmetric
//! and computed by half, so a square matrix costs 4 n^3 multiplications in place of 6 n^3.
//! Memory: two matrices like X and two of its smaller side squared, in bf16 where the CPU
//! multiplies it. bf16 has the range of f32, which f16 lacks.
//! Sources: Jordan et al., Muon (2024), for `newton-schulz`; Amsel et al., The Polar Express (arXiv
//! 2505.16932), for triples that differ by iteration. Differs: a matrix is divided by its norm
//! exactly, so its scale does not matter however small, and zero stays zero.

use std::sync::Mutex;

use half::bf16;
use serde::{Deserialize, Serialize};
use smidgen_codec::Tag;
use smidgen_tensor::{
    Blend, Device, Element, Format, Operand, Tensor, gram, multiversion, product,
};

use crate::clip::{CHUNK, sum_of_squares};
use crate::{Error, global_norm, scale};

/// How a matrix is made orthogonal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Polar {
    /// The triples of Polar Express, one for each iteration; further iterations repeat the last.
    /// Five bring singular values from 1/1000 of the norm on into 0.85 to 1.15.
    #[default]
    PolarExpress,
    /// The same quintic polynomial at each iteration. Five bring singular values from 1/500 of the
    /// norm on into 0.68 to 1.21.
    NewtonSchulz,
}

/// a, b and c of X = a X + (b A + c A^2) X.
pub(crate) type Triple = [f64; 3];

const QUINTIC: Triple = [3.4445, -4.7750, 2.0315];
pub(crate) const EXPRESS: [Triple; 5] = [
    [8.156554524902461, -22.48329292557795, 15.878769915207462],
    [4.042929935166739, -2.808917465908714, 0.5000178451051316],
    [3.8916678022926607, -2.772484153217685, 0.5060648178503393],
    [3.285753657755655, -2.3681294933425376, 0.46449024233003106],
    [2.3465413258596377, -1.7097828382687081, 0.42323551169305323],
];

impl Polar {
    fn triple(self, iteration: usize) -> Triple {
        match self {
            Polar::NewtonSchulz => QUINTIC,
            Polar::PolarExpress => EXPRESS[iteration.min(EXPRESS.len() - 1)],
        }
    }

    /// What the largest singular value is kept below 1 by: steep triples overshoot past it.
    fn margin(self) -> f64 {
        match self {
            Polar::NewtonSchulz => 1.0,
            Polar::PolarExpress => 1.01,
        }
    }

    /// Makes `u` orthogonal: its singular values near 1, its singular vectors as they were. The
    /// result is in the format that the device multiplies fastest.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the pool has no memory.
    pub(crate) fn orthogonal(
        self,
        device: &Device,
        iterations: usize,
        u: Tensor,
    ) -> Result<Tensor, Error> {
        let compute = device.preferred_compute();
        let mut x = self.normalised(device, u, compute.format())?;
        let [rows, cols] = x.shape();
        let side = rows.min(cols);
        let empty = |shape| Tensor::uninit(device.pool(), Tag::Workspace, shape, compute.format());
        let (mut next, mut square) = (empty([rows, cols])?, empty([side, side])?);
        let mut poly = empty([side, side])?;
        for iteration in 0..iterations {
            let [a, b, c] = self.triple(iteration).map(|x| x as f32);
            let (view, is_wide) = (Operand::of(&x), rows <= cols);
            let of_side = if is_wide { view } else { view.transposed() };
            gram(device, compute, of_side, Blend::SET, &mut square)?;
            let blend = Blend::scaled(c).plus(b, &square);
            gram(device, compute, Operand::of(&square), blend, &mut poly)?;
            let blend = Blend::SET.plus(a, &x);
            let poly = Operand::of(&poly);
            let [left, right] = if is_wide { [poly, view] } else { [view, poly] };
            product(device, compute, left, right, blend, &mut next)?;
            std::mem::swap(&mut x, &mut next);
        }
        Ok(x)
    }

    /// Bytes that this takes at once, `u` included, at most: two matrices, panels of two more, and two of
    /// the smaller side squared, in f32. Where the CPU multiplies bf16 it is half of that.
    pub(crate) fn workspace_bytes([rows, cols]: [usize; 2]) -> usize {
        let (value, side) = (rows.saturating_mul(cols), rows.min(cols));
        let squares = side.saturating_mul(side).saturating_mul(2 * 4);
        value.saturating_mul(4 * 4).saturating_add(squares)
    }

    /// `u` divided by its norm, in `format`.
    fn normalised(self, device: &Device, mut u: Tensor, format: Format) -> Result<Tensor, Error> {
        let norm = self.margin() * global_norm(device.team(), &[u.slice::<f32>()]);
        // Zero divided by the smallest number is zero, not a NaN.
        let factor = (1.0 / norm.max(1e-37)) as f32;
        if format == Format::F32 {
            scale(device.team(), u.slice_mut::<f32>(), factor);
            return Ok(u);
        }
        let mut x = Tensor::uninit(device.pool(), Tag::Workspace, u.shape(), format)?;
        let to = x.slice_mut::<bf16>().chunks_mut(CHUNK);
        let chunks: Vec<_> = u.slice::<f32>().chunks(CHUNK).zip(to).map(Mutex::new).collect();
        device.team().run(chunks.len(), |task| {
            let mut chunk = chunks[task].lock().expect("each chunk has one task");
            let (from, to) = &mut *chunk;
            narrow(device.level(), from, factor, to);
        });
        drop(chunks);
        Ok(x)
    }
}

multiversion! {
    fn narrow(from: &[f32], factor: f32, to: &mut [bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = bf16::from_f32(from * factor);
        }
    }
}

/// Widens the values from `first` on into `to`.
pub(crate) fn widen(x: &Tensor, first: usize, to: &mut [f32]) {
    let range = first..first + to.len();
    match x.format() {
        Format::F32 => to.copy_from_slice(&x.slice::<f32>()[range]),
        Format::Bf16 => {
            for (to, code) in to.iter_mut().zip(&x.slice::<bf16>()[range]) {
                *to = Element::to_f32(*code);
            }
        }
    }
}

/// The sum of squares of each row.
pub(crate) fn row_squares(device: &Device, x: &Tensor) -> Vec<f64> {
    let cols = x.cols();
    let rows_per_task = (CHUNK / cols.max(1)).max(1);
    let mut sums = vec![0.0; x.rows()];
    let tasks: Vec<_> = sums.chunks_mut(rows_per_task).map(Mutex::new).collect();
    device.team().run(tasks.len(), |task| {
        let mut wide = vec![0.0; cols];
        let mut sums = tasks[task].lock().expect("each chunk has one task");
        for (row, sum) in sums.iter_mut().enumerate() {
            widen(x, (task * rows_per_task + row) * cols, &mut wide);
            *sum = sum_of_squares(device.level(), &wide);
        }
    });
    drop(tasks);
    sums
}

#[cfg(test)]
mod tests {
    use smidgen_codec::{Ledger, Rng, Stream};
    use smidgen_tensor::{Compute, Level};

    use super::*;

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; count];
        Rng::new(seed, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
        values
    }

    fn tensor(device: &Device, shape: [usize; 2], values: &[f32]) -> Tensor {
        Tensor::from_f32(device.pool(), Tag::Workspace, shape, values).unwrap()
    }

    fn times(device: &Device, a: Operand<'_>, b: Operand<'_>) -> Tensor {
        let shape = [a.shape()[0], b.shape()[1]];
        let mut out = tensor(device, shape, &vec![0.0; shape[0] * shape[1]]);
        product(device, Compute::F32, a, b, Blend::SET, &mut out).unwrap();
        out
    }

    /// A matrix with orthonormal columns, one after another and each twice.
    fn orthonormal(device: &Device, [rows, cols]: [usize; 2], seed: u64) -> Tensor {
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for col in 0..cols {
            let mut new: Vec<f64> =
                noise(rows, seed * 1000 + col as u64).iter().map(|x| f64::from(*x)).collect();
            for _ in 0..2 {
                for old in &columns {
                    let dot: f64 = old.iter().zip(&new).map(|(a, b)| a * b).sum();
                    new.iter_mut().zip(old).for_each(|(new, old)| *new -= dot * old);
                }
            }
            let norm = new.iter().map(|x| x * x).sum::<f64>().sqrt();
            columns.push(new.iter().map(|x| x / norm).collect());
        }
        let values: Vec<f32> =
            (0..rows * cols).map(|at| columns[at % cols][at / cols] as f32).collect();
        tensor(device, [rows, cols], &values)
    }

    /// U diag(s) V^T.
    fn spectrum(device: &Device, u: &Tensor, s: &[f64], v: &Tensor) -> Tensor {
        let mut scaled = u.to_vec();
        for (at, x) in scaled.iter_mut().enumerate() {
            *x *= s[at % s.len()] as f32;
        }
        let scaled = tensor(device, u.shape(), &scaled);
        times(device, Operand::of(&scaled), Operand::of(v).transposed())
    }

    /// What five iterations make of one singular value.
    fn of_value(polar: Polar, mut s: f64) -> f64 {
        for iteration in 0..5 {
            let [a, b, c] = polar.triple(iteration);
            s = a * s + b * s.powi(3) + c * s.powi(5);
        }
        s
    }

    #[test]
    fn values_end_in_the_ranges_that_the_docs_name() {
        let range = |polar: Polar, from: f64| {
            let values = (0..=20_000).map(|i| from.powf(f64::from(i) / 20_000.0));
            values.fold((f64::MAX, 0.0f64), |(low, high), s| {
                let s = of_value(polar, s);
                (low.min(s), high.max(s))
            })
        };
        for (polar, from, low, high) in [
            (Polar::NewtonSchulz, 0.01, 0.682, 1.134),
            (Polar::NewtonSchulz, 0.002, 0.682, 1.202),
            (Polar::NewtonSchulz, 0.001, 0.470, 1.202),
            (Polar::PolarExpress, 0.001, 0.859, 1.141),
        ] {
            let got = range(polar, from);
            assert!((got.0 - low).abs() < 0.003 && (got.1 - high).abs() < 0.003, "{got:?}");
        }
        // Repeating the last triple keeps values where they are.
        let mut s = 0.8;
        for _ in 0..20 {
            let [a, b, c] = Polar::PolarExpress.triple(9);
            s = a * s + b * s.powi(3) + c * s.powi(5);
            assert!((0.8..1.2).contains(&s), "{s}");
        }
    }

    /// The result is U f(S) V^T: same vectors, values through the polynomial; either way round.
    #[test]
    fn a_controlled_spectrum_goes_through_the_polynomial() {
        let device = Device::cpu_at(Ledger::new(), 2, Level::Avx2);
        for polar in [Polar::NewtonSchulz, Polar::PolarExpress] {
            for [rows, cols] in [[24, 40], [40, 24], [24, 24]] {
                let side = rows.min(cols);
                let s: Vec<f64> = (0..side).map(|i| 0.003f64.powf(i as f64 / 23.0)).collect();
                let norm = polar.margin() * s.iter().map(|s| s * s).sum::<f64>().sqrt();
                let u = orthonormal(&device, [rows, side], 1);
                let v = orthonormal(&device, [cols, side], 2);
                let x = spectrum(&device, &u, &s, &v);
                let got = polar.orthogonal(&device, 5, x).unwrap();
                let after: Vec<f64> = s.iter().map(|s| of_value(polar, s / norm)).collect();
                assert!(after.iter().all(|s| (0.68..1.21).contains(s)), "{after:?}");
                let expected = spectrum(&device, &u, &after, &v).to_vec();
                for (got, expected) in got.to_vec().iter().zip(expected) {
                    assert!((got - expected).abs() < 1e-4, "{got} {expected}");
                }
            }
        }
    }

    #[test]
    fn turning_the_input_turns_the_output() {
        let device = Device::cpu_at(Ledger::new(), 2, Level::Avx2);
        let [rows, cols] = [20, 30];
        let u = tensor(&device, [rows, cols], &noise(rows * cols, 3));
        let q = orthonormal(&device, [rows, rows], 4);
        let r = orthonormal(&device, [cols, cols], 5);
        let turn = |x: &Tensor| {
            let left = times(&device, Operand::of(&q), Operand::of(x));
            times(&device, Operand::of(&left), Operand::of(&r))
        };
        for polar in [Polar::NewtonSchulz, Polar::PolarExpress] {
            let turned = polar.orthogonal(&device, 5, turn(&u)).unwrap();
            let copy = tensor(&device, [rows, cols], &u.to_vec());
            let x = turn(&polar.orthogonal(&device, 5, copy).unwrap());
            for (a, b) in turned.to_vec().iter().zip(x.to_vec()) {
                assert!((a - b).abs() < 2e-4, "{a} {b}");
            }
        }
    }

    /// Also in bf16 where the machine has it.
    #[test]
    fn scale_does_not_matter_and_zero_stays_zero() {
        let device = Device::cpu(Ledger::new(), 2);
        let values = noise(64 * 48, 6);
        let of = |scale: f32| {
            let scaled: Vec<f32> = values.iter().map(|x| x * scale).collect();
            let u = tensor(&device, [64, 48], &scaled);
            Polar::default().orthogonal(&device, 5, u).unwrap().to_vec()
        };
        let plain = of(1.0);
        for scale in [1024.0, 1e-30, 1e30] {
            let far = plain.iter().zip(of(scale)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 0.02, "{scale}: {far}");
        }
        assert!(of(0.0).iter().all(|x| *x == 0.0));
    }
}
