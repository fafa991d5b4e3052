//! The way forward: scores, running softmax, weighted values.

#![allow(unsafe_code)]

use super::super::math::{LANES, add_lanes, exp, lane_max};
use super::super::with_format;
use super::{Inputs, KEYS, QUERIES, TilePanels, with_scratch, workspace};
use smidgen_codec::Tag;

use crate::matmul::{Engine, Left, Out, Right, Store, convert, product_serial};
use crate::tensor::{Element, Shared, View};
use crate::{Compute, Device, Error, Format, Tensor};

crate::multiversion! {
    /// One tile of scores becomes probabilities relative to the running maximum.
    pub(super) fn softmax_tile<A: Element>(scores: &[f32], ranges: &[(u32, u32)], count: usize, scale: f32, most: &mut [f32], sums: &mut [f32], decay: &mut [f32], probs: &mut [A]) {
        for (i, (low, high)) in ranges.iter().enumerate() {
            let (low, high) = (*low as usize, *high as usize);
            let row = &mut probs[i * KEYS..][..count];
            decay[i] = 1.0;
            if low >= high {
                row.fill(A::from_f32(0.0));
                continue;
            }
            let scores = &scores[i * KEYS..][low..high];
            let top = lane_max(scores) * scale;
            let top = if top > most[i] { top } else { most[i] };
            row[..low].fill(A::from_f32(0.0));
            row[high..].fill(A::from_f32(0.0));
            let mut lanes = [0f32; LANES];
            let seen = &mut row[low..high];
            let whole = seen.len() / LANES * LANES;
            for (probs, scores) in seen[..whole].chunks_exact_mut(LANES).zip(scores.chunks_exact(LANES)) {
                for l in 0..LANES {
                    let p = exp(scores[l] * scale - top);
                    lanes[l] += p;
                    probs[l] = A::from_f32(p);
                }
            }
            for (l, j) in (whole..seen.len()).enumerate() {
                let p = exp(scores[j] * scale - top);
                lanes[l] += p;
                seen[j] = A::from_f32(p);
            }
            decay[i] = exp(most[i] - top);
            sums[i] = sums[i] * decay[i] + add_lanes(lanes);
            most[i] = top;
        }
    }
}

crate::multiversion! {
    pub(super) fn scale_rows(rows: &mut [f32], width: usize, factors: &[f32]) {
        for (row, factor) in rows.chunks_exact_mut(width).zip(factors) {
            for v in row {
                *v *= factor;
            }
        }
    }
}

struct ForwardScratch {
    keys: TilePanels,
    values: TilePanels,
    scores: Tensor,
    probs: Tensor,
    sums: Tensor,
    room: Vec<i32>,
}

/// `[B T, H E]` in the operand format, and the log-sum-exp of every query `[B H, T]`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn forward(
    device: &Device,
    compute: Compute,
    inputs: Inputs<'_>,
) -> Result<(Tensor, Tensor), Error> {
    let s = inputs.shape;
    let engine = device.engine(compute);
    let mut out = Tensor::uninit(
        device.pool(),
        Tag::Activations,
        [s.batch * s.tokens, s.heads * s.head_dim],
        compute.format(),
    )?;
    let mut lse = Tensor::uninit(
        device.pool(),
        Tag::Activations,
        [s.batch * s.heads, s.tokens],
        Format::F32,
    )?;
    let tiles = s.prefix.div_ceil(KEYS) + s.tokens.div_ceil(KEYS);
    let lse_out = Shared::new(lse.slice_mut::<f32>());
    with_format!(compute.format(), A => {
        let out = Shared::new(out.slice_mut::<A>());
        let make = || {
            Ok(ForwardScratch {
                keys: TilePanels::new(&engine, tiles, s.head_dim)?,
                values: TilePanels::new(&engine, tiles, s.head_dim)?,
                scores: workspace(device, QUERIES, KEYS, Format::F32)?,
                probs: workspace(device, QUERIES, KEYS, compute.format())?,
                sums: workspace(device, QUERIES, s.head_dim, Format::F32)?,
                room: Vec::new(),
            })
        };
        with_scratch(device, s.batch * s.kv_heads, make, |scratch, task| {
            forward_task::<A>(&engine, &inputs, scratch, task, out, lse_out);
        })?;
    });
    Ok((out, lse))
}

fn forward_task<A: Element>(
    engine: &Engine<'_>,
    inputs: &Inputs<'_>,
    scratch: &mut ForwardScratch,
    task: usize,
    out: Shared<A>,
    lse: Shared<f32>,
) {
    let s = inputs.shape;
    let (batch, kv) = (task / s.kv_heads, task % s.kv_heads);
    let tiles = inputs.key_tiles(batch, kv);
    let keys = scratch.keys.pack(engine, &tiles, |tile, put| put(Right::Transposed(&[tile.keys])));
    let values =
        scratch.values.pack(engine, &tiles, |tile, put| put(Right::Stacked(&[tile.values])));
    for head in kv * s.group()..(kv + 1) * s.group() {
        for from in (0..s.tokens).step_by(QUERIES) {
            let rows = QUERIES.min(s.tokens - from);
            let queries = inputs.queries(batch, head, from, rows);
            let mut ranges = [(0, 0); QUERIES];
            let (mut most, mut sums, mut decay) =
                ([f32::NEG_INFINITY; QUERIES], [0f32; QUERIES], [1f32; QUERIES]);
            let mut first = true;
            for (tile, (keys, values)) in tiles.iter().zip(keys.iter().zip(&values)) {
                let seen = inputs.visible(batch, from, rows, tile, &mut ranges);
                if seen == 0 {
                    continue;
                }
                let count = seen.next_multiple_of(2).min(tile.keys.rows);
                let scores = Out::tensor(&mut scratch.scores);
                product_serial(
                    engine,
                    Left::Rows(queries),
                    &mut scratch.room,
                    &keys.part(s.head_dim, count),
                    scores,
                    Store::Set,
                );
                // A last odd key shares its word with a column that must be zero.
                let padded = count.next_multiple_of(2);
                softmax_tile::<A>(
                    engine.level,
                    scratch.scores.slice(),
                    &ranges[..rows],
                    padded,
                    s.scale(),
                    &mut most,
                    &mut sums,
                    &mut decay,
                    scratch.probs.slice_mut(),
                );
                if !first {
                    scale_rows(
                        engine.level,
                        &mut scratch.sums.slice_mut::<f32>()[..rows * s.head_dim],
                        s.head_dim,
                        &decay[..rows],
                    );
                }
                let store = if first { Store::Set } else { Store::Add };
                let probs = View::new(scratch.probs.slice::<A>(), rows, count, KEYS);
                product_serial(
                    engine,
                    Left::Rows(probs),
                    &mut scratch.room,
                    &values.part(count, s.head_dim),
                    Out::tensor(&mut scratch.sums),
                    store,
                );
                first = false;
            }
            let factors: [f32; QUERIES] = std::array::from_fn(|i| 1.0 / sums[i]);
            let result = &mut scratch.sums.slice_mut::<f32>()[..rows * s.head_dim];
            scale_rows(engine.level, result, s.head_dim, &factors[..rows]);
            for (i, row) in result.chunks_exact(s.head_dim).enumerate() {
                let at = (batch * s.tokens + from + i) * s.heads + head;
                // SAFETY: every head of every token belongs to one task.
                unsafe {
                    convert(engine.level, row, out.slice(at * s.head_dim, s.head_dim));
                    lse.slice((batch * s.heads + head) * s.tokens + from + i, 1)[0] =
                        most[i] + sums[i].ln();
                }
            }
        }
    }
}
