//! `nf4-dq`: NF4 in blocks of 64 whose absmaxes are coded in 8 bits: double quantisation.
//!
//! mu = the mean absmax of the tensor, an f32, the header; the absmaxes less mu are coded as in
//! `int8-dynamic`, 256 under one f32; value = level * (mu + coded absmax).
//! Group of 256 blocks, 16384 values: the f32, 256 bytes, then the codes as in `nf4`: 4.127 bits per
//! value, and 4 bytes per tensor.
//! Nearest codes are made with the absmax before its own coding, as bitsandbytes does; stochastic
//! ones with the coded absmax, and are unbiased where that is not the smaller (else the largest
//! values of a block are cut off). A value that is no number makes its whole group NaN.
//! Source: Dettmers et al., QLoRA (arXiv 2305.14314); codes are those of bitsandbytes.

use super::scaled::{Scale, largest, write_scale};
use crate::element::codebook::{decode_dynamic, decode_nf4, encode_dynamic, encode_nf4};
use crate::{Codec, Layout, Level, Rounding, multiversion};

/// Values under one absmax.
const BLOCK: usize = 64;
/// Absmaxes under one scale.
const BLOCKS: usize = 256;
const GROUP: usize = BLOCK * BLOCKS;

/// NF4 with double quantisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nf4Dq;

impl Codec for Nf4Dq {
    fn name(&self) -> &'static str {
        "nf4-dq"
    }

    fn id(&self) -> u16 {
        11
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        Layout::blocks(shape, GROUP, group_bytes(GROUP)).with_tail(group_bytes).with_header(4)
    }

    fn header(&self, src: &[f32]) -> Vec<u8> {
        let finite = src.chunks(BLOCK).map(largest).filter(|absmax| absmax.is_finite());
        let (count, sum) =
            finite.fold((0u64, 0.0), |(count, sum), absmax| (count + 1, sum + f64::from(absmax)));
        ((sum / count.max(1) as f64) as f32).to_le_bytes().to_vec()
    }

    fn encode(&self, src: &[f32], header: &[u8], dst: &mut [u8], rounding: Rounding) {
        encode_groups(Level::detect(), Scale::read(header), src, dst, rounding);
    }

    fn decode(&self, src: &[u8], header: &[u8], dst: &mut [f32]) {
        decode_groups(Level::detect(), Scale::read(header), src, dst);
    }
}

fn group_bytes(values: usize) -> usize {
    4 + values.div_ceil(BLOCK) + values.div_ceil(2)
}

pub(super) fn encode_groups(
    level: Level,
    mean: f32,
    src: &[f32],
    dst: &mut [u8],
    rounding: Rounding,
) {
    let groups = src.chunks(GROUP).zip(dst.chunks_mut(group_bytes(GROUP)));
    for (i, (values, bytes)) in groups.enumerate() {
        encode_group(level, mean, values, bytes, rounding.advance(i * GROUP));
    }
}

pub(super) fn decode_groups(level: Level, mean: f32, src: &[u8], dst: &mut [f32]) {
    for (bytes, values) in src.chunks(group_bytes(GROUP)).zip(dst.chunks_mut(GROUP)) {
        let (head, rest) = bytes.split_at(4);
        let (coded, codes) = rest.split_at(values.len().div_ceil(BLOCK));
        let mut absmaxes = [0.0; BLOCKS];
        decode_dynamic(level, coded, Scale::read(head), &mut absmaxes);
        let blocks = codes.chunks(BLOCK / 2).zip(values.chunks_mut(BLOCK));
        for ((codes, values), absmax) in blocks.zip(absmaxes) {
            decode_nf4(level, codes, absmax + mean, values);
        }
    }
}

fn encode_group(level: Level, mean: f32, values: &[f32], bytes: &mut [u8], rounding: Rounding) {
    let (head, rest) = bytes.split_at_mut(4);
    let blocks = values.len().div_ceil(BLOCK);
    let (coded, codes) = rest.split_at_mut(blocks);
    let mut exact = [0.0; BLOCKS];
    largest_sizes(level, values, &mut exact[..blocks]);
    let deviations = exact.map(|absmax| absmax - mean);
    let deviations = &deviations[..blocks];
    let Some(inverse) = write_scale(deviations, 1.0, head, codes) else {
        return coded.fill(0);
    };
    encode_dynamic(level, deviations, inverse, coded, Rounding::Nearest);
    let mut believed = [0.0; BLOCKS];
    decode_dynamic(level, coded, Scale::read(head), &mut believed);
    let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2));
    for (i, (values, codes)) in blocks.enumerate() {
        let absmax = match rounding {
            Rounding::Nearest => exact[i],
            Rounding::Stochastic { .. } => (believed[i] + mean).max(0.0),
        };
        let inverse = Scale::of_largest(absmax, 1.0).map_or(0.0, |scale| scale.inverse);
        encode_nf4(level, values, inverse, codes, rounding.advance(i * BLOCK));
    }
}

multiversion! {
    fn largest_sizes(values: &[f32], sizes: &mut [f32]) {
        for (values, size) in values.chunks(BLOCK).zip(sizes) {
            *size = largest(values);
        }
    }
}
