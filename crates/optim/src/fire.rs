//! `fire`: weights replaced by the nearest isometry, at the boundary of a phase.
//!
//! Of all matrices with orthonormal rows (or columns, where there are more rows), the nearest to W is
//! its polar factor `(W W^T)^(-1/2) W`; times sqrt(out / in) it is what a fresh matrix would be, and
//! as near to the trained one as can be. Found by Newton-Schulz from W / |W|: the five steps of
//! Polar Express lift the small singular values (all five: between them some are above sqrt(3), where
//! the cubic step would turn them around), then X = 1.5 X - 0.5 X X^T X until the squared miss
//! |X X^T - I|^2 is below a billionth for each direction. Directions that W does not have stay zero
//! and are counted, or are completed by random ones.
//! Source: Han et al., FIRE: Frobenius-isometry reinitialization (arXiv 2602.08040). Differs: a stop by
//! the miss in place of ten iterations, and the steps of Polar Express.

use serde::{Deserialize, Serialize};
use smidgen_codec::{Rng, Stream};
use smidgen_tensor::{
    Blend, Compute, Device, Operand, ParamId, Params, Role, Tensor, gram, product,
};

use crate::Error;
use crate::glob::distance;
use crate::linalg::{Draws, eigenvalues, scratch};
use crate::polar::EXPRESS;

/// Singular values below this of an isometry were none.
const MISSING: f64 = 0.5;

/// How matrices are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FireOptions {
    /// Iterations at most.
    pub iterations: usize,
    /// The squared miss for each direction at which they end.
    pub tolerance: f64,
    /// Whether directions that a matrix does not have are completed by random ones.
    pub complete: bool,
    /// Of the random directions.
    pub seed: u64,
}

impl Default for FireOptions {
    fn default() -> Self {
        Self { iterations: 30, tolerance: 1e-9, complete: false, seed: 0 }
    }
}

/// What became of one matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FireReport {
    /// The parameter.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Squared Frobenius distance of the new weights to the old ones.
    pub sfe: f64,
    /// |X X^T - I|^2 over the smaller side, for the old weights over sqrt(out / in).
    pub dfi_before: f64,
    /// The same for the new weights.
    pub dfi_after: f64,
    /// Iterations it took.
    pub iterations: usize,
    /// The smallest and the largest singular value of the old weights.
    pub sigma_before: [f64; 2],
    /// The same of the new weights.
    pub sigma_after: [f64; 2],
    /// Directions that the old weights did not have and the new ones do not have either.
    pub missing: usize,
}

/// The matrices that a pattern names; without one, those inside blocks.
///
/// # Errors
/// [`Error::NoMatrix`] where there is none, with the nearest name.
pub fn fire_targets(params: &Params, pattern: Option<&str>) -> Result<Vec<ParamId>, Error> {
    let is_matrix = |id: &ParamId| params.get(*id).value.shape().iter().all(|side| *side > 1);
    let ids = || params.iter().map(|(id, _)| id).filter(is_matrix);
    let far = |id: ParamId, pattern: &str| distance(pattern, &params.get(id).name);
    let found: Vec<ParamId> = match pattern {
        Some(pattern) => ids().filter(|id| far(*id, pattern) == 0).collect(),
        None => ids().filter(|id| params.get(*id).role == Role::MatrixHidden).collect(),
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let pattern = pattern.unwrap_or("*");
    let nearest = ids().min_by_key(|id| far(*id, pattern));
    let nearest = nearest.map(|id| params.get(id).name.clone());
    Err(Error::NoMatrix { pattern: pattern.into(), nearest })
}

/// Replaces the weights of `targets`, and reports on each. What an optimizer knows of them is the
/// caller's to forget ([`OptimState::forget`](crate::OptimState::forget)).
///
/// # Errors
/// [`Error::BadWeights`] for weights that are not finite or all zero, before anything is changed;
/// [`Error::Tensor`] for want of memory.
pub fn fire(
    device: &Device,
    params: &mut Params,
    targets: &[ParamId],
    options: &FireOptions,
) -> Result<Vec<FireReport>, Error> {
    for id in targets {
        let param = params.get(*id);
        let values = param.value.to_vec();
        let largest = values.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        if values.iter().any(|x| !x.is_finite()) || largest == 0.0 {
            return Err(Error::BadWeights { param: param.name.clone() });
        }
    }
    targets.iter().map(|id| replace(device, params, *id, options)).collect()
}

fn replace(
    device: &Device,
    params: &mut Params,
    id: ParamId,
    options: &FireOptions,
) -> Result<FireReport, Error> {
    let param = params.get_mut(id);
    let shape @ [rows, cols] = param.value.shape();
    let mut old = scratch(device, shape)?;
    param.value.read_f32(0, old.slice_mut());
    let scale = (rows as f64 / cols as f64).sqrt();
    let (dfi_before, sigma_before, _) = judge(device, &old, scale)?;
    let mut iterations = 0;
    let x = divided(device, &old, norm(&old))?;
    let mut x = isometry(device, x, options, &mut iterations)?;
    if options.complete {
        x = completed(device, x, options, id.index(), &mut iterations)?;
    }
    x.slice_mut::<f32>().iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    param.value.write_f32(0, x.slice());
    // What bf16 weights hold is what is judged.
    param.value.read_f32(0, x.slice_mut());
    let (dfi_after, sigma_after, missing) = judge(device, &x, scale)?;
    let pairs = x.slice::<f32>().iter().zip(old.slice::<f32>());
    let sfe = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let name = param.name.clone();
    Ok(FireReport {
        name,
        shape,
        sfe,
        dfi_before,
        dfi_after,
        iterations,
        sigma_before,
        sigma_after,
        missing,
    })
}

/// The polar factor of `x`, whose singular values are at most 1.
fn isometry(
    device: &Device,
    mut x: Tensor,
    options: &FireOptions,
    iterations: &mut usize,
) -> Result<Tensor, Error> {
    for number in 0..options.iterations {
        let squares = small_gram(device, &x)?;
        let (miss, _) = miss(&squares);
        // Directions that are missing never come: what counts is that nothing moves any more.
        if miss < options.tolerance
            || number > EXPRESS.len() && is_settled(device, &squares, options)?
        {
            break;
        }
        *iterations += 1;
        let [a, b, c] = match EXPRESS.get(number) {
            Some(triple) => triple.map(|x| x as f32),
            None => [1.5, -0.5, 0.0],
        };
        let mut by = squares;
        if c != 0.0 {
            let mut next = scratch(device, by.shape())?;
            let blend = Blend::scaled(c).plus(b, &by);
            gram(device, Compute::F32, Operand::of(&by), blend, &mut next)?;
            by = next;
        } else {
            by.slice_mut::<f32>().iter_mut().for_each(|x| *x *= b);
        }
        let mut next = scratch(device, x.shape())?;
        let blend = Blend::SET.plus(a, &x);
        let (by, of) = (Operand::of(&by), Operand::of(&x));
        let (left, right) = if x.rows() <= x.cols() { (by, of) } else { (of, by) };
        product(device, Compute::F32, left, right, blend, &mut next)?;
        x = next;
    }
    Ok(x)
}

/// Whether `A = X X^T` is a projection: `|A A - A|^2` below the tolerance for each direction.
fn is_settled(device: &Device, squares: &Tensor, options: &FireOptions) -> Result<bool, Error> {
    let mut twice = scratch(device, squares.shape())?;
    let blend = Blend::SET.plus(-1.0, squares);
    gram(device, Compute::F32, Operand::of(squares), blend, &mut twice)?;
    Ok(norm(&twice).powi(2) < 1e-2 * options.tolerance * squares.rows() as f64)
}

/// Adds random directions where `x` has none: the polar factor of noise from which everything that
/// `x` has was taken out.
fn completed(
    device: &Device,
    x: Tensor,
    options: &FireOptions,
    param: usize,
    iterations: &mut usize,
) -> Result<Tensor, Error> {
    let squares = small_gram(device, &x)?;
    let (_, trace) = miss(&squares);
    if squares.rows() as f64 - trace < MISSING {
        return Ok(x);
    }
    let rng = Rng::new(options.seed, Stream::Init);
    let mut noise = scratch(device, x.shape())?;
    noise.slice_mut::<f32>().fill(0.0);
    Draws { rng: &rng, refresh: 0, param }.add_noise(device, &mut noise, 0);
    for _ in 0..2 {
        // Twice: one pass leaves what rounding left.
        noise = without(device, noise, &x)?;
    }
    let noise = divided(device, &noise, norm(&noise))?;
    let noise = isometry(device, noise, options, iterations)?;
    let mut whole = x;
    let parts = whole.slice_mut::<f32>().iter_mut().zip(noise.slice::<f32>());
    parts.for_each(|(x, noise)| *x += noise);
    Ok(whole)
}

/// `y - X X^T y`, then the same on the other side: nothing of what `x` spans is left.
fn without(device: &Device, y: Tensor, x: &Tensor) -> Result<Tensor, Error> {
    let (at, to) = (Operand::of(x), Operand::of(x).transposed());
    let times = |a: Operand<'_>, b: Operand<'_>, blend: Blend<'_>| -> Result<Tensor, Error> {
        let mut out = scratch(device, [a.shape()[0], b.shape()[1]])?;
        product(device, Compute::F32, a, b, blend, &mut out)?;
        Ok(out)
    };
    let inner = times(to, Operand::of(&y), Blend::SET)?;
    let y = times(at, Operand::of(&inner), Blend::scaled(-1.0).plus(1.0, &y))?;
    let inner = times(Operand::of(&y), to, Blend::SET)?;
    times(Operand::of(&inner), at, Blend::scaled(-1.0).plus(1.0, &y))
}

/// The Gram matrix on the smaller side.
pub(crate) fn small_gram(device: &Device, x: &Tensor) -> Result<Tensor, Error> {
    let side = x.rows().min(x.cols());
    let operand = Operand::of(x);
    let operand = if x.rows() <= x.cols() { operand } else { operand.transposed() };
    let mut squares = scratch(device, [side, side])?;
    gram(device, Compute::F32, operand, Blend::SET, &mut squares)?;
    Ok(squares)
}

/// Miss, extreme singular values and missing directions of weights that should be `scale` times an
/// isometry.
fn judge(device: &Device, w: &Tensor, scale: f64) -> Result<(f64, [f64; 2], usize), Error> {
    let squares = small_gram(device, &divided(device, w, scale)?)?;
    let (dfi, _) = miss(&squares);
    let values = eigenvalues(device, &squares)?;
    let sigma = |value: Option<&f64>| scale * value.map_or(0.0, |x| x.max(0.0).sqrt());
    let missing = values.iter().filter(|x| x.max(0.0).sqrt() < MISSING).count();
    Ok((dfi, [sigma(values.last()), sigma(values.first())], missing))
}

/// `|A - I|^2` over the side of A, and the trace of A.
fn miss(squares: &Tensor) -> (f64, f64) {
    let side = squares.rows();
    let (mut sum, mut trace) = (0.0, 0.0);
    for (at, x) in squares.slice::<f32>().iter().enumerate() {
        let x = f64::from(*x);
        let is_diagonal = at.is_multiple_of(side + 1);
        trace += if is_diagonal { x } else { 0.0 };
        sum += (x - if is_diagonal { 1.0 } else { 0.0 }).powi(2);
    }
    (sum / side.max(1) as f64, trace)
}

fn norm(x: &Tensor) -> f64 {
    x.slice::<f32>().iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn divided(device: &Device, x: &Tensor, by: f64) -> Result<Tensor, Error> {
    let mut out = scratch(device, x.shape())?;
    for (to, x) in out.slice_mut::<f32>().iter_mut().zip(x.slice::<f32>()) {
        *to = (f64::from(*x) / by) as f32;
    }
    Ok(out)
}
