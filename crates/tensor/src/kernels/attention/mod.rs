//! Causal attention in tiles, with grouped heads, documents and a prefix.
//!
//! `o = softmax(q k^T / sqrt(E)) v` over the visible keys: those of the prefix, then those from the first
//! token of the query's document to the query itself. A tile of [`QUERIES`] rows goes over tiles of [`KEYS`]
//! keys with a running maximum and sum, so memory is linear in the length; the way back makes the
//! probabilities again from the stored log-sum-exp. Source: Dao, FlashAttention-2 (arXiv 2307.08691).
//! One task is one key-value head of one sequence: its sums have one order, whatever the team.

#![allow(unsafe_code)]

mod backward;
mod forward;
#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use smidgen_codec::Tag;

pub(crate) use backward::backward;
pub(crate) use forward::forward;

use crate::matmul::{Engine, Panels, Right, pack_into, panel_bytes};
use crate::tensor::View;
use crate::{Device, Error, Format, Tensor};

/// Rows of a tile: a multiple of the twelve rows of a register tile.
pub(crate) const QUERIES: usize = 48;
/// Keys of a tile.
pub(crate) const KEYS: usize = 256;

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
    /// Keys in front of every sequence.
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
    /// For every sequence how many of the keys in front its tokens see; all without it.
    pub(crate) prefix_lens: Option<&'a [u32]>,
    /// For every token the place in its sequence where its document begins.
    pub(crate) starts: Option<&'a [u32]>,
}

/// A run of keys that is multiplied at once.
struct KeyTile<'a> {
    keys: View<'a>,
    values: View<'a>,
    /// Place of the first key in the sequence; `None` for the prefix, which has no order.
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
                None => {
                    let lens = self.prefix_lens;
                    let seen = lens.map_or(self.shape.prefix, |lens| lens[batch] as usize);
                    (0, seen.saturating_sub(tile.row).min(count) as u32)
                }
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

/// Claims tasks with memory of one's own per thread. All of it is there before the first task, so what
/// is used, and what is refused, does not depend on who runs.
fn with_scratch<S: Send>(
    device: &Device,
    tasks: usize,
    make: impl Fn() -> Result<S, Error>,
    body: impl Fn(&mut S, usize) + Sync,
) -> Result<(), Error> {
    let members = device.team().threads().min(tasks);
    let scratch = (0..members).map(|_| make().map(Mutex::new)).collect::<Result<Vec<_>, _>>()?;
    let next = AtomicUsize::new(0);
    device.team().run(members, |member| {
        let mut scratch = scratch[member].lock().unwrap_or_else(|e| e.into_inner());
        loop {
            let task = next.fetch_add(1, Relaxed);
            if task >= tasks {
                break;
            }
            body(&mut scratch, task);
        }
    });
    Ok(())
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
