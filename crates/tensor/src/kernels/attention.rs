//! Causal attention in tiles, with grouped heads, documents and a prefix.
//!
//! `o = softmax(q k^T / sqrt(E)) v` over the visible keys: all of the prefix, then those from the first
//! token of the query's document to the query itself. A tile of [`QUERIES`] rows goes over tiles of [`KEYS`]
//! keys with a running maximum and sum, so memory is linear in the length; the way back makes the
//! probabilities again from the stored log-sum-exp. Source: Dao, FlashAttention-2 (arXiv 2307.08691).
//! One task is one key-value head of one sequence: its sums have one order, whatever the team.

#![allow(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use smidgen_codec::Tag;

use super::math::{LANES, add_lanes, dot, exp, lane_max};
use super::with_format;
use crate::matmul::{
    Engine, Left, Out, Panels, Right, Store, convert, pack_into, panel_bytes, product_serial,
};
use crate::tensor::{Element, Shared, View};
use crate::{Compute, Device, Error, Format, Tensor};

/// Rows of a tile: a multiple of the twelve rows of a register tile.
const QUERIES: usize = 48;
/// Keys of a tile.
const KEYS: usize = 256;

/// Sizes of one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of a head; even.
    pub head_dim: usize,
    /// Keys in front of every sequence that all its tokens see.
    pub prefix: usize,
}

impl AttentionShape {
    /// Columns of the rows `[q | k | v]`.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn key_col(&self, kv: usize) -> usize {
        (self.heads + kv) * self.head_dim
    }

    fn value_col(&self, kv: usize) -> usize {
        (self.heads + self.kv_heads + kv) * self.head_dim
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// What attention reads.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) shape: AttentionShape,
    /// `[B T, (H + 2 K) E]` in the operand format.
    pub(crate) qkv: &'a Tensor,
    /// Keys and values `[B P, K E]` in front, in the operand format.
    pub(crate) prefix: Option<(View<'a>, View<'a>)>,
    /// For every token the place in its sequence where its document begins.
    pub(crate) starts: Option<&'a [u32]>,
}

/// A run of keys that is multiplied at once.
struct KeyTile<'a> {
    keys: View<'a>,
    values: View<'a>,
    /// Place of the first key in the sequence; `None` for the prefix, which everyone sees.
    first: Option<usize>,
    /// Place of the first key among prefix and sequence.
    row: usize,
}

impl<'a> Inputs<'a> {
    fn key_tiles(&self, batch: usize, kv: usize) -> Vec<KeyTile<'a>> {
        let s = &self.shape;
        let mut tiles = Vec::new();
        if let Some((keys, values)) = self.prefix {
            for at in (0..s.prefix).step_by(KEYS) {
                let cut = |x: View<'a>| {
                    x.window(
                        batch * s.prefix + at,
                        KEYS.min(s.prefix - at),
                        kv * s.head_dim,
                        s.head_dim,
                    )
                };
                tiles.push(KeyTile { keys: cut(keys), values: cut(values), first: None, row: at });
            }
        }
        for at in (0..s.tokens).step_by(KEYS) {
            let cut = |col| {
                self.qkv.view().window(
                    batch * s.tokens + at,
                    KEYS.min(s.tokens - at),
                    col,
                    s.head_dim,
                )
            };
            tiles.push(KeyTile {
                keys: cut(s.key_col(kv)),
                values: cut(s.value_col(kv)),
                first: Some(at),
                row: s.prefix + at,
            });
        }
        tiles
    }

    fn queries(&self, batch: usize, head: usize, from: usize, rows: usize) -> View<'a> {
        let s = &self.shape;
        self.qkv.view().window(batch * s.tokens + from, rows, head * s.head_dim, s.head_dim)
    }

    /// For each query of a tile the keys of a key tile it sees, and how many keys anyone sees.
    fn visible(
        &self,
        batch: usize,
        from: usize,
        rows: usize,
        tile: &KeyTile<'_>,
        ranges: &mut [(u32, u32)],
    ) -> usize {
        let count = tile.keys.rows;
        let mut most = 0;
        for (i, range) in ranges.iter_mut().enumerate().take(rows) {
            let query = from + i;
            *range = match tile.first {
                None => (0, count as u32),
                Some(first) => {
                    let start = self
                        .starts
                        .map_or(0, |starts| starts[batch * self.shape.tokens + query] as usize);
                    let low = start.saturating_sub(first).min(count);
                    let high = (query + 1).saturating_sub(first).min(count);
                    (low as u32, high.max(low) as u32)
                }
            };
            if range.0 < range.1 {
                most = most.max(range.1 as usize);
            }
        }
        most
    }
}

crate::multiversion! {
    /// One tile of scores becomes probabilities relative to the running maximum.
    fn softmax_tile<A: Element>(scores: &[f32], ranges: &[(u32, u32)], count: usize, scale: f32, most: &mut [f32], sums: &mut [f32], decay: &mut [f32], probs: &mut [A]) {
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
    fn scale_rows(rows: &mut [f32], width: usize, factors: &[f32]) {
        for (row, factor) in rows.chunks_exact_mut(width).zip(factors) {
            for v in row {
                *v *= factor;
            }
        }
    }
}

crate::multiversion! {
    /// Probabilities and score gradients of a tile from scores, the gradient of the probabilities and the row sums.
    fn score_grads<A: Element>(scores: &[f32], dprobs: &[f32], ranges: &[(u32, u32)], count: usize, scale: f32, lse: &[f32], delta: &[f32], probs: &mut [A], grads: &mut [A]) {
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
    fn row_dot<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
        dot(a, b)
    }
}

/// Claims tasks with memory of one's own per thread; the first error stops all.
fn with_scratch<S>(
    device: &Device,
    tasks: usize,
    make: impl Fn() -> Result<S, Error> + Sync,
    body: impl Fn(&mut S, usize) + Sync,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    device.team().run(device.team().threads().min(tasks), |_| match make() {
        Ok(mut scratch) => loop {
            let task = next.fetch_add(1, Relaxed);
            if task >= tasks {
                break;
            }
            body(&mut scratch, task);
        },
        Err(error) => {
            failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
        }
    });
    let done = next.load(Relaxed) >= tasks;
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        // Another member may have done the failed one's share.
        Some(error) if !done => Err(error),
        _ => Ok(()),
    }
}

/// Panels of every key tile, side by side in one buffer.
struct TilePanels {
    bytes: Tensor,
    each: usize,
}

impl TilePanels {
    /// Room for the panels of `tiles` tiles of `[KEYS, E]`, either way round.
    fn new(engine: &Engine<'_>, tiles: usize, head_dim: usize) -> Result<TilePanels, Error> {
        let each = panel_bytes(engine, KEYS, head_dim)
            .max(panel_bytes(engine, head_dim, KEYS))
            .next_multiple_of(64);
        Ok(TilePanels {
            bytes: Tensor::uninit(engine.pool, Tag::Workspace, [tiles, each / 4], Format::F32)?,
            each,
        })
    }

    fn pack<'a>(
        &'a mut self,
        engine: &Engine<'_>,
        tiles: &[KeyTile<'_>],
        right: impl Fn(&KeyTile<'_>, &mut dyn FnMut(Right<'_>)),
    ) -> Vec<Panels<&'a [u8]>> {
        let rows = self.bytes.as_bytes_mut().chunks_exact_mut(self.each);
        let mut panels = Vec::with_capacity(tiles.len());
        for (tile, bytes) in tiles.iter().zip(rows) {
            let mut room = Some(bytes);
            right(tile, &mut |right| {
                panels.push(pack_into(engine, right, room.take().expect("one operand per tile")))
            });
        }
        panels
    }
}

fn workspace(device: &Device, rows: usize, cols: usize, format: Format) -> Result<Tensor, Error> {
    Tensor::zeros(device.pool(), Tag::Workspace, [rows, cols], format)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, tame};

    /// Ranges that see nothing, one key, the middle, and all of `count` keys.
    fn ranges(count: usize) -> [(u32, u32); 5] {
        let n = count as u32;
        [(0, n), (0, 0), (n / 2, n / 2 + 1), (n / 3, n), (0, n.div_ceil(2))]
    }

    fn softmax<A: Element>(count: usize) {
        let (scores, ranges) = (tame::<f32>(1, 5 * KEYS), ranges(count));
        same_at_every_level("softmax_tile", |level| {
            let mut probs = vec![A::from_f32(9.0); 5 * KEYS];
            let (mut most, mut sums, mut decay) = ([f32::NEG_INFINITY; 5], [0f32; 5], [1f32; 5]);
            for scale in [0.2, 1.3] {
                softmax_tile(
                    level, &scores, &ranges, count, scale, &mut most, &mut sums, &mut decay,
                    &mut probs,
                );
            }
            (bits(&probs), bits(&most), bits(&sums), bits(&decay))
        });
    }

    fn grads<A: Element>(count: usize) {
        let (scores, dprobs) = (tame::<f32>(1, 5 * KEYS), tame::<f32>(2, 5 * KEYS));
        let (lse, delta, ranges) = (tame::<f32>(3, 5), tame::<f32>(4, 5), ranges(count));
        same_at_every_level("score_grads", |level| {
            let nine = vec![A::from_f32(9.0); 5 * KEYS];
            let (mut probs, mut grads) = (nine.clone(), nine);
            score_grads(
                level, &scores, &dprobs, &ranges, count, 0.2, &lse, &delta, &mut probs, &mut grads,
            );
            (bits(&probs), bits(&grads))
        });
    }

    fn rows<A: Element>(len: usize) {
        let (a, b) = (tame::<A>(1, len), tame::<f32>(2, len));
        same_at_every_level("row_dot", |level| row_dot(level, &a, &b).to_bits());
        let rows = tame::<f32>(3, 3 * len);
        same_at_every_level("scale_rows", |level| {
            let mut rows = rows.clone();
            scale_rows(level, &mut rows, len.max(1), &[0.3, 1e-38, -7.0]);
            bits(&rows)
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for len in LENGTHS {
            for_formats!(rows(len));
        }
        for count in [1, 2, 15, 16, 17, 255, 256] {
            for_formats!(softmax(count));
            for_formats!(grads(count));
        }
    }
}
