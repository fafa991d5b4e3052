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
type Triple = [f64; 3];

const QUINTIC: Triple = [3.4445, -4.7750, 2.0315];
const EXPRESS: [Triple; 5] = [
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
