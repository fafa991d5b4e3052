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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, tame, wild};

    fn losses<A: Element>(logits: &[f32]) {
        same_at_every_level("row_loss", |level| {
            let (mut with, mut without) = (logits.to_vec(), logits.to_vec());
            let mut grad = vec![A::from_f32(0.0); logits.len()];
            let target = logits.len() / 2;
            let loss = row_loss(level, &mut with, target, 0.3, Some(&mut grad[..]));
            let alone = row_loss::<A>(level, &mut without, target, 0.3, None);
            (bits(&[loss, alone]), bits(&grad))
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for len in LENGTHS.into_iter().skip(1) {
            for_formats!(losses(&tame::<f32>(1, len)));
            for_formats!(losses(&wild::<f32>(2, len)));
        }
    }

    #[test]
    fn the_loss_is_the_same_with_and_without_its_gradient() {
        for len in LENGTHS.into_iter().skip(1) {
            let logits = tame::<f32>(1, len);
            let level = crate::Level::detect();
            let mut grad = vec![0f32; len];
            let with = row_loss(level, &mut logits.clone(), 0, 1.0, Some(&mut grad[..]));
            let without = row_loss::<f32>(level, &mut logits.clone(), 0, 1.0, None);
            assert_eq!(with.to_bits(), without.to_bits());
            assert!(grad.iter().sum::<f32>().abs() < 1e-5, "a softmax less one sums to zero");
        }
    }
}
