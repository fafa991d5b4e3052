//! Sums, scaling and copies of whole tensors.

#![allow(unsafe_code)]

use smidgen_codec::Tag;

use super::math;
use super::with_format;
use crate::matmul::convert;
use crate::tensor::{Element, Shared};
use crate::{Device, Error, Format, Tensor};

/// Values of one task.
const CHUNK: usize = 16 << 10;

crate::multiversion! {
    fn add_loop<A: Element, B: Element>(to: &mut [A], from: &[B]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = A::from_f32(to.to_f32() + from.to_f32());
        }
    }
}

crate::multiversion! {
    fn scale_loop<A: Element>(values: &mut [A], factor: f32) {
        for v in values {
            *v = A::from_f32(v.to_f32() * factor);
        }
    }
}

crate::multiversion! {
    fn add_bias_loop<A: Element>(rows: &mut [A], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (v, b) in row.iter_mut().zip(bias) {
                *v = A::from_f32(v.to_f32() + b);
            }
        }
    }
}

crate::multiversion! {
    fn dot_loop<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
        math::dot(a, b)
    }
}

/// Runs over a mutable tensor in fixed chunks.
pub(crate) fn chunks<A: Element>(
    device: &Device,
    values: &mut [A],
    body: impl Fn(usize, &mut [A]) + Sync,
) {
    let len = values.len();
    let shared = Shared::new(values);
    device.team().run(len.div_ceil(CHUNK), |task| {
        let from = task * CHUNK;
        // SAFETY: chunks do not overlap.
        body(from, unsafe { shared.slice(from, CHUNK.min(len - from)) });
    });
}

/// `to += from`; formats may differ, shapes may not.
pub(crate) fn add_assign(device: &Device, to: &mut Tensor, from: &Tensor) {
    assert_eq!(to.shape(), from.shape(), "gradients of one value have one shape");
    let level = device.level();
    with_format!(to.format(), A => with_format!(from.format(), B => {
        let from = from.slice::<B>();
        chunks(device, to.slice_mut::<A>(), |at, part| add_loop(level, part, &from[at..at + part.len()]));
    }));
}

/// `values *= factor`.
pub(crate) fn scale(device: &Device, values: &mut Tensor, factor: f32) {
    let level = device.level();
    with_format!(values.format(), A => chunks(device, values.slice_mut::<A>(), |_, part| scale_loop(level, part, factor)));
}

/// Adds a vector to every row's columns from `col` on.
pub(crate) fn add_bias(device: &Device, values: &mut Tensor, col: usize, bias: &[f32]) {
    let (level, cols) = (device.level(), values.cols());
    let rows = values.rows();
    with_format!(values.format(), A => {
        let shared = Shared::new(values.slice_mut::<A>());
        super::by_rows(device.team(), rows, |first, count| {
            for row in first..first + count {
                // SAFETY: every row belongs to one task.
                add_bias_loop(level, unsafe { shared.slice(row * cols + col, bias.len()) }, bias);
            }
        });
    });
}

/// The sum of products; f32 inside a chunk, f64 over chunks, in order.
pub(crate) fn dot(device: &Device, a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape(), "a dot product is over equal shapes");
    let level = device.level();
    with_format!(a.format(), A => with_format!(b.format(), B => {
        a.slice::<A>().chunks(CHUNK).zip(b.slice::<B>().chunks(CHUNK))
            .map(|(a, b)| f64::from(dot_loop(level, a, b)))
            .sum()
    }))
}

/// A copy in another format.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn copy_as(device: &Device, from: &Tensor, format: Format) -> Result<Tensor, Error> {
    let mut to = Tensor::uninit(device.pool(), Tag::Activations, from.shape(), format)?;
    let level = device.level();
    with_format!(to.format(), A => with_format!(from.format(), B => {
        let from = from.slice::<B>();
        chunks(device, to.slice_mut::<A>(), |at, part| convert(level, &from[at..at + part.len()], part));
    }));
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, tame, wild};

    fn sums_and_scales<A: Element>(len: usize) {
        let (to, narrow, wide) =
            (wild::<A>(1, len), wild::<half::bf16>(2, len), wild::<f32>(3, len));
        same_at_every_level("add_loop", |level| {
            let (mut a, mut b) = (to.clone(), to.clone());
            add_loop(level, &mut a, &narrow);
            add_loop(level, &mut b, &wide);
            (bits(&a), bits(&b))
        });
        same_at_every_level("scale_loop", |level| {
            let mut a = to.clone();
            scale_loop(level, &mut a, 0.37);
            bits(&a)
        });
        same_at_every_level("dot_loop", |level| {
            dot_loop(level, &tame::<A>(1, len), &tame::<f32>(2, len)).to_bits()
        });
    }

    fn biases<A: Element>(len: usize) {
        let (rows, bias) = (wild::<A>(1, 3 * len), wild::<f32>(2, len));
        same_at_every_level("add_bias_loop", |level| {
            let mut a = rows.clone();
            add_bias_loop(level, &mut a, &bias);
            bits(&a)
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for len in LENGTHS {
            for_formats!(sums_and_scales(len));
        }
        for len in LENGTHS.into_iter().skip(1) {
            for_formats!(biases(len));
        }
    }

    #[test]
    fn a_dot_product_over_many_chunks_takes_every_value_once() {
        let device = Device::cpu(smidgen_codec::Ledger::new(), 1);
        let len = 2 * CHUNK + 3;
        let ones = vec![1f32; len];
        let ones = Tensor::from_f32(device.pool(), Tag::Workspace, [1, len], &ones).unwrap();
        assert_eq!(dot(&device, &ones, &ones), len as f64);
    }
}
