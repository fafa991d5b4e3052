//! How much room to learn a matrix has left: ranks that tell how evenly its singular values lie.

use serde::{Deserialize, Serialize};
use smidgen_tensor::{Device, Param};

use crate::Error;
use crate::fire::small_gram;
use crate::linalg::{eigenvalues, scratch};

/// The ranks of one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plasticity {
    /// Squared Frobenius norm over the squared largest singular value.
    pub stable_rank: f64,
    /// exp of the entropy of the singular values over their sum.
    pub effective_rank: f64,
}

/// The ranks of a parameter's weights; both 0 for a matrix of zeros.
///
/// # Errors
/// [`Error::BadWeights`] for weights that are not finite, [`Error::Tensor`] for want of memory.
pub fn plasticity(device: &Device, param: &Param) -> Result<Plasticity, Error> {
    let mut values = scratch(device, param.value.shape())?;
    param.value.read_f32(0, values.slice_mut());
    if values.slice::<f32>().iter().any(|x| !x.is_finite()) {
        return Err(Error::BadWeights { param: param.name.clone() });
    }
    let squares = eigenvalues(device, &small_gram(device, &values)?)?;
    let all: f64 = squares.iter().map(|x| x.max(0.0)).sum();
    let largest = squares.first().copied().unwrap_or(0.0);
    if largest <= 0.0 {
        return Ok(Plasticity { stable_rank: 0.0, effective_rank: 0.0 });
    }
    let sigma: Vec<f64> = squares.iter().map(|x| x.max(0.0).sqrt()).collect();
    let sum: f64 = sigma.iter().sum();
    let shares = sigma.iter().map(|x| x / sum).filter(|p| *p > 0.0);
    let entropy: f64 = shares.map(|p| -p * p.ln()).sum();
    Ok(Plasticity { stable_rank: all / largest, effective_rank: entropy.exp() })
}
