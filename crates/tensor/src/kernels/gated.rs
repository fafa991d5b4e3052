//! SwiGLU: `a = silu(g) u` for rows `[g | u]`, and its gradient.
//!
//! Source: Shazeer, GLU Variants Improve Transformer (arXiv 2002.05202).

#![allow(unsafe_code)]

use smidgen_codec::Tag;

use super::math::sigmoid;
use super::{by_rows, with_format};
use crate::error::shape;
use crate::tensor::{Element, Shared};
use crate::{Device, Error, Format, Tensor};

crate::multiversion! {
    fn swiglu_rows<A: Element, B: Element>(gate_up: &[A], width: usize, out: &mut [B]) {
        for (gu, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (g, u) = gu.split_at(width);
            for ((out, g), u) in out.iter_mut().zip(g).zip(u) {
                let g = g.to_f32();
                *out = B::from_f32(g * sigmoid(g) * u.to_f32());
            }
        }
    }
}

crate::multiversion! {
    fn swiglu_rows_back<A: Element, B: Element>(gate_up: &[A], width: usize, grad: &[B], out: &mut [A]) {
        let rows = gate_up.chunks_exact(2 * width).zip(grad.chunks_exact(width)).zip(out.chunks_exact_mut(2 * width));
        for ((gu, grad), out) in rows {
            let (g, u) = gu.split_at(width);
            let (dg, du) = out.split_at_mut(width);
            for i in 0..width {
                let (g, u, d) = (g[i].to_f32(), u[i].to_f32(), grad[i].to_f32());
                let s = sigmoid(g);
                dg[i] = A::from_f32(d * u * (s + g * s * (1.0 - s)));
                du[i] = A::from_f32(d * g * s);
            }
        }
    }
}

/// Whether rows are made of two halves.
///
/// # Errors
/// [`Error::Shape`] for no columns or an odd number of them.
pub(crate) fn check([rows, cols]: [usize; 2]) -> Result<(), Error> {
    if cols == 0 || !cols.is_multiple_of(2) {
        return Err(shape("swiglu", &[rows, (cols + 1).max(2)], &[rows, cols]));
    }
    Ok(())
}

/// `[rows, 2 F] -> [rows, F]` in `format`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn forward(device: &Device, gate_up: &Tensor, format: Format) -> Result<Tensor, Error> {
    let (rows, width, level) = (gate_up.rows(), gate_up.cols() / 2, device.level());
    let mut out = Tensor::uninit(device.pool(), Tag::Activations, [rows, width], format)?;
    with_format!(gate_up.format(), A => with_format!(format, B => {
        let gate_up = gate_up.slice::<A>();
        let out = Shared::new(out.slice_mut::<B>());
        by_rows(device.team(), rows, |first, count| {
            // SAFETY: every row belongs to one task.
            let out = unsafe { out.slice(first * width, count * width) };
            swiglu_rows(level, &gate_up[first * 2 * width..][..count * 2 * width], width, out);
        });
    }));
    Ok(out)
}

/// The gradient of `gate_up`, in its format.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn backward(device: &Device, gate_up: &Tensor, grad: &Tensor) -> Result<Tensor, Error> {
    let (rows, width, level) = (gate_up.rows(), gate_up.cols() / 2, device.level());
    let mut out =
        Tensor::uninit(device.pool(), Tag::Activations, gate_up.shape(), gate_up.format())?;
    with_format!(gate_up.format(), A => with_format!(grad.format(), B => {
        let (gate_up, grad) = (gate_up.slice::<A>(), grad.slice::<B>());
        let out = Shared::new(out.slice_mut::<A>());
        by_rows(device.team(), rows, |first, count| {
            let wide = first * 2 * width..(first + count) * 2 * width;
            // SAFETY: every row belongs to one task.
            let out = unsafe { out.slice(wide.start, wide.len()) };
            swiglu_rows_back(level, &gate_up[wide], width, &grad[first * width..][..count * width], out);
        });
    }));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, wild};

    fn rows<A: Element>(width: usize) {
        let (gate_up, grad) = (wild::<A>(1, 4 * width), wild::<f32>(2, 2 * width));
        same_at_every_level("swiglu_rows", |level| {
            let (mut wide, mut narrow) = (vec![0f32; 2 * width], vec![half::bf16::ZERO; 2 * width]);
            swiglu_rows(level, &gate_up, width, &mut wide);
            swiglu_rows(level, &gate_up, width, &mut narrow);
            (bits(&wide), bits(&narrow))
        });
        same_at_every_level("swiglu_rows_back", |level| {
            let mut out = gate_up.clone();
            swiglu_rows_back(level, &gate_up, width, &grad, &mut out);
            bits(&out)
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for width in LENGTHS.into_iter().skip(1) {
            for_formats!(rows(width));
        }
    }
}
