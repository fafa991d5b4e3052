//! Blocks of fixed size in a layout of others (GGUF), a new one at each row, the last padded.

use std::fmt;

use crate::{Codec, Layout, Level, Rounding, multiversion};

/// The code of a format whose blocks have no parameter.
pub(crate) trait FixedCode: Copy + fmt::Debug + Send + Sync + 'static {
    /// The name in configs.
    const NAME: &'static str;
    /// The number in state files.
    const ID: u16;
    /// Values per block.
    const VALUES: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// The scale of the whole tensor, an f32, where the format has one.
    const TENSOR_SCALE: Option<fn(&[f32]) -> f32> = None;

    /// Codes one block; a short one is padded. Writes every byte. `tensor` is the scale of the
    /// tensor, 1 without one.
    fn encode_block(tensor: f32, values: &[f32], block: &mut [u8], rounding: Rounding);

    /// Decodes as many values as are asked for of one block.
    fn decode_block(tensor: f32, block: &[u8], values: &mut [f32]);
}

/// A format whose blocks are coded by `C`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed<C>(pub(crate) C);

impl<C: FixedCode> Codec for Fixed<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn id(&self) -> u16 {
        C::ID
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        let header = if C::TENSOR_SCALE.is_some() { 4 } else { 0 };
        Layout::blocks(shape, C::VALUES, C::BYTES).row_aligned().with_header(header)
    }

    fn header(&self, src: &[f32]) -> Vec<u8> {
        C::TENSOR_SCALE.map_or_else(Vec::new, |scale| scale(src).to_le_bytes().to_vec())
    }

    fn encode(&self, src: &[f32], header: &[u8], dst: &mut [u8], rounding: Rounding) {
        encode_blocks::<C>(Level::detect(), tensor_scale(header), src, dst, rounding);
    }

    fn decode(&self, src: &[u8], header: &[u8], dst: &mut [f32]) {
        decode_blocks::<C>(Level::detect(), tensor_scale(header), src, dst);
    }
}

fn tensor_scale(header: &[u8]) -> f32 {
    header.try_into().map_or(1.0, f32::from_le_bytes)
}

multiversion! {
    pub(super) fn encode_blocks<C: FixedCode>(
        tensor: f32,
        src: &[f32],
        dst: &mut [u8],
        rounding: Rounding,
    ) {
        let blocks = src.chunks(C::VALUES).zip(dst.chunks_exact_mut(C::BYTES));
        for (i, (values, block)) in blocks.enumerate() {
            C::encode_block(tensor, values, block, rounding.advance(i * C::VALUES));
        }
    }
}

multiversion! {
    pub(super) fn decode_blocks<C: FixedCode>(tensor: f32, src: &[u8], dst: &mut [f32]) {
        for (block, values) in src.chunks_exact(C::BYTES).zip(dst.chunks_mut(C::VALUES)) {
            C::decode_block(tensor, block, values);
        }
    }
}

/// The values of a block, with zeros for those it lacks.
#[inline(always)]
pub(crate) fn padded<const N: usize>(values: &[f32]) -> [f32; N] {
    let mut block = [0.0; N];
    block[..values.len()].copy_from_slice(values);
    block
}
