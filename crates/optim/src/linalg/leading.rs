//! The leading directions of a matrix: exactly, or by random projection.
//!
//! Exact: the eigenvectors of `G G^T`. Randomised: the rows of `W G^T` with random W lie near the
//! leading directions; products with `G` and `G^T` bring them nearer; inside the span that is left
//! a small eigenproblem finds them. Source: Halko, Martinsson and Tropp, Finding Structure with
//! Randomness (arXiv 0909.4061), algorithms 4.4 and 5.1.

use std::sync::Mutex;

use smidgen_codec::Rng;
use smidgen_tensor::{Blend, Compute, Device, Operand, Tensor, gram, product};

use super::{eigen, head, orthonormalise, scratch};
use crate::Error;

/// Directions beyond those asked for.
const OVERSAMPLING: usize = 10;
/// Normals drawn by one task.
const CHUNK: usize = 1 << 14;
/// Size of the noise that completes a basis, against rows of length 1.
const NOISE: f32 = 1e-3;

/// The leading directions of the rows' space of a matrix `[k, n]`.
pub(crate) struct Leading {
    /// `[r, k]`: orthonormal rows, the strongest first.
    pub(crate) basis: Tensor,
    /// The square of the matrix along each, largest first.
    pub(crate) energies: Vec<f32>,
}

/// Random numbers of one parameter at one refresh.
#[derive(Clone, Copy)]
pub(crate) struct Draws<'a> {
    pub(crate) rng: &'a Rng,
    pub(crate) refresh: u64,
    pub(crate) param: usize,
}

impl Draws<'_> {
    /// Standard normals, the same for any number of threads. `place` tells draws of one refresh
    /// apart.
    fn fill(
        &self,
        device: &Device,
        place: u64,
        values: &mut [f32],
        of: impl Fn(&mut f32, f32) + Sync,
    ) {
        // Slots and weights of the parameter have the places beside this one.
        let tensor = (self.param as u64) << 8 | 0xfe;
        let first = place << 40;
        let chunks: Vec<_> = values.chunks_mut(CHUNK).map(Mutex::new).collect();
        device.team().run(chunks.len(), |task| {
            let mut chunk = chunks[task].lock().expect("each chunk has one task");
            for (i, value) in chunk.iter_mut().enumerate() {
                let index = first + (task * CHUNK + i) as u64;
                of(value, self.rng.normal(self.refresh, tensor, index) as f32);
            }
        });
    }

    /// Adds a little to every value, so that no row depends on others.
    pub(crate) fn add_noise(&self, device: &Device, y: &mut Tensor, place: u64) {
        let size = NOISE / (y.cols().max(1) as f32).sqrt();
        self.fill(device, place, y.slice_mut(), |value, normal| *value += size * normal);
    }
}

/// The `rank` leading directions of `g`, `[k, n]` with k <= n, from all of `G G^T`.
///
/// # Errors
/// [`Error::Tensor`] for want of memory.
pub(crate) fn exact(
    device: &Device,
    g: Operand<'_>,
    rank: usize,
    draws: &Draws<'_>,
) -> Result<Leading, Error> {
    let k = g.shape()[0];
    let mut squares = scratch(device, [k, k])?;
    gram(device, Compute::F32, g, Blend::SET, &mut squares)?;
    let (mut energies, vectors) = eigen(device, &squares)?;
    energies.truncate(rank);
    // The solver leaves a little to be done.
    let basis = orthonormalise(device, head(device, &vectors, rank)?, draws)?;
    Ok(Leading { basis, energies })
}

/// About the same by random projection, with `power` iterations.
///
/// # Errors
/// [`Error::Tensor`] for want of memory.
pub(crate) fn randomised(
    device: &Device,
    g: Operand<'_>,
    rank: usize,
    power: usize,
    draws: &Draws<'_>,
) -> Result<Leading, Error> {
    let [k, n] = g.shape();
    let count = (rank + OVERSAMPLING).min(k);
    let times = |a: Operand<'_>, b: Operand<'_>| -> Result<Tensor, Error> {
        let mut out = scratch(device, [a.shape()[0], b.shape()[1]])?;
        product(device, Compute::F32, a, b, Blend::SET, &mut out)?;
        Ok(out)
    };
    let mut wide = scratch(device, [count, n])?;
    draws.fill(device, 0, wide.slice_mut(), |value, normal| *value = normal);
    let mut basis = times(Operand::of(&wide), g.transposed())?;
    for _ in 0..power {
        basis = orthonormalise(device, basis, draws)?;
        wide = orthonormalise(device, times(Operand::of(&basis), g)?, draws)?;
        basis = times(Operand::of(&wide), g.transposed())?;
    }
    basis = orthonormalise(device, basis, draws)?;
    wide = times(Operand::of(&basis), g)?;
    let mut squares = scratch(device, [count, count])?;
    gram(device, Compute::F32, Operand::of(&wide), Blend::SET, &mut squares)?;
    drop(wide);
    let (mut energies, vectors) = eigen(device, &squares)?;
    energies.truncate(rank);
    let turned = times(Operand::of(&head(device, &vectors, rank)?), Operand::of(&basis))?;
    Ok(Leading { basis: orthonormalise(device, turned, draws)?, energies })
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;
    use smidgen_codec::{Ledger, Stream, Tag};

    use super::*;

    /// A matrix `U diag(s) V^T` with `s_i = 1 / i`.
    fn harmonic(k: usize, n: usize) -> Vec<f32> {
        let orthogonal = |rows: usize, cols: usize, seed: u64| {
            let rng = Rng::new(seed, Stream::Init);
            let one = |i, j| rng.normal(0, i as u64, j as u64);
            DMatrix::<f64>::from_fn(rows, cols, one).qr().q()
        };
        let (u, v) = (orthogonal(k, k, 1), orthogonal(n, k, 2));
        let s = DMatrix::from_fn(k, k, |i, j| if i == j { 1.0 / (i + 1) as f64 } else { 0.0 });
        let all = u * s * v.transpose();
        all.transpose().iter().map(|x| *x as f32).collect()
    }

    fn held(device: &Device, g: &Tensor, found: &Leading) -> f64 {
        let mut part = scratch(device, [found.basis.rows(), g.cols()]).unwrap();
        let (a, b) = (Operand::of(&found.basis), Operand::of(g));
        product(device, Compute::F32, a, b, Blend::SET, &mut part).unwrap();
        part.slice::<f32>().iter().map(|x| f64::from(*x).powi(2)).sum()
    }

    /// The bar: one power iteration holds 98 % of what the exact directions hold.
    #[test]
    fn random_projection_holds_nearly_the_exact_energy() {
        let device = Device::cpu(Ledger::new(), 2);
        let rng = Rng::new(9, Stream::Rounding);
        let draws = Draws { rng: &rng, refresh: 3, param: 5 };
        for ([k, n], rank) in [([96, 160], 24), ([128, 128], 32), ([64, 300], 4)] {
            let g =
                Tensor::from_f32(device.pool(), Tag::Workspace, [k, n], &harmonic(k, n)).unwrap();
            let best: f64 = (1..=rank).map(|i| (i as f64).powi(-2)).sum();
            let exact = exact(&device, Operand::of(&g), rank, &draws).unwrap();
            assert!((held(&device, &g, &exact) / best - 1.0).abs() < 1e-4);
            let near = randomised(&device, Operand::of(&g), rank, 1, &draws).unwrap();
            assert!(held(&device, &g, &near) / best > 0.98, "{}", held(&device, &g, &near) / best);
            for (i, energy) in exact.energies.iter().enumerate().take(4) {
                let expected = ((i + 1) as f32).powi(-2);
                assert!((energy / expected - 1.0).abs() < 1e-3, "{i}: {energy}");
                assert!((near.energies[i] / expected - 1.0).abs() < 0.02, "{i}");
                // Principal angles: the first directions are found as they are.
                let row = |found: &Leading| found.basis.slice::<f32>()[i * k..][..k].to_vec();
                let cosine: f32 = row(&exact).iter().zip(row(&near)).map(|(a, b)| a * b).sum();
                assert!(cosine.abs() > 0.99, "{i}: {cosine}");
            }
        }
    }

    #[test]
    fn draws_differ_by_parameter_and_refresh_and_by_nothing_else() {
        let of = |threads, refresh, param| {
            let device = Device::cpu(Ledger::new(), threads);
            let values: Vec<f32> = harmonic(40, 60);
            let g = Tensor::from_f32(device.pool(), Tag::Workspace, [40, 60], &values).unwrap();
            let rng = Rng::new(2, Stream::Rounding);
            let draws = Draws { rng: &rng, refresh, param };
            randomised(&device, Operand::of(&g), 8, 1, &draws).unwrap().basis.to_vec()
        };
        let first = of(1, 0, 0);
        assert!(first == of(2, 0, 0) && first == of(3, 0, 0));
        assert!(first != of(1, 1, 0) && first != of(1, 0, 1));
    }
}
