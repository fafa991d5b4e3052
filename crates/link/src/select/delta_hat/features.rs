//! What the sharer can see of a token that tells how much it will change the receiver.

use nalgebra::{DMatrix, SymmetricEigen};
use serde::{Deserialize, Serialize};

use super::super::Scene;
use super::super::norm::{mean_norm, square_sum};
use crate::{Error, KvShape};

/// Principal directions of the value that are features.
const DIRECTIONS: usize = 8;
/// |K|, |V|, ln of the position from the end, template, likeness to the token before.
const PLAIN: usize = 5;

/// The origin and the directions that a layer's values are seen in; values count all heads as one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Basis {
    /// `[K E]`.
    mean: Vec<f32>,
    /// `[directions, K E]`, the largest spread first.
    directions: Vec<f32>,
}

impl Basis {
    /// The principal directions of a layer's values over all tokens of the scenes.
    ///
    /// # Errors
    /// [`Error::Record`] where a value is not finite.
    pub(super) fn of(scenes: &[Scene<'_>], layer: usize) -> Result<Basis, Error> {
        let row = scenes.first().map_or(0, |scene| scene.sharer.shape.value_row());
        let values = || {
            scenes
                .iter()
                .flat_map(|scene| (0..scene.tokens()).map(|token| scene.sharer.value(layer, token)))
        };
        let count = values().count().max(1) as f64;
        let mut mean = vec![0.0; row];
        for value in values() {
            mean.iter_mut().zip(value).for_each(|(sum, x)| *sum += f64::from(*x) / count);
        }
        let mut spread: DMatrix<f64> = DMatrix::zeros(row, row);
        let mut centred = vec![0.0; row];
        for value in values() {
            for ((out, x), mean) in centred.iter_mut().zip(value).zip(&mean) {
                *out = f64::from(*x) - mean;
            }
            for i in 0..row {
                (0..=i).for_each(|j| spread[(i, j)] += centred[i] * centred[j]);
            }
        }
        if spread.iter().any(|x| !x.is_finite()) {
            // The search for eigenvalues would never end.
            return Err(not_finite(layer));
        }
        spread.fill_upper_triangle_with_lower_triangle();
        let directions = leading(spread);
        Ok(Basis { mean: mean.iter().map(|x| *x as f32).collect(), directions })
    }

    /// Features of one token: [`PLAIN`] and one per direction.
    pub(super) fn count(&self) -> usize {
        PLAIN + self.directions.len() / self.mean.len().max(1)
    }

    /// Whether a basis that was read has the sizes of its shape.
    pub(super) fn check(&self, shape: &KvShape, weights: usize) -> Result<(), Error> {
        let (row, directions) = (shape.value_row(), shape.value_row().min(DIRECTIONS));
        for (what, expected, got) in [
            ("mean of the delta regressor", row, self.mean.len()),
            ("directions of the delta regressor", directions * row, self.directions.len()),
            ("weights of the delta regressor", PLAIN + directions, weights),
        ] {
            if expected != got {
                return Err(Error::Length { what, expected, got });
            }
        }
        Ok(())
    }

    /// Writes the features of a token; `out: [count]`.
    pub(super) fn features(&self, scene: &Scene<'_>, layer: usize, token: usize, out: &mut [f32]) {
        let (kv, shape) = (&scene.sharer, scene.sharer.shape);
        let (key, value) = (kv.key(layer, token), kv.value(layer, token));
        let is_template = scene.template.is_some_and(|marks| marks[token]);
        out[0] = mean_norm(key, shape.key_dim);
        out[1] = mean_norm(value, shape.value_dim);
        out[2] = ((scene.tokens() - token) as f32).ln();
        out[3] = f32::from(is_template);
        out[4] = if token > 0 { cosine(kv.value(layer, token - 1), value) } else { 0.0 };
        let directions = self.directions.chunks_exact(self.mean.len().max(1));
        for (out, direction) in out[PLAIN..].iter_mut().zip(directions) {
            let parts = value.iter().zip(&self.mean).zip(direction);
            *out = parts.fold(0.0, |sum, ((x, mean), d)| sum + (x - mean) * d);
        }
    }
}

/// The sharer's cache holds something that is no number.
pub(super) fn not_finite(layer: usize) -> Error {
    Error::record(format!("cache of the sharer at layer {layer}"), "finite numbers", "others")
}

/// The eigenvectors of the largest eigenvalues, in rows.
fn leading(spread: DMatrix<f64>) -> Vec<f32> {
    let row = spread.nrows();
    let solved = SymmetricEigen::new(spread);
    let mut order: Vec<usize> = (0..row).collect();
    let value = |i: usize| solved.eigenvalues[i];
    order.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
    order.truncate(DIRECTIONS);
    let vector = |i: &usize| solved.eigenvectors.column(*i).iter().map(|x| *x as f32).collect();
    order.iter().flat_map(|i| -> Vec<f32> { vector(i) }).collect()
}

/// The cosine of two rows; 0 where one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let product = a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
    let sizes = (square_sum(a) * square_sum(b)).sqrt();
    if sizes > 0.0 { product / sizes } else { 0.0 }
}
