//! Softmax cross-entropy of a chunk of logits, and its gradient in the same pass.

#![allow(unsafe_code)]

use super::math::{LANES, add_lanes, exp, lane_max};
use super::with_format;
use crate::tensor::{Element, Shared};
use crate::{Device, Tensor};

crate::multiversion! {
    /// Negative log-likelihood of `target`; with `grad`, also `(softmax - onehot) * scale`.
    fn row_loss<A: Element>(logits: &mut [f32], target: usize, scale: f32, grad: Option<&mut [A]>) -> f32 {
        let most = lane_max(logits);
        let wanted = logits[target] - most;
        let mut sums = [0f32; LANES];
        let whole = logits.len() / LANES * LANES;
        for chunk in logits[..whole].chunks_exact_mut(LANES) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp(*x - most);
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(&mut logits[whole..]) {
            *x = exp(*x - most);
            *sum += *x;
        }
        let sum = add_lanes(sums);
        if let Some(grad) = grad {
            let factor = scale / sum;
            for (g, x) in grad.iter_mut().zip(logits.iter()) {
                *g = A::from_f32(x * factor);
            }
            grad[target] = A::from_f32((logits[target] / sum - 1.0) * scale);
        }
        sum.ln() - wanted
    }
}

/// Losses of the rows of `logits` (overwritten), times their weights, into `losses`; with `grad`
/// (rows `stride` values apart), the gradient of `scale * sum(weight * loss)` as well.
pub(crate) fn cross_entropy(
    device: &Device,
    logits: &mut Tensor,
    targets: &[u32],
    weights: &[f32],
    scale: f32,
    losses: &mut [f64],
    grad: Option<&mut Tensor>,
) {
    let (rows, cols, level) = (logits.rows(), logits.cols(), device.level());
    let logits = Shared::new(logits.slice_mut::<f32>());
    let losses = Shared::new(losses);
    let format = grad.as_ref().map_or(crate::Format::F32, |g| g.format());
    with_format!(format, A => {
        let grad = grad.map(|g| (g.cols(), Shared::new(g.slice_mut::<A>())));
        device.team().run(rows.div_ceil(8), |task| {
            for row in task * 8..(task * 8 + 8).min(rows) {
                // SAFETY: every row belongs to one task.
                unsafe {
                    let out = losses.slice(row, 1);
                    let grad = grad.as_ref().map(|(stride, g)| g.slice(row * stride, *stride));
                    if weights[row] == 0.0 {
                        out[0] = 0.0;
                        if let Some(grad) = grad {
                            grad.fill(A::from_f32(0.0));
                        }
                        continue;
                    }
                    let grad = grad.map(|g| {
                        let (values, padding) = g.split_at_mut(cols);
                        padding.fill(A::from_f32(0.0));
                        values
                    });
                    let loss = row_loss(level, logits.slice(row * cols, cols), targets[row] as usize, weights[row] * scale, grad);
                    out[0] = f64::from(weights[row]) * f64::from(loss);
                }
            }
        });
    });
}
