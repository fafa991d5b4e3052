//! Dropout of what is added to a stream: `out = x + keep y / (1 - rate)`, and its gradient.
//!
//! Whether value i is kept is a function of (key, i), so a block that is computed again drops the same
//! values. Source: Srivastava et al., Dropout (JMLR 2014), scaled in training.

use smidgen_codec::Tag;
use smidgen_codec::rng::Draws;

use super::elementwise::chunks;
use super::with_format;
use crate::tensor::Element;
use crate::{Device, Error, Format, Tensor};

/// Which values are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of the values that become zero; from 0 to below 1.
    pub rate: f32,
    /// Key of the draws.
    pub key: u64,
}

impl Dropout {
    /// A value is kept where its 32 bits are not below this.
    fn threshold(&self) -> u32 {
        (f64::from(self.rate) * (1u64 << 32) as f64) as u32
    }

    fn scale(&self) -> f32 {
        1.0 / (1.0 - self.rate)
    }
}

crate::multiversion! {
    fn add_kept<A: Element, B: Element>(x: &[A], y: &[B], draws: Draws, threshold: u32, scale: f32, out: &mut [f32]) {
        for (i, ((x, y), out)) in x.iter().zip(y).zip(out).enumerate() {
            let factor = if draws.at(i as u32) >= threshold { scale } else { 0.0 };
            *out = x.to_f32() + y.to_f32() * factor;
        }
    }
}

crate::multiversion! {
    fn kept<A: Element, B: Element>(grad: &[A], draws: Draws, threshold: u32, scale: f32, dy: &mut [B]) {
        for (i, (grad, dy)) in grad.iter().zip(dy).enumerate() {
            let factor = if draws.at(i as u32) >= threshold { scale } else { 0.0 };
            *dy = B::from_f32(grad.to_f32() * factor);
        }
    }
}

/// `x + keep y / (1 - rate)` in f32.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn forward(
    device: &Device,
    x: &Tensor,
    y: &Tensor,
    dropout: &Dropout,
) -> Result<Tensor, Error> {
    let mut out = Tensor::uninit(device.pool(), Tag::Activations, x.shape(), Format::F32)?;
    let (level, threshold, scale) = (device.level(), dropout.threshold(), dropout.scale());
    with_format!(x.format(), A => with_format!(y.format(), B => {
        let (x, y) = (x.slice::<A>(), y.slice::<B>());
        chunks(device, out.slice_mut::<f32>(), |at, out| {
            let (part, draws) = (at..at + out.len(), Draws::new(dropout.key, at as u64));
            add_kept(level, &x[part.clone()], &y[part], draws, threshold, scale, out);
        });
    }));
    Ok(out)
}

/// The gradient of `y`, in `format`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn backward(
    device: &Device,
    grad: &Tensor,
    dropout: &Dropout,
    format: Format,
) -> Result<Tensor, Error> {
    let mut dy = Tensor::uninit(device.pool(), Tag::Activations, grad.shape(), format)?;
    let (level, threshold, scale) = (device.level(), dropout.threshold(), dropout.scale());
    with_format!(grad.format(), A => with_format!(format, B => {
        let grad = grad.slice::<A>();
        chunks(device, dy.slice_mut::<B>(), |at, dy| {
            let draws = Draws::new(dropout.key, at as u64);
            kept(level, &grad[at..at + dy.len()], draws, threshold, scale, dy);
        });
    }));
    Ok(dy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, wild};

    fn values<A: Element>(len: usize) {
        let (x, y, grad) = (wild::<A>(1, len), wild::<f32>(2, len), wild::<f32>(3, len));
        let draws = Draws::new(7, 5);
        same_at_every_level("add_kept", |level| {
            let mut out = vec![0f32; len];
            add_kept(level, &x, &y, draws, 1 << 30, 1.25, &mut out);
            bits(&out)
        });
        same_at_every_level("kept", |level| {
            let (mut wide, mut narrow) = (vec![0f32; len], x.clone());
            kept(level, &grad, draws, 1 << 30, 1.25, &mut wide);
            kept(level, &x, draws, 1 << 30, 1.25, &mut narrow);
            (bits(&wide), bits(&narrow))
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for len in LENGTHS {
            for_formats!(values(len));
        }
    }

    #[test]
    fn the_share_that_is_dropped_is_the_rate() {
        let device = Device::cpu(smidgen_codec::Ledger::new(), 2);
        let ones = vec![1f32; 200_000];
        let ones = Tensor::from_f32(device.pool(), Tag::Workspace, [20, 10_000], &ones).unwrap();
        for rate in [0.0, 0.1, 0.5] {
            let dropout = Dropout { rate, key: 3 };
            let kept = backward(&device, &ones, &dropout, Format::F32).unwrap().to_vec();
            let dropped = kept.iter().filter(|v| **v == 0.0).count() as f64 / 200_000.0;
            assert!((dropped - f64::from(rate)).abs() < 0.005, "{rate}: {dropped}");
            assert!(kept.iter().all(|v| *v == 0.0 || *v == 1.0 / (1.0 - rate)));
            // The mean stays, and the way forward drops the same values.
            let added = forward(&device, &ones, &ones, &dropout).unwrap().to_vec();
            assert!(added.iter().zip(&kept).all(|(sum, kept)| *sum == 1.0 + kept));
        }
    }
}
