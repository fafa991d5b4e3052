//! A gated residual: `out = r + g w[head] p[head, :]` with `w = sigmoid(logits)`, and its gradient.
//!
//! Rows hold heads side by side; `g` is given for every row and head. With q = g w:
//! `dp = q dout`, `dw = g (dout . p)`, `dg = w (dout . p)`, the dot product over a head.

#![allow(unsafe_code)]

use smidgen_codec::Tag;

use super::math::{dot, sigmoid};
use super::{by_rows, with_format};
use crate::tensor::{Element, Shared};
use crate::{Device, Error, Format, Tensor};

crate::multiversion! {
    /// Rows of `gates.len() / rows` heads; a gate of exactly 0 leaves the bits of `r`.
    fn gate_rows<A: Element>(r: &[f32], p: &[A], logits: &[A], gates: &[f32], e: usize, out: &mut [f32]) {
        let heads = r.chunks_exact(e).zip(p.chunks_exact(e)).zip(out.chunks_exact_mut(e));
        for (((r, p), out), (logit, gate)) in heads.zip(logits.iter().zip(gates)) {
            let q = *gate * sigmoid(logit.to_f32());
            if q == 0.0 {
                out.copy_from_slice(r);
                continue;
            }
            for ((out, r), p) in out.iter_mut().zip(r).zip(p) {
                *out = r + q * p.to_f32();
            }
        }
    }
}

crate::multiversion! {
    /// `dp`, `dlogits` and the gradient of every gate.
    fn gate_rows_back<A: Element, B: Element>(p: &[A], logits: &[A], gates: &[f32], e: usize, grad: &[B], dp: &mut [A], dlogits: &mut [A], dgates: &mut [f32]) {
        let heads = p.chunks_exact(e).zip(grad.chunks_exact(e)).zip(dp.chunks_exact_mut(e));
        let each = logits.iter().zip(gates).zip(dlogits.iter_mut().zip(dgates));
        for (((p, grad), dp), ((logit, gate), (dlogit, dgate))) in heads.zip(each) {
            let w = sigmoid(logit.to_f32());
            let along = dot(grad, p);
            *dgate = along * w;
            *dlogit = A::from_f32(along * *gate * w * (1.0 - w));
            let q = *gate * w;
            for (dp, grad) in dp.iter_mut().zip(grad) {
                *dp = A::from_f32(q * grad.to_f32());
            }
        }
    }
}

/// What a gated residual reads: `r` `[N, K E]` in f32, `p` `[N, K E]` and `logits` `[N, K]` in one
/// format, `gates` `[N, K]` in f32.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) p: &'a Tensor,
    pub(crate) logits: &'a Tensor,
    pub(crate) gates: &'a Tensor,
}

impl Inputs<'_> {
    fn head_dim(&self) -> usize {
        self.p.cols() / self.gates.cols()
    }
}

/// `r + g w p` in f32.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn forward(device: &Device, r: &Tensor, inputs: Inputs<'_>) -> Result<Tensor, Error> {
    let (rows, cols, heads) = (r.rows(), r.cols(), inputs.gates.cols());
    let (level, e) = (device.level(), inputs.head_dim());
    let mut out = Tensor::uninit(device.pool(), Tag::Activations, r.shape(), Format::F32)?;
    let (r, gates) = (r.slice::<f32>(), inputs.gates.slice::<f32>());
    let to = Shared::new(out.slice_mut::<f32>());
    with_format!(inputs.p.format(), A => {
        let (p, logits) = (inputs.p.slice::<A>(), inputs.logits.slice::<A>());
        by_rows(device.team(), rows, |first, count| {
            let (wide, thin) = (first * cols..(first + count) * cols, first * heads..(first + count) * heads);
            // SAFETY: every row belongs to one task.
            let out = unsafe { to.slice(wide.start, wide.len()) };
            gate_rows(level, &r[wide.clone()], &p[wide], &logits[thin.clone()], &gates[thin], e, out);
        });
    });
    Ok(out)
}

/// Gradients of a gated residual.
pub(crate) struct Grads {
    /// Of `p`, in its format.
    pub(crate) p: Tensor,
    /// Of the logits, in their format.
    pub(crate) logits: Tensor,
    /// Of every gate, in f32.
    pub(crate) gates: Tensor,
}

/// The way back.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn backward(device: &Device, inputs: Inputs<'_>, grad: &Tensor) -> Result<Grads, Error> {
    let like = |x: &Tensor| Tensor::uninit(device.pool(), Tag::Activations, x.shape(), x.format());
    let (mut dp, mut dlogits, mut dgates) =
        (like(inputs.p)?, like(inputs.logits)?, like(inputs.gates)?);
    let (rows, cols, heads) = (grad.rows(), grad.cols(), inputs.gates.cols());
    let (level, e) = (device.level(), inputs.head_dim());
    let gates = inputs.gates.slice::<f32>();
    let gates_to = Shared::new(dgates.slice_mut::<f32>());
    with_format!(inputs.p.format(), A => with_format!(grad.format(), B => {
        let (p, logits, grad) = (inputs.p.slice::<A>(), inputs.logits.slice::<A>(), grad.slice::<B>());
        let (p_to, logits_to) = (Shared::new(dp.slice_mut::<A>()), Shared::new(dlogits.slice_mut::<A>()));
        by_rows(device.team(), rows, |first, count| {
            let (wide, thin) = (first * cols..(first + count) * cols, first * heads..(first + count) * heads);
            // SAFETY: every row belongs to one task.
            let (dp, dlogits, dgates) = unsafe { (p_to.slice(wide.start, wide.len()), logits_to.slice(thin.start, thin.len()), gates_to.slice(thin.start, thin.len())) };
            gate_rows_back(level, &p[wide.clone()], &logits[thin.clone()], &gates[thin], e, &grad[wide], dp, dlogits, dgates);
        });
    }));
    Ok(Grads { p: dp, logits: dlogits, gates: dgates })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, tame};

    fn rows<A: Element>(e: usize) {
        let (r, p, logits) = (tame::<f32>(1, 6 * e), tame::<A>(2, 6 * e), tame::<A>(3, 6));
        let (gates, grad) = ([0.0, 1.0, 0.3, 0.5, 1e-30, 0.9], tame::<f32>(4, 6 * e));
        same_at_every_level("gate_rows", |level| {
            let mut out = vec![0f32; 6 * e];
            gate_rows(level, &r, &p, &logits, &gates, e, &mut out);
            assert_eq!(bits(&out[..e]), bits(&r[..e]), "a closed gate leaves its head");
            bits(&out)
        });
        same_at_every_level("gate_rows_back", |level| {
            let (mut dp, mut dlogits, mut dgates) = (p.clone(), logits.clone(), [0f32; 6]);
            gate_rows_back(
                level,
                &p,
                &logits,
                &gates,
                e,
                &grad,
                &mut dp,
                &mut dlogits,
                &mut dgates,
            );
            (bits(&dp), bits(&dlogits), bits(&dgates))
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for e in LENGTHS.into_iter().skip(1) {
            for_formats!(rows(e));
        }
    }
}
