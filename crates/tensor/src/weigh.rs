//! The bytes of operations, without doing them.
//!
//! Each method books what its operation books, in the same order and for as long, on a ledger of its
//! own: the peaks of that ledger are those of a real step. What is in here follows `ops/` and
//! `kernels/` line by line; a test of the training plan holds it against a real ledger.

use std::cell::Cell;
use std::collections::BTreeMap;

use smidgen_codec::{Entry, Ledger, Tag};

use crate::kernels::ROWS;
use crate::kernels::attention::{AttentionShape, KEYS, QUERIES};
use crate::matmul::{KC, panel_bytes_at, tiles_apply};
use crate::ops::chunk_rows;
use crate::{Compute, Format, Level};

/// Bytes that stand for all that cannot be counted.
const ENDLESS: usize = 1 << 60;

/// Counts what operations would book.
#[derive(Debug)]
pub struct Weigh {
    ledger: Ledger,
    level: Level,
    compute: Compute,
    threads: usize,
    is_endless: Cell<bool>,
}

/// What happens to the gradients of parameters on the way back.
#[derive(Debug)]
pub enum Gather {
    /// They are kept; the second micro-batch finds those of the first.
    Held {
        /// Those kept so far.
        kept: Vec<Entry>,
        /// Whether this is a later micro-batch of the step.
        again: bool,
    },
    /// They are used as they come.
    Streamed {
        /// What an update needs besides, by the bytes of the gradient, where that is anything.
        workspace: BTreeMap<usize, usize>,
    },
}

impl Gather {
    /// Memory for a gradient; none where an earlier micro-batch left it.
    pub fn start(&self, weigh: &Weigh, shape: [usize; 2]) -> Option<Entry> {
        match self {
            Gather::Held { again: true, .. } => None,
            _ => Some(weigh.tensor(Tag::Grads, shape, Format::F32)),
        }
    }

    /// Hands a complete gradient over.
    pub fn finish(&mut self, weigh: &Weigh, grad: Option<Entry>) {
        match (self, grad) {
            (Gather::Held { kept, .. }, grad) => kept.extend(grad),
            (Gather::Streamed { workspace }, Some(grad)) => {
                if let Some(bytes) = workspace.get(&grad.bytes()) {
                    drop(weigh.bytes(Tag::Workspace, *bytes));
                }
            }
            (Gather::Streamed { .. }, None) => {}
        }
    }
}

/// The sizes of a linear map: columns in, rows of each stacked weight, what comes with them.
#[derive(Clone, Copy, Debug)]
pub struct LinearShape<'a> {
    /// Columns of the input.
    pub width: usize,
    /// Rows of each weight.
    pub outs: &'a [usize],
    /// Whether each weight has a bias.
    pub biases: bool,
    /// Whether the result is added to a residual stream in f32.
    pub residual: bool,
}

impl LinearShape<'_> {
    fn out(&self) -> usize {
        self.outs.iter().sum()
    }
}

/// What the output matrix and its loss leave for the way back.
#[derive(Debug)]
pub struct HeadGrads {
    /// Gradient of the hidden states.
    pub hidden: Entry,
    /// Gradient of the matrix.
    pub weight: Entry,
}

impl Weigh {
    /// Counts for a device of this level and these threads.
    pub fn new(level: Level, compute: Compute, threads: usize) -> Weigh {
        let ledger = Ledger::limited(ENDLESS);
        Weigh { ledger, level, compute, threads, is_endless: Cell::new(false) }
    }

    /// Bytes that are booked now under a tag.
    pub fn live_bytes(&self, tag: Tag) -> usize {
        self.ledger.live_bytes(tag)
    }

    /// The most bytes at once under a tag so far.
    pub fn peak_bytes(&self, tag: Tag) -> u64 {
        if self.is_endless.get() { u64::MAX } else { self.ledger.peak_bytes(tag) as u64 }
    }

    /// The most bytes at once under all tags so far.
    pub fn total_peak_bytes(&self) -> u64 {
        if self.is_endless.get() { u64::MAX } else { self.ledger.total_peak_bytes() as u64 }
    }

    /// Books bytes until the entry is dropped.
    pub fn bytes(&self, tag: Tag, bytes: usize) -> Entry {
        self.ledger.try_book(tag, bytes).unwrap_or_else(|_| {
            self.is_endless.set(true);
            self.ledger.try_book(tag, 0).expect("nothing always fits")
        })
    }

    /// Books a tensor.
    pub fn tensor(&self, tag: Tag, shape: [usize; 2], format: Format) -> Entry {
        self.bytes(tag, shape[0].saturating_mul(shape[1]).saturating_mul(format.bytes()))
    }

    /// Books a value of the residual stream, in f32.
    pub fn stream(&self, rows: usize, width: usize) -> Entry {
        self.tensor(Tag::Activations, [rows, width], Format::F32)
    }

    /// Books a value in the operand format: a norm, a gate, a gradient of one.
    pub fn operand(&self, rows: usize, cols: usize) -> Entry {
        self.tensor(Tag::Activations, [rows, cols], self.compute.format())
    }

    fn panels(&self, tag: Tag, k: usize, n: usize) -> Entry {
        self.bytes(tag, panel_bytes_at(self.level, self.compute, k, n))
    }

    fn has_tiles(&self) -> bool {
        tiles_apply(self.level, self.compute)
    }

    /// What a product with its left operand by rows needs besides its operands.
    fn product_rows(&self, [m, k, n]: [usize; 3], rounds: bool) {
        if !self.has_tiles() {
            return;
        }
        let is_long = rounds && self.compute == Compute::Bf16 && k > KC;
        let _sums = is_long.then(|| self.tensor(Tag::Workspace, [m, n], Format::F32));
        let per_word = self.compute.values_per_word();
        if !k.is_multiple_of(per_word) {
            let stride = k.next_multiple_of(per_word);
            self.tensor(Tag::Workspace, [m, stride], self.compute.format());
        }
    }

    /// As above with the left operand given by columns, which are packed.
    fn product_columns(&self, m: usize, k: usize) {
        if self.has_tiles() {
            self.panels(Tag::Workspace, k, m);
        }
    }

    /// A linear map; gives its value.
    pub fn linear(&self, rows: usize, shape: &LinearShape<'_>) -> Entry {
        let _panels = self.panels(Tag::Packed, shape.width, shape.out());
        let out = match shape.residual {
            true => self.stream(rows, shape.out()),
            false => self.operand(rows, shape.out()),
        };
        self.product_rows([rows, shape.width, shape.out()], !shape.residual);
        out
    }

    /// A linear map packed once, for decoding.
    pub fn packed_linear(&self, shape: &LinearShape<'_>) -> Entry {
        self.panels(Tag::Packed, shape.width, shape.out())
    }

    /// Keys and values of one layer with room for so many tokens.
    pub fn kv_layer(&self, capacity: usize, kv_heads: usize, head_dim: usize) -> Entry {
        let bytes = |k, n| panel_bytes_at(self.level, self.compute, k, n).saturating_mul(kv_heads);
        self.bytes(Tag::Kv, bytes(head_dim, capacity).saturating_add(bytes(capacity, head_dim)))
    }

    /// The way back through a linear map: gives the gradient of its input, and the input where
    /// `made_again` says that it was dropped.
    pub fn linear_back(
        &self,
        rows: usize,
        shape: &LinearShape<'_>,
        made_again: bool,
        gather: &mut Gather,
    ) -> (Entry, Option<Entry>) {
        let rounds = shape.residual && self.compute == Compute::Bf16;
        let _rounded = rounds.then(|| self.operand(rows, shape.out()));
        let dx = {
            let _panels = self.panels(Tag::Packed, shape.out(), shape.width);
            let dx = self.operand(rows, shape.width);
            self.product_rows([rows, shape.out(), shape.width], true);
            dx
        };
        let input = made_again.then(|| self.operand(rows, shape.width));
        let _panels = self.panels(Tag::Workspace, rows, shape.width);
        for out in shape.outs {
            let grad = gather.start(self, [*out, shape.width]);
            self.product_columns(*out, rows);
            gather.finish(self, grad);
            if shape.biases {
                let grad = gather.start(self, [1, *out]);
                gather.finish(self, grad);
            }
        }
        (dx, input)
    }

    /// The way back through a norm of groups of `width` columns, whose input's gradient is there
    /// already or is booked by the caller.
    pub fn norm_back(&self, rows: usize, width: usize, gather: &mut Gather) {
        drop(self.tensor(Tag::Workspace, [rows.div_ceil(ROWS), width], Format::F32));
        let grad = gather.start(self, [1, width]);
        gather.finish(self, grad);
    }

    /// Attention; gives the joined heads and the log-sum-exp of the scores.
    pub fn attention(&self, shape: AttentionShape) -> (Entry, Entry) {
        let rows = shape.batch * shape.tokens;
        let out = self.operand(rows, shape.heads * shape.head_dim);
        let lse = self.stream(shape.batch * shape.heads, shape.tokens);
        let each = [
            self.tile_panels(shape, 2),
            tile_bytes(KEYS, Format::F32),
            tile_bytes(KEYS, self.compute.format()),
            tile_bytes(shape.head_dim, Format::F32),
        ];
        self.scratch(shape, &each);
        (out, lse)
    }

    /// The way back through attention; gives the gradient of queries, keys and values.
    pub fn attention_back(&self, shape: AttentionShape) -> Entry {
        let grads = self.operand(shape.batch * shape.tokens, shape.qkv_cols());
        let one_tile = AttentionShape { tokens: 1, prefix: 0, ..shape };
        let keys = (shape.tokens + shape.prefix).saturating_mul(shape.head_dim).saturating_mul(4);
        let each = [
            self.tile_panels(shape, 3),
            self.tile_panels(one_tile, 2),
            2 * tile_bytes(KEYS, Format::F32),
            2 * tile_bytes(KEYS, self.compute.format()),
            tile_bytes(shape.head_dim, Format::F32),
            keys.saturating_mul(2),
        ];
        self.scratch(shape, &each);
        grads
    }

    /// Bytes of panels for `count` operands of all key tiles.
    fn tile_panels(&self, shape: AttentionShape, count: usize) -> usize {
        let bytes = |k, n| panel_bytes_at(self.level, self.compute, k, n);
        let each = bytes(KEYS, shape.head_dim).max(bytes(shape.head_dim, KEYS));
        let tiles = shape.prefix.div_ceil(KEYS) + shape.tokens.div_ceil(KEYS);
        each.next_multiple_of(64).saturating_mul(tiles).saturating_mul(count)
    }

    /// Memory of one's own for each thread that works on an attention.
    fn scratch(&self, shape: AttentionShape, each: &[usize]) {
        let members = self.threads.min(shape.batch * shape.kv_heads);
        let one = each.iter().fold(0usize, |sum, bytes| sum.saturating_add(*bytes));
        drop(self.bytes(Tag::Workspace, one.saturating_mul(members)));
    }

    /// Output matrix `[vocab, width]` and loss over `rows` tokens; `records` keeps the gradients.
    pub fn head_loss(
        &self,
        rows: usize,
        [vocab, width]: [usize; 2],
        chunk_bytes: usize,
        records: bool,
    ) -> Option<HeadGrads> {
        let _by_lane = self.panels(Tag::Packed, width, vocab);
        let stacked = records.then(|| self.panels(Tag::Packed, vocab, width));
        let grads = records.then(|| HeadGrads {
            hidden: self.operand(rows, width),
            weight: self.tensor(Tag::Grads, [vocab, width], Format::F32),
        });
        let count = chunk_rows(chunk_bytes, vocab).min(rows);
        let logits = self.tensor(Tag::Workspace, [count, vocab], Format::F32);
        self.product_rows([count, width, vocab], false);
        if stacked.is_some() {
            let cols = vocab.next_multiple_of(2);
            let _dlogits = self.tensor(Tag::Workspace, [count, cols], self.compute.format());
            drop(logits);
            self.product_rows([count, vocab, width], true);
            let _hidden = self.panels(Tag::Workspace, count, width);
            self.product_columns(vocab, count);
        }
        grads
    }
}

/// Bytes of a tile of scores, or of what belongs to its rows.
fn tile_bytes(cols: usize, format: Format) -> usize {
    QUERIES.saturating_mul(cols).saturating_mul(format.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_without_end_are_a_number() {
        let weigh = Weigh::new(Level::Portable, Compute::F32, 2);
        let kept = weigh.stream(1 << 30, 1 << 28);
        assert!(weigh.total_peak_bytes() == 1 << 60);
        weigh.stream(usize::MAX, 2);
        drop(kept);
        assert_eq!((weigh.total_peak_bytes(), weigh.peak_bytes(Tag::Kv)), (u64::MAX, u64::MAX));
    }
}
