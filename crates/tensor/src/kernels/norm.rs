//! RMS normalisation of groups of columns, and its gradient.
//!
//! `y = x / sqrt(mean(x^2) + eps) * w` over each group of `width` columns; a whole row for a block's norm,
//! one head for a query or key norm. Source: Zhang and Sennrich, arXiv 1910.07467.
//! `dx = r (dy w - x r^2 mean(dy w x))`, `dw = sum dy x r` with `r = 1 / sqrt(mean(x^2) + eps)`.

#![allow(unsafe_code)]

use std::ops::Range;

use smidgen_codec::Tag;

use super::math::{dot, dot3};
use super::{ROWS, by_rows, with_format};
use crate::error::shape;
use crate::tensor::{Element, Shared};
use crate::{Device, Error, Format, Param, Tensor};

crate::multiversion! {
    /// Rows of `cols` values; groups of `weight.len()` columns inside `range` are normalised, the rest is copied.
    pub(crate) fn norm_rows<A: Element, B: Element>(x: &[A], weight: &[f32], eps: f32, cols: usize, range: Range<usize>, y: &mut [B]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            for i in (0..range.start).chain(range.end..cols) {
                y[i] = B::from_f32(x[i].to_f32());
            }
            for at in range.clone().step_by(width) {
                let (x, y) = (&x[at..at + width], &mut y[at..at + width]);
                let r = inverse_rms(x, eps);
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = B::from_f32(x.to_f32() * r * w);
                }
            }
        }
    }
}

#[inline(always)]
fn inverse_rms<A: Element>(x: &[A], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

crate::multiversion! {
    /// `dx (+)= ..` and `dw += ..` for the same rows; `dw` holds `weight.len()` sums.
    fn norm_rows_back<A: Element, B: Element, C: Element>(x: &[A], weight: &[f32], eps: f32, cols: usize, range: Range<usize>, dy: &[B], dx: &mut [C], add: bool, dw: &mut [f32]) {
        let width = weight.len();
        let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
        for ((x, dy), dx) in rows {
            for i in (0..range.start).chain(range.end..cols) {
                let old = if add { dx[i].to_f32() } else { 0.0 };
                dx[i] = C::from_f32(old + dy[i].to_f32());
            }
            for at in range.clone().step_by(width) {
                let (x, dy, dx) = (&x[at..at + width], &dy[at..at + width], &mut dx[at..at + width]);
                let r = inverse_rms(x, eps);
                let dot = dot3(dy, x, weight);
                let pull = dot * r * r / width as f32;
                let values = x.iter().zip(dy).zip(weight).zip(dx.iter_mut().zip(dw.iter_mut()));
                for (((x, dy), weight), (dx, dw)) in values {
                    let (x, dy) = (x.to_f32(), dy.to_f32());
                    let old = if add { dx.to_f32() } else { 0.0 };
                    *dx = C::from_f32(old + r * (dy * weight - x * pull));
                    *dw += dy * x * r;
                }
            }
        }
    }
}

/// Where a norm applies.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    pub(crate) range: Range<usize>,
    pub(crate) eps: f32,
}

/// Whether a weight covers whole groups of columns inside rows of `cols`.
///
/// # Errors
/// [`Error::Shape`] for a weight that is no row, [`Error::Value`] for a range that is not whole groups.
pub(crate) fn check(weight: &Param, range: &Range<usize>, cols: usize) -> Result<(), Error> {
    let [rows, width] = weight.value.shape();
    if rows != 1 || width == 0 {
        return Err(shape(weight.name.clone(), &[1, width.max(1)], &[rows, width]));
    }
    if range.start > range.end || range.end > cols || !range.len().is_multiple_of(width) {
        return Err(Error::Value {
            what: format!("norm of `{}`: columns", weight.name),
            expected: format!("whole groups of {width} below {cols}"),
            got: format!("{range:?}"),
        });
    }
    Ok(())
}

/// The normalised rows in `format`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn forward(
    device: &Device,
    x: &Tensor,
    weight: &[f32],
    groups: &Groups,
    format: Format,
) -> Result<Tensor, Error> {
    let mut y = Tensor::uninit(device.pool(), Tag::Activations, x.shape(), format)?;
    let (rows, cols, level) = (x.rows(), x.cols(), device.level());
    with_format!(x.format(), A => with_format!(format, B => {
        let x = x.slice::<A>();
        let y = Shared::new(y.slice_mut::<B>());
        by_rows(device.team(), rows, |first, count| {
            // SAFETY: every row belongs to one task.
            let y = unsafe { y.slice(first * cols, count * cols) };
            norm_rows(level, &x[first * cols..][..count * cols], weight, groups.eps, cols, groups.range.clone(), y);
        });
    }));
    Ok(y)
}

/// Adds to `dx` (or sets it) and returns the gradient of the weight, summed over chunks in order.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn backward(
    device: &Device,
    x: &Tensor,
    weight: &[f32],
    groups: &Groups,
    dy: &Tensor,
    dx: &mut Tensor,
    add: bool,
) -> Result<Vec<f32>, Error> {
    let (rows, cols, level, width) = (x.rows(), x.cols(), device.level(), weight.len());
    let tasks = rows.div_ceil(ROWS);
    let mut parts = Tensor::zeros(device.pool(), Tag::Workspace, [tasks, width], Format::F32)?;
    let shared = Shared::new(parts.slice_mut::<f32>());
    with_format!(x.format(), A => with_format!(dy.format(), B => with_format!(dx.format(), C => {
        let (x, dy) = (x.slice::<A>(), dy.slice::<B>());
        let dx = Shared::new(dx.slice_mut::<C>());
        by_rows(device.team(), rows, |first, count| {
            let part = first * cols..(first + count) * cols;
            // SAFETY: every row and every part of the sums belongs to one task.
            let (dx, dw) = unsafe { (dx.slice(part.start, part.len()), shared.slice(first / ROWS * width, width)) };
            norm_rows_back(level, &x[part.clone()], weight, groups.eps, cols, groups.range.clone(), &dy[part], dx, add, dw);
        });
    })));
    let mut dw = vec![0f32; width];
    for part in parts.slice::<f32>().chunks_exact(width) {
        for (sum, x) in dw.iter_mut().zip(part) {
            *sum += x;
        }
    }
    Ok(dw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, tame};

    /// Two groups in the middle of three rows, a column before and after.
    fn rows<A: Element>(width: usize) {
        let (cols, range) = (2 * width + 2, 1..2 * width + 1);
        let (x, weight) = (tame::<A>(1, 3 * cols), tame::<f32>(2, width));
        let (wide, narrow) = (tame::<f32>(3, 3 * cols), tame::<half::bf16>(4, 3 * cols));
        same_at_every_level("norm_rows", |level| {
            let (mut a, mut b) = (wide.clone(), narrow.clone());
            norm_rows(level, &x, &weight, 1e-5, cols, range.clone(), &mut a);
            norm_rows(level, &x, &weight, 1e-5, cols, range.clone(), &mut b);
            (bits(&a), bits(&b))
        });
        for add in [false, true] {
            same_at_every_level("norm_rows_back", |level| {
                let (mut a, mut b, mut dw) = (wide.clone(), x.clone(), vec![0f32; width]);
                let range = range.clone();
                norm_rows_back(
                    level,
                    &x,
                    &weight,
                    1e-5,
                    cols,
                    range.clone(),
                    &wide,
                    &mut b,
                    add,
                    &mut dw,
                );
                norm_rows_back(
                    level, &x, &weight, 1e-5, cols, range, &narrow, &mut a, add, &mut dw,
                );
                (bits(&a), bits(&b), bits(&dw))
            });
        }
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for width in LENGTHS.into_iter().skip(1) {
            for_formats!(rows(width));
        }
    }
}
