//! GELU: `y = x Phi(x)` with the exact normal distribution function, and its gradient.
//!
//! `Phi(x) = (1 + erf(x / sqrt 2)) / 2`; `dx = dy (Phi(x) + x phi(x))` with the density `phi`.
//! Source: Hendrycks and Gimpel, Gaussian Error Linear Units (arXiv 1606.08415). The form with erf, not
//! the one with tanh.

use smidgen_codec::Tag;

use super::elementwise::chunks;
use super::math::{erf, exp};
use super::with_format;
use crate::tensor::Element;
use crate::{Device, Error, Format, Tensor};

/// `1 / sqrt(2 pi)`.
const DENSITY: f32 = 0.398_942_3;
/// From here on the density is nothing beside the distribution.
const FAR: f32 = 13.0;

#[inline(always)]
fn normal_share(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

crate::multiversion! {
    fn gelu_loop<A: Element, B: Element>(x: &[A], y: &mut [B]) {
        for (x, y) in x.iter().zip(y) {
            let x = x.to_f32();
            *y = B::from_f32(x * normal_share(x));
        }
    }
}

crate::multiversion! {
    fn gelu_back_loop<A: Element, B: Element>(x: &[A], dy: &[B], dx: &mut [A]) {
        for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
            let x = x.to_f32();
            let near = if x < -FAR { -FAR } else { x };
            let near = if near > FAR { FAR } else { near };
            let slope = normal_share(x) + near * DENSITY * exp(-0.5 * near * near);
            *dx = A::from_f32(dy.to_f32() * slope);
        }
    }
}

/// The values in `format`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn forward(device: &Device, x: &Tensor, format: Format) -> Result<Tensor, Error> {
    let mut y = Tensor::uninit(device.pool(), Tag::Activations, x.shape(), format)?;
    let level = device.level();
    with_format!(x.format(), A => with_format!(format, B => {
        let x = x.slice::<A>();
        chunks(device, y.slice_mut::<B>(), |at, y| gelu_loop(level, &x[at..at + y.len()], y));
    }));
    Ok(y)
}

/// The gradient of `x`, in its format.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn backward(device: &Device, x: &Tensor, dy: &Tensor) -> Result<Tensor, Error> {
    let mut dx = Tensor::uninit(device.pool(), Tag::Activations, x.shape(), x.format())?;
    let level = device.level();
    with_format!(x.format(), A => with_format!(dy.format(), B => {
        let (x, dy) = (x.slice::<A>(), dy.slice::<B>());
        chunks(device, dx.slice_mut::<A>(), |at, dx| {
            let part = at..at + dx.len();
            gelu_back_loop(level, &x[part.clone()], &dy[part], dx);
        });
    }));
    Ok(dx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, wild};

    fn values<A: Element>(len: usize) {
        let (x, dy) = (wild::<A>(1, len), wild::<f32>(2, len));
        same_at_every_level("gelu_loop", |level| {
            let (mut wide, mut narrow) = (vec![0f32; len], vec![half::bf16::ZERO; len]);
            gelu_loop(level, &x, &mut wide);
            gelu_loop(level, &x, &mut narrow);
            (bits(&wide), bits(&narrow))
        });
        same_at_every_level("gelu_back_loop", |level| {
            let mut dx = x.clone();
            gelu_back_loop(level, &x, &dy, &mut dx);
            bits(&dx)
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for len in LENGTHS {
            for_formats!(values(len));
        }
    }

    #[test]
    fn far_values_pass_or_stop() {
        let slope = |x: f32| {
            let mut dx = [0f32];
            gelu_back_loop(crate::Level::Portable, &[x], &[1f32], &mut dx);
            dx[0]
        };
        assert_eq!((slope(1e30), slope(0.0)), (1.0, 0.5));
        assert!(slope(-1e30).abs() < 1e-30, "{}", slope(-1e30));
    }
}
