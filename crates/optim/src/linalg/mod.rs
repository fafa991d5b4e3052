//! Leading singular directions of large matrices, in f32, from products of the engine.
//!
//! Bases lie in rows: `[r, k]` is r orthonormal vectors of k numbers. All sums are products of the
//! engine or run over fixed chunks, so every number of threads gives the same bits.

mod eigen;
mod leading;
mod orthonormal;

pub(crate) use eigen::{eigen, eigenvalues};
pub(crate) use leading::{Draws, Leading, exact, randomised};
pub(crate) use orthonormal::orthonormalise;

use smidgen_codec::Tag;
use smidgen_tensor::{Device, Format, Tensor};

use crate::Error;

/// f32 scratch of one computation, holding whatever was there before.
pub(crate) fn scratch(device: &Device, shape: [usize; 2]) -> Result<Tensor, Error> {
    Ok(Tensor::uninit(device.pool(), Tag::Workspace, shape, Format::F32)?)
}

/// The first `rows` rows, copied.
fn head(device: &Device, from: &Tensor, rows: usize) -> Result<Tensor, Error> {
    let mut to = scratch(device, [rows, from.cols()])?;
    to.slice_mut::<f32>().copy_from_slice(&from.slice()[..rows * from.cols()]);
    Ok(to)
}
