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

use super::scaled::{Scale, largest};
use crate::element::codebook::{self, DYNAMIC, NF4};
use crate::element::pack;
use crate::rng::Draws;
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

multiversion! {
    fn encode_groups(mean: f32, src: &[f32], dst: &mut [u8], rounding: Rounding) {
        let groups = src.chunks(GROUP).zip(dst.chunks_mut(group_bytes(GROUP)));
        for (i, (values, bytes)) in groups.enumerate() {
            encode_group(mean, values, bytes, rounding.advance(i * GROUP));
        }
    }
}

multiversion! {
    fn decode_groups(mean: f32, src: &[u8], dst: &mut [f32]) {
        for (bytes, values) in src.chunks(group_bytes(GROUP)).zip(dst.chunks_mut(GROUP)) {
            let (head, rest) = bytes.split_at(4);
            let (absmaxes, codes) = rest.split_at(values.len().div_ceil(BLOCK));
            let scale = Scale::read(head);
            let blocks = codes.chunks(BLOCK / 2).zip(values.chunks_mut(BLOCK));
            for (absmax, (codes, values)) in absmaxes.iter().zip(blocks) {
                let absmax = DYNAMIC[usize::from(*absmax)] * scale + mean;
                let value = |code: u8| NF4[usize::from(code & 15)] * absmax;
                pack::to_values::<4, true>(codes, values, value);
            }
        }
    }
}

#[inline(always)]
fn encode_group(mean: f32, values: &[f32], bytes: &mut [u8], rounding: Rounding) {
    let (head, rest) = bytes.split_at_mut(4);
    let blocks = values.len().div_ceil(BLOCK);
    let (coded, codes) = rest.split_at_mut(blocks);
    let mut absmaxes = [0.0; BLOCKS];
    for (values, absmax) in values.chunks(BLOCK).zip(&mut absmaxes) {
        *absmax = largest(values);
    }
    let mut deviations = absmaxes.map(|absmax| absmax - mean);
    deviations[blocks..].fill(0.0);
    let Some(Scale { value, inverse }) = Scale::of(&deviations, 1.0) else {
        head.copy_from_slice(&f32::NAN.to_le_bytes());
        (coded.fill(0), codes.fill(0));
        return;
    };
    head.copy_from_slice(&value.to_le_bytes());
    let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2));
    for (i, (values, codes)) in blocks.enumerate() {
        coded[i] = codebook::nearest(&DYNAMIC, deviations[i] * inverse);
        let absmax = DYNAMIC[usize::from(coded[i])] * value + mean;
        encode_block(values, absmaxes[i], absmax, codes, rounding.advance(i * BLOCK));
    }
}

/// Codes 64 values of largest size `exact`, which the reader will believe to be `coded`.
#[inline(always)]
fn encode_block(values: &[f32], exact: f32, coded: f32, codes: &mut [u8], rounding: Rounding) {
    match rounding {
        Rounding::Nearest => {
            let inverse = Scale::of_largest(exact, 1.0).map_or(0.0, |scale| scale.inverse);
            let code = |_, x: f32| codebook::nearest(&NF4, x * inverse);
            pack::from_values::<4, true>(values, codes, code);
        }
        Rounding::Stochastic { key, first_index } => {
            let inverse = Scale::of_largest(coded.max(0.0), 1.0).map_or(0.0, |scale| scale.inverse);
            let draws = Draws::new(key, first_index);
            let code =
                |i, x: f32| codebook::stochastic(&NF4, (x * inverse).clamp(-1.0, 1.0), draws.at(i));
            pack::from_values::<4, true>(values, codes, code);
        }
    }
}
