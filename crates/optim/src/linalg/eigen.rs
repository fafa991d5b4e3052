//! Eigenvalues and eigenvectors of small symmetric matrices.

use nalgebra::{DMatrix, SymmetricEigen};
use smidgen_codec::Tag;
use smidgen_tensor::{Device, Tensor};

use super::scratch;
use crate::Error;

/// Bytes of working copies that the library makes of the matrix.
const COPIES: usize = 3;

/// The eigenvalues of a symmetric matrix, largest first, and the vectors in rows in that order.
///
/// # Errors
/// [`Error::Tensor`] for want of memory.
pub(crate) fn eigen(device: &Device, a: &Tensor) -> Result<(Vec<f32>, Tensor), Error> {
    let n = a.rows();
    // The library has its memory from the system; it is counted all the same.
    let _booked = device.pool().bytes(Tag::Workspace, COPIES * a.byte_len())?;
    let largest = a.slice::<f32>().iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let matrix = DMatrix::from_fn(n, n, |i, j| {
        // Rounding may differ above and below the diagonal.
        a.slice::<f32>()[i.max(j) * n + i.min(j)] / largest
    });
    let solved = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..n).collect();
    let value = |i: usize| solved.eigenvalues[i];
    order.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
    let mut vectors = scratch(device, [n, n])?;
    for (row, from) in vectors.slice_mut::<f32>().chunks_mut(n.max(1)).zip(&order) {
        for (to, x) in row.iter_mut().zip(solved.eigenvectors.column(*from).iter()) {
            *to = *x;
        }
    }
    Ok((order.iter().map(|i| value(*i) * largest).collect(), vectors))
}
