//! The way back: probabilities made again, then the gradients of queries, keys and values.

#![allow(unsafe_code)]

use super::super::math::{self, exp};
use super::super::with_format;
use super::{AttentionShape, Inputs, KEYS, QUERIES, TilePanels, with_scratch, workspace};
use smidgen_codec::Tag;

use crate::matmul::{Engine, Left, Out, Right, Store, convert, pack_into, product_serial};
use crate::tensor::{Element, Shared, View};
use crate::{Compute, Device, Error, Format, Tensor};

crate::multiversion! {
    /// Probabilities and score gradients of a tile from scores, the gradient of the probabilities and the row sums.
    pub(super) fn score_grads<A: Element>(scores: &[f32], dprobs: &[f32], ranges: &[(u32, u32)], count: usize, scale: f32, lse: &[f32], delta: &[f32], probs: &mut [A], grads: &mut [A]) {
        for (i, (low, high)) in ranges.iter().enumerate() {
            let (low, high) = ((*low as usize).min(count), (*high as usize).min(count));
            let (p, d) = (&mut probs[i * KEYS..][..count], &mut grads[i * KEYS..][..count]);
            for j in (0..low).chain(high.max(low)..count) {
                p[j] = A::from_f32(0.0);
                d[j] = A::from_f32(0.0);
            }
            if low < high {
                let (s, dp) = (&scores[i * KEYS..][low..high], &dprobs[i * KEYS..][low..high]);
                let (p, d) = (&mut p[low..high], &mut d[low..high]);
                let (lse, delta) = (lse[i], delta[i]);
                for (((s, dp), p), d) in s.iter().zip(dp).zip(p).zip(d) {
                    let prob = exp(s * scale - lse);
                    *p = A::from_f32(prob);
                    *d = A::from_f32(prob * (dp - delta) * scale);
                }
            }
        }
    }
}

crate::multiversion! {
    pub(super) fn row_dot<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
        math::dot(a, b)
    }
}

struct BackwardScratch {
    keys_by_lane: TilePanels,
    values_by_lane: TilePanels,
    keys: TilePanels,
    scores: Tensor,
    dprobs: Tensor,
    probs: Tensor,
    dscores: Tensor,
    dqueries: Tensor,
    dkeys: Tensor,
    dvalues: Tensor,
    queries: TilePanels,
    grads: TilePanels,
    room: Vec<i32>,
}

/// Gradients of `qkv` (its format) and of the prefix's keys and values (f32), if there is one.
pub(crate) struct AttentionGrads {
    pub(crate) qkv: Tensor,
    pub(crate) prefix: Option<(Tensor, Tensor)>,
}

/// The way back; `out` and `lse` are what [`forward`] gave, `grad` is the gradient of `out` in the operand format.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn backward(
    device: &Device,
    compute: Compute,
    inputs: Inputs<'_>,
    out: &Tensor,
    lse: &Tensor,
    grad: &Tensor,
) -> Result<AttentionGrads, Error> {
    let s = inputs.shape;
    let engine = device.engine(compute);
    let mut qkv =
        Tensor::uninit(device.pool(), Tag::Activations, inputs.qkv.shape(), compute.format())?;
    let prefix_shape = [s.batch * s.prefix, s.kv_heads * s.head_dim];
    let mut prefix = match inputs.prefix {
        Some(_) => Some((
            Tensor::uninit(device.pool(), Tag::Activations, prefix_shape, Format::F32)?,
            Tensor::uninit(device.pool(), Tag::Activations, prefix_shape, Format::F32)?,
        )),
        None => None,
    };
    let tiles = s.prefix.div_ceil(KEYS) + s.tokens.div_ceil(KEYS);
    let all_keys = s.prefix + s.tokens;
    with_format!(compute.format(), A => {
        let outputs = Outputs {
            qkv: Shared::new(qkv.slice_mut::<A>()),
            prefix: prefix.as_mut().map(|(k, v)| (Shared::new(k.slice_mut::<f32>()), Shared::new(v.slice_mut::<f32>()))),
        };
        let make = || {
            Ok(BackwardScratch {
                keys_by_lane: TilePanels::new(&engine, tiles, s.head_dim)?,
                values_by_lane: TilePanels::new(&engine, tiles, s.head_dim)?,
                keys: TilePanels::new(&engine, tiles, s.head_dim)?,
                scores: workspace(device, QUERIES, KEYS, Format::F32)?,
                dprobs: workspace(device, QUERIES, KEYS, Format::F32)?,
                probs: workspace(device, QUERIES, KEYS, compute.format())?,
                dscores: workspace(device, QUERIES, KEYS, compute.format())?,
                dqueries: workspace(device, QUERIES, s.head_dim, Format::F32)?,
                dkeys: workspace(device, all_keys, s.head_dim, Format::F32)?,
                dvalues: workspace(device, all_keys, s.head_dim, Format::F32)?,
                queries: TilePanels::new(&engine, 1, s.head_dim)?,
                grads: TilePanels::new(&engine, 1, s.head_dim)?,
                room: Vec::new(),
            })
        };
        with_scratch(device, s.batch * s.kv_heads, make, |scratch, task| {
            backward_task::<A>(&engine, &inputs, scratch, task, (out, lse, grad), &outputs);
        })?;
    });
    Ok(AttentionGrads { qkv, prefix })
}

struct Outputs<A> {
    qkv: Shared<A>,
    prefix: Option<(Shared<f32>, Shared<f32>)>,
}

fn backward_task<A: Element>(
    engine: &Engine<'_>,
    inputs: &Inputs<'_>,
    scratch: &mut BackwardScratch,
    task: usize,
    saved: (&Tensor, &Tensor, &Tensor),
    outputs: &Outputs<A>,
) {
    let (s, (out, lse, grad)) = (inputs.shape, saved);
    let (batch, kv, e) = (task / s.kv_heads, task % s.kv_heads, s.head_dim);
    let tiles = inputs.key_tiles(batch, kv);
    let keys_by_lane =
        scratch.keys_by_lane.pack(engine, &tiles, |tile, put| put(Right::Transposed(&[tile.keys])));
    let values_by_lane = scratch
        .values_by_lane
        .pack(engine, &tiles, |tile, put| put(Right::Transposed(&[tile.values])));
    let keys = scratch.keys.pack(engine, &tiles, |tile, put| put(Right::Stacked(&[tile.keys])));
    scratch.dkeys.slice_mut::<f32>().fill(0.0);
    scratch.dvalues.slice_mut::<f32>().fill(0.0);
    for head in kv * s.group()..(kv + 1) * s.group() {
        for from in (0..s.tokens).step_by(QUERIES) {
            let rows = QUERIES.min(s.tokens - from);
            let token = batch * s.tokens + from;
            let queries = inputs.queries(batch, head, from, rows);
            let douts = grad.view().window(token, rows, head * e, e);
            let outs = out.view().window(token, rows, head * e, e);
            let mut delta = [0f32; QUERIES];
            for (i, d) in delta.iter_mut().enumerate().take(rows) {
                *d = row_dot::<A, A>(engine.level, douts.row(i), outs.row(i));
            }
            let lse = &lse.slice::<f32>()[(batch * s.heads + head) * s.tokens + from..][..rows];
            let query_panels =
                pack_into(engine, Right::Stacked(&[queries]), scratch.queries.bytes.as_bytes_mut());
            let grad_panels =
                pack_into(engine, Right::Stacked(&[douts]), scratch.grads.bytes.as_bytes_mut());
            let mut ranges = [(0, 0); QUERIES];
            let mut first = true;
            for (i, tile) in tiles.iter().enumerate() {
                let seen = inputs.visible(batch, from, rows, tile, &mut ranges);
                if seen == 0 {
                    continue;
                }
                let count = seen.next_multiple_of(2).min(tile.keys.rows);
                let padded = count.next_multiple_of(2);
                product_serial(
                    engine,
                    Left::Rows(queries),
                    &mut scratch.room,
                    &keys_by_lane[i].part(e, count),
                    Out::tensor(&mut scratch.scores),
                    Store::Set,
                );
                product_serial(
                    engine,
                    Left::Rows(douts),
                    &mut scratch.room,
                    &values_by_lane[i].part(e, count),
                    Out::tensor(&mut scratch.dprobs),
                    Store::Set,
                );
                score_grads::<A>(
                    engine.level,
                    scratch.scores.slice(),
                    scratch.dprobs.slice(),
                    &ranges[..rows],
                    padded,
                    s.scale(),
                    lse,
                    &delta,
                    scratch.probs.slice_mut(),
                    scratch.dscores.slice_mut(),
                );
                let probs = View::new(scratch.probs.slice::<A>(), rows, count, KEYS);
                let dscores = View::new(scratch.dscores.slice::<A>(), rows, count, KEYS);
                let dvalues = Out::tensor(&mut scratch.dvalues).window(tile.row, 0, 4);
                product_serial(
                    engine,
                    Left::Columns(probs),
                    &mut scratch.room,
                    &grad_panels,
                    dvalues,
                    Store::Add,
                );
                let dkeys = Out::tensor(&mut scratch.dkeys).window(tile.row, 0, 4);
                product_serial(
                    engine,
                    Left::Columns(dscores),
                    &mut scratch.room,
                    &query_panels,
                    dkeys,
                    Store::Add,
                );
                let store = if first { Store::Set } else { Store::Add };
                product_serial(
                    engine,
                    Left::Rows(dscores),
                    &mut scratch.room,
                    &keys[i].part(count, e),
                    Out::tensor(&mut scratch.dqueries),
                    store,
                );
                first = false;
            }
            for (i, row) in scratch.dqueries.slice::<f32>().chunks_exact(e).enumerate().take(rows) {
                // SAFETY: every head of every token belongs to one task.
                convert(engine.level, row, unsafe {
                    outputs.qkv.slice((token + i) * s.qkv_cols() + head * e, e)
                });
            }
        }
    }
    put_key_grads(engine, &s, batch, kv, scratch, outputs);
}

fn put_key_grads<A: Element>(
    engine: &Engine<'_>,
    s: &AttentionShape,
    batch: usize,
    kv: usize,
    scratch: &BackwardScratch,
    outputs: &Outputs<A>,
) {
    let e = s.head_dim;
    let rows = scratch
        .dkeys
        .slice::<f32>()
        .chunks_exact(e)
        .zip(scratch.dvalues.slice::<f32>().chunks_exact(e));
    for (row, (dkey, dvalue)) in rows.enumerate() {
        // SAFETY: every key-value head of every token belongs to one task.
        unsafe {
            match (row.checked_sub(s.prefix), &outputs.prefix) {
                (Some(token), _) => {
                    let at = (batch * s.tokens + token) * s.qkv_cols();
                    convert(engine.level, dkey, outputs.qkv.slice(at + s.key_col(kv), e));
                    convert(engine.level, dvalue, outputs.qkv.slice(at + s.value_col(kv), e));
                }
                (None, Some((keys, values))) => {
                    let at = ((batch * s.prefix + row) * s.kv_heads + kv) * e;
                    keys.slice(at, e).copy_from_slice(dkey);
                    values.slice(at, e).copy_from_slice(dvalue);
                }
                (None, None) => {}
            }
        }
    }
}
