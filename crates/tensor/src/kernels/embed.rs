//! Rows of a table, and their gradient.

#![allow(unsafe_code)]

use smidgen_codec::Tag;

use super::{by_rows, with_format};
use crate::matmul::convert;
use crate::tensor::{Element, Shared};
use crate::{Device, Error, Format, Tensor};

/// Columns of one task of the gradient: tokens are added in order inside it, whoever runs it.
const COLS: usize = 64;

/// `[tokens, D]` in f32.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn gather(device: &Device, table: &Tensor, tokens: &[u32]) -> Result<Tensor, Error> {
    let width = table.cols();
    let mut out =
        Tensor::uninit(device.pool(), Tag::Activations, [tokens.len(), width], Format::F32)?;
    let to = Shared::new(out.slice_mut::<f32>());
    with_format!(table.format(), A => {
        let table = table.slice::<A>();
        by_rows(device.team(), tokens.len(), |first, count| {
            for row in first..first + count {
                let from = &table[tokens[row] as usize * width..][..width];
                // SAFETY: every row belongs to one task.
                convert(device.level(), from, unsafe { to.slice(row * width, width) });
            }
        });
    });
    Ok(out)
}

crate::multiversion! {
    pub(crate) fn add_row<A: Element>(to: &mut [f32], from: &[A]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to += from.to_f32();
        }
    }
}

/// Adds each row of `grad` to the row of its token in the f32 `table`.
pub(crate) fn scatter_add(device: &Device, table: &mut Tensor, tokens: &[u32], grad: &Tensor) {
    let width = grad.cols();
    let to = Shared::new(table.slice_mut::<f32>());
    with_format!(grad.format(), A => {
        let grad = grad.slice::<A>();
        device.team().run(width.div_ceil(COLS), |task| {
            let (col, count) = (task * COLS, COLS.min(width - task * COLS));
            for (row, token) in tokens.iter().enumerate() {
                // SAFETY: every column belongs to one task.
                let to = unsafe { to.slice(*token as usize * width + col, count) };
                add_row(device.level(), to, &grad[row * width + col..][..count]);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, wild};

    fn rows<A: Element>(len: usize) {
        let (to, from) = (wild::<f32>(1, len), wild::<A>(2, len));
        same_at_every_level("add_row", |level| {
            let mut to = to.clone();
            add_row(level, &mut to, &from);
            bits(&to)
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for len in LENGTHS {
            for_formats!(rows(len));
        }
    }
}
