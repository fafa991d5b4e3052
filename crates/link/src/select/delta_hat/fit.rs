//! Fitting the regressors: ridge regression in f64, in closed form, one layer after the other.
//!
//! With features standardised to z and y = ln delta centred, w = (Z'Z / n + ridge I)^-1 Z'y / n.

use nalgebra::{DMatrix, DVector};

use super::super::{Oracle, Scene, Selector};
use super::features::Basis;
use super::{DeltaHat, LayerFit};
use crate::Error;

/// A change below this share of the layer's mean is taken as this large: the logarithm of nothing
/// would outweigh everything that matters.
const FLOOR: f64 = 1e-4;

impl DeltaHat {
    /// Fits one regressor for each of `layers` to the changes that the scenes' receivers show.
    ///
    /// # Errors
    /// [`Error::Value`] without scenes or with a ridge that is not above zero; those of
    /// [`Oracle`], so [`Error::Needs`] where a scene lacks the receiver's side; [`Error::Length`]
    /// where the scenes have different sharers.
    pub fn fit(
        fuser: &str,
        scenes: &[Scene<'_>],
        layers: &[usize],
        ridge: f32,
    ) -> Result<DeltaHat, Error> {
        let Some(first) = scenes.first() else {
            return Err(Error::value("delta_hat.examples", "at least 1", 0));
        };
        if !(ridge > 0.0 && ridge.is_finite()) {
            return Err(Error::value("delta_hat.ridge", "a number above 0", ridge));
        }
        let shape = first.sharer.shape;
        if let Some(other) = scenes.iter().find(|scene| scene.sharer.shape != shape) {
            let (expected, got) = (shape.layers, other.sharer.shape.layers);
            return Err(Error::Length { what: "layers of the scenes' sharer", expected, got });
        }
        let layers = layers.iter().map(|layer| fit_layer(scenes, *layer, f64::from(ridge)));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(DeltaHat { fuser: fuser.into(), shape, examples: scenes.len(), ridge, layers })
    }
}

fn fit_layer(scenes: &[Scene<'_>], layer: usize, ridge: f64) -> Result<LayerFit, Error> {
    let logs = logs(scenes, layer)?;
    let basis = Basis::of(scenes, layer)?;
    let (n, width) = (logs.len(), basis.count());
    let mut rows = Vec::with_capacity(n * width);
    let mut row = vec![0.0; width];
    for scene in scenes {
        for token in 0..scene.tokens() {
            basis.features(scene, layer, token, &mut row);
            rows.extend(row.iter().map(|x| f64::from(*x)));
        }
    }
    let mut z = DMatrix::from_row_slice(n, width, &rows);
    let moments: Vec<(f64, f64)> = (0..width).map(|i| standardise(&mut z.column_mut(i))).collect();
    let mean = logs.iter().sum::<f64>() / n.max(1) as f64;
    let y = DVector::from_iterator(n, logs.iter().map(|log| log - mean));
    let weights = solve(&z, &y, ridge).ok_or_else(|| super::features::not_finite(layer))?;
    // Fold the standardisation in: w z = (w / scale) x - w mean / scale.
    let folded: Vec<f64> = weights.iter().zip(&moments).map(|(w, (_, scale))| w / scale).collect();
    let shift = folded.iter().zip(&moments).fold(0.0, |sum, (w, (mean, _))| sum + w * mean);
    let weights = folded.iter().map(|w| *w as f32).collect();
    Ok(LayerFit { layer, basis, weights, intercept: (mean - shift) as f32 })
}

/// ln of each token's change, from below bounded by a share of the mean change.
fn logs(scenes: &[Scene<'_>], layer: usize) -> Result<Vec<f64>, Error> {
    let mut deltas = Vec::new();
    for scene in scenes {
        let mut scores = vec![0.0; scene.tokens()];
        Oracle.score(scene, layer, &mut scores)?;
        deltas.extend(scores.iter().map(|x| f64::from(*x)));
    }
    let mean = deltas.iter().sum::<f64>() / deltas.len().max(1) as f64;
    // A layer that never changes anything has one logarithm for all.
    let floor = if mean > 0.0 { FLOOR * mean } else { 1.0 };
    Ok(deltas.iter().map(|delta| delta.max(floor).ln()).collect())
}

/// Centres a column and gives it spread 1; returns its mean and its scale, 1 for a constant one.
fn standardise(column: &mut nalgebra::DVectorViewMut<'_, f64>) -> (f64, f64) {
    let mean = column.mean();
    let spread = column.variance().sqrt();
    // What rounding leaves of a constant feature must not be blown up.
    let scale = if spread > 1e-9 * (1.0 + mean.abs()) { spread } else { 1.0 };
    column.iter_mut().for_each(|x| *x = (*x - mean) / scale);
    (mean, scale)
}

/// None where a feature is not finite: a sum of squares and a ridge above 0 is positive otherwise.
fn solve(z: &DMatrix<f64>, y: &DVector<f64>, ridge: f64) -> Option<DVector<f64>> {
    let n = z.nrows().max(1) as f64;
    let gram = z.tr_mul(z) / n + DMatrix::identity(z.ncols(), z.ncols()) * ridge;
    Some(gram.cholesky()?.solve(&(z.tr_mul(y) / n)))
}
