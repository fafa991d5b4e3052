//! Eigenvalues and eigenvectors of small symmetric matrices.

use nalgebra::{DMatrix, SymmetricEigen};
use smidgen_codec::Tag;
use smidgen_tensor::{Buffer, Device, Tensor};

use super::scratch;
use crate::Error;

/// Bytes of working copies that the library makes of the matrix, in f64: some of its sums of squares
/// leave the range of f32 where a matrix is nearly singular.
const COPIES: usize = 6;

/// The eigenvalues of a symmetric matrix, largest first, and the vectors in rows in that order.
///
/// # Errors
/// [`Error::Tensor`] for want of memory.
pub(crate) fn eigen(device: &Device, a: &Tensor) -> Result<(Vec<f32>, Tensor), Error> {
    let n = a.rows();
    let (matrix, largest, _booked) = copied(device, a)?;
    let solved = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..n).collect();
    let value = |i: usize| solved.eigenvalues[i];
    order.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
    let mut vectors = scratch(device, [n, n])?;
    for (row, from) in vectors.slice_mut::<f32>().chunks_mut(n.max(1)).zip(&order) {
        for (to, x) in row.iter_mut().zip(solved.eigenvectors.column(*from).iter()) {
            *to = *x as f32;
        }
    }
    Ok((order.iter().map(|i| value(*i) as f32 * largest).collect(), vectors))
}

/// The eigenvalues alone, largest first: much less work.
///
/// # Errors
/// [`Error::Tensor`] for want of memory.
pub(crate) fn eigenvalues(device: &Device, a: &Tensor) -> Result<Vec<f64>, Error> {
    let (matrix, largest, _booked) = copied(device, a)?;
    let values = matrix.symmetric_eigenvalues();
    let mut values: Vec<f64> = values.iter().map(|x| x * f64::from(largest)).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    Ok(values)
}

/// The matrix as the library takes it, divided by its largest value. It has its memory from the
/// system, which is counted all the same for as long as the buffer lives.
fn copied(device: &Device, a: &Tensor) -> Result<(DMatrix<f64>, f32, Buffer), Error> {
    let n = a.rows();
    let booked = device.pool().bytes(Tag::Workspace, COPIES * a.byte_len())?;
    let largest = a.slice::<f32>().iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let matrix = DMatrix::from_fn(n, n, |i, j| {
        // Rounding may differ above and below the diagonal.
        f64::from(a.slice::<f32>()[i.max(j) * n + i.min(j)] / largest)
    });
    Ok((matrix, largest, booked))
}

#[cfg(test)]
mod tests {
    use smidgen_codec::{Ledger, Rng, Stream};
    use smidgen_tensor::{Blend, Compute, Operand, gram};

    use super::*;

    /// `A v = lambda v`, largest first, also where most eigenvalues are nothing but rounding.
    #[test]
    fn pairs_solve_the_equation() {
        let device = Device::cpu(Ledger::new(), 1);
        for (n, rank) in [(1, 1), (2, 1), (13, 3), (13, 13), (60, 2), (40, 0)] {
            for seed in 0..20 {
                let mut x = vec![0.0; n * rank];
                Rng::new(seed, Stream::Init).fill_normal(0, 0, 3.0, &mut x);
                let x = Tensor::from_f32(device.pool(), Tag::Workspace, [n, rank], &x).unwrap();
                let mut a = scratch(&device, [n, n]).unwrap();
                gram(&device, Compute::F32, Operand::of(&x), Blend::SET, &mut a).unwrap();
                let (values, vectors) = eigen(&device, &a).unwrap();
                assert!(values.is_sorted_by(|a, b| a >= b));
                let a = a.slice::<f32>();
                for (value, v) in values.iter().zip(vectors.slice::<f32>().chunks(n)) {
                    for (row, v_i) in a.chunks(n).zip(v) {
                        let sum: f32 = row.iter().zip(v).map(|(a, v)| a * v).sum();
                        assert!(
                            (sum - value * v_i).abs() <= 1e-4 * values[0].max(1e-30),
                            "{n} {rank}"
                        );
                    }
                }
            }
        }
    }
}
