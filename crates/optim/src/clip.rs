//! Gradient norms and scaling.
//!
//! Sums are in f64, over chunks and lanes of fixed size joined in a fixed order: the norm has the
//! same bits for any number of threads and any vector width.

use std::sync::OnceLock;

use smidgen_tensor::{Device, Level, Team, multiversion};

use crate::Values;

/// Values per task.
pub(crate) const CHUNK: usize = 1 << 16;
const LANES: usize = 32;

/// The root of the sum of squares of all values; not finite exactly when one of them is not.
pub fn global_norm(team: &Team, grads: &[&[f32]]) -> f64 {
    let chunks: Vec<&[f32]> = grads.iter().flat_map(|grad| grad.chunks(CHUNK)).collect();
    let sums: Vec<OnceLock<f64>> = chunks.iter().map(|_| OnceLock::new()).collect();
    let level = Level::detect();
    team.run(chunks.len(), |task| {
        let _ = sums[task].set(sum_of_squares(level, chunks[task]));
    });
    let sum = |sum: &OnceLock<f64>| *sum.get().expect("the team runs every task");
    sums.iter().map(sum).sum::<f64>().sqrt()
}

/// The norm of weights in any form.
pub(crate) fn norm_of_values(device: &Device, values: &Values<'_>) -> f64 {
    let tasks = values.len().div_ceil(CHUNK);
    let sums: Vec<OnceLock<f64>> = (0..tasks).map(|_| OnceLock::new()).collect();
    device.team().run(tasks, |task| {
        let first = task * CHUNK;
        let mut wide = vec![0.0; CHUNK.min(values.len() - first)];
        values.load(first, &mut wide);
        let _ = sums[task].set(sum_of_squares(device.level(), &wide));
    });
    let sum = |sum: &OnceLock<f64>| *sum.get().expect("the team runs every task");
    sums.iter().map(sum).sum::<f64>().sqrt()
}

/// Whether every value is finite.
pub fn all_finite(team: &Team, grads: &[&[f32]]) -> bool {
    // Squares of f32 cannot overflow an f64, so the norm is finite when the values are.
    global_norm(team, grads).is_finite()
}

/// What gradients of this norm are multiplied by, so that it is at most `max_norm`.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Multiplies each value by `factor`. A rule does it on the way; see
/// [`StepCx::grad_scale`](crate::StepCx::grad_scale).
pub fn scale(team: &Team, grad: &mut [f32], factor: f32) {
    let chunks: Vec<_> = grad.chunks_mut(CHUNK).map(std::sync::Mutex::new).collect();
    let level = Level::detect();
    team.run(chunks.len(), |task| {
        let mut chunk = chunks[task].lock().expect("each chunk has one task");
        multiply(level, &mut chunk, factor);
    });
}

multiversion! {
    fn multiply(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

multiversion! {
    pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
        let (rows, rest) = values.as_chunks::<LANES>();
        let mut lanes = [0.0f64; LANES];
        for row in rows {
            for (lane, value) in lanes.iter_mut().zip(row) {
                *lane += f64::from(*value) * f64::from(*value);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*value) * f64::from(*value);
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1013) as f32 - 500.0) * 1e-3).collect()
    }

    #[test]
    fn norm_is_the_same_for_any_team_and_level() {
        let (a, b) = (values(3 * CHUNK + 17), values(5));
        let norms = [1, 2, 4].map(|n| global_norm(&Team::new(n), &[&a, &[], &b]).to_bits());
        assert!(norms.iter().all(|norm| *norm == norms[0]));
        let expected: f64 = a.iter().chain(&b).map(|x| f64::from(*x).powi(2)).sum();
        assert!((f64::from_bits(norms[0]) / expected.sqrt() - 1.0).abs() < 1e-12);
        let sums: Vec<u64> = Level::available().map(|l| sum_of_squares(l, &a).to_bits()).collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]));
    }

    #[test]
    fn large_values_do_not_overflow_and_bad_ones_are_found() {
        let team = Team::new(2);
        let mut grad = vec![f32::MAX; 1000];
        assert!(all_finite(&team, &[&grad]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            grad[999] = bad;
            assert!(!all_finite(&team, &[&[1.0], &grad]));
        }
        assert_eq!(global_norm(&team, &[]), 0.0);
    }

    #[test]
    fn clipping_leaves_small_norms_alone() {
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
        let team = Team::new(2);
        let mut grad = values(CHUNK + 3);
        let factor = clip_scale(global_norm(&team, &[&grad]), 1.0);
        scale(&team, &mut grad, factor as f32);
        assert!((global_norm(&team, &[&grad]) - 1.0).abs() < 1e-5);
    }
}
