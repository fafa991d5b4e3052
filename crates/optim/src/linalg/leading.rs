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
