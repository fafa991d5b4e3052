//! What determines the sections of a container: one list for the encoder, the size of a plan and
//! the decoder, which makes the list again from what it reads and compares.
//!
//! Order: layers, then for each block of layers and each group of tokens: index, codes and scales of
//! keys, those of values, zero points; a note last. An index that all blocks share stands in the
//! first one only.

use super::index::Encoding;
use super::precision::Precision;
use super::scale::{Granularity, Grid, ScaleType, Side};
use super::section::{ENTRY_BYTES, Kind};

/// Bytes before the section table.
pub(super) const FIXED_BYTES: usize = PREFIX_BYTES + DESCRIPTOR_BYTES;
pub(super) const PREFIX_BYTES: usize = 48;
pub(super) const DESCRIPTOR_BYTES: usize = 64;
/// Bytes behind the section table: a checksum and zeros.
pub(super) const TAIL_BYTES: usize = 8;

/// One group of tokens in one block of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Tokens of the group.
    pub(super) tokens: u32,
    /// How they are listed and in how many bytes; `None` where all are there.
    pub(super) index: Option<(Encoding, u32)>,
    /// The precision of keys and of values; `None` where they do not travel.
    pub(super) precision: [Option<Precision>; 2],
}

impl Part {
    /// Whether neither keys nor values travel.
    pub(super) fn is_empty(&self) -> bool {
        self.precision == [None, None]
    }
}

/// Sizes and parts of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) align8: bool,
    pub(super) index_per_block: bool,
    pub(super) asymmetric: bool,
    /// Layers that travel, and layers of the sharer.
    pub(super) layers: usize,
    pub(super) of_layers: usize,
    pub(super) batch: usize,
    pub(super) heads: usize,
    /// E of keys and of values.
    pub(super) dims: [usize; 2],
    pub(super) layers_per_block: usize,
    pub(super) granularity: Granularity,
    pub(super) scale: ScaleType,
    pub(super) groups: usize,
    /// Of every block, each group.
    pub(super) parts: Vec<Part>,
    pub(super) note_bytes: Option<u32>,
}

/// A section before its bytes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) kind: Kind,
    /// Precision or encoding.
    pub(super) code: u8,
    pub(super) block: usize,
    pub(super) group: Option<usize>,
    /// Whether the entry names the block.
    pub(super) in_block: bool,
    pub(super) bytes: u64,
}

impl Outline {
    pub(super) fn blocks(&self) -> usize {
        self.layers.div_ceil(self.layers_per_block)
    }

    /// Layers of a block; the last one may have fewer.
    pub(super) fn block_layers(&self, block: usize) -> usize {
        self.layers_per_block.min(self.layers - block * self.layers_per_block)
    }

    pub(super) fn part(&self, block: usize, group: usize) -> &Part {
        &self.parts[block * self.groups + group]
    }

    /// The sizes of a payload.
    pub(super) fn grid(&self, block: usize, group: usize, side: Side) -> Grid {
        Grid {
            layers: self.block_layers(block),
            batch: self.batch,
            tokens: self.part(block, group).tokens as usize,
            heads: self.heads,
            dim: self.dims[side as usize],
        }
    }

    /// Whether zero points belong to a payload.
    pub(super) fn has_zero(&self, precision: Precision) -> bool {
        self.asymmetric && precision.is_integer()
    }

    /// Tokens of each block, the most of which the descriptor says.
    pub(super) fn selected(&self) -> u64 {
        let of_block = |parts: &[Part]| {
            let there = parts.iter().filter(|part| !self.index_per_block || !part.is_empty());
            there.map(|part| u64::from(part.tokens)).sum()
        };
        self.parts.chunks(self.groups).map(of_block).max().unwrap_or(0)
    }

    /// Whether any keys or values of a part do not travel, which version 1.1 allows.
    pub(super) fn has_gaps(&self) -> bool {
        self.parts.iter().any(|part| part.precision.contains(&None))
    }

    /// How many sections there are.
    pub(super) fn count(&self) -> usize {
        let alone =
            usize::from(self.layers < self.of_layers) + usize::from(self.note_bytes.is_some());
        let parts = (0..self.blocks()).flat_map(|b| (0..self.groups).map(move |g| (b, g)));
        let in_parts = parts.map(|(block, group)| {
            let part = self.part(block, group);
            let listed = part.index.is_some() && self.lists(block, part);
            usize::from(listed) + self.sections_of(part)
        });
        alone + in_parts.sum::<usize>()
    }

    /// Whether the index of a part stands in its block.
    fn lists(&self, block: usize, part: &Part) -> bool {
        if self.index_per_block { !part.is_empty() } else { block == 0 }
    }

    /// Sections of a part, without its index.
    pub(super) fn sections_of(&self, part: &Part) -> usize {
        let of = |precision: Precision| {
            1 + usize::from(precision.is_scaled()) + usize::from(self.has_zero(precision))
        };
        part.precision.into_iter().flatten().map(of).sum()
    }

    /// Every section in order; `None` where one is larger than any memory.
    pub(super) fn sections(&self) -> Option<Vec<Planned>> {
        let alone =
            |kind, bytes| Planned { kind, code: 0, block: 0, group: None, in_block: false, bytes };
        let mut out = Vec::with_capacity(self.count());
        if self.layers < self.of_layers {
            out.push(alone(Kind::Layers, 2 * self.layers as u64));
        }
        for block in 0..self.blocks() {
            for group in 0..self.groups {
                self.of_part(block, group, &mut out)?;
            }
        }
        if let Some(bytes) = self.note_bytes {
            out.push(alone(Kind::Meta, bytes.into()));
        }
        Some(out)
    }

    fn of_part(&self, block: usize, group: usize, out: &mut Vec<Planned>) -> Option<()> {
        let part = self.part(block, group);
        let mut push = |kind, code, in_block, bytes| {
            out.push(Planned { kind, code, block, group: Some(group), in_block, bytes });
        };
        if let Some((encoding, bytes)) = part.index.filter(|_| self.lists(block, part)) {
            push(Kind::Index, encoding as u8, self.index_per_block, bytes.into());
        }
        let sides = Side::BOTH.into_iter().zip(part.precision);
        let sides = sides.filter_map(|(side, precision)| Some((side, precision?)));
        let mut zeros = [None; 2];
        for (side, precision) in sides {
            let grid = self.grid(block, group, side);
            let row_bytes = precision.row_bytes(grid.dim) as u64;
            let bytes = grid.checked_rows()?.checked_mul(row_bytes)?;
            push(Kind::payload(side), precision.number(), true, bytes);
            if precision.is_scaled() {
                let scales = grid.scales(self.granularity.of(side))?;
                let bytes = scales.checked_mul(self.scale.bytes() as u64)?;
                push(Kind::scale(side), 0, true, bytes);
                zeros[side as usize] = self.has_zero(precision).then_some((side, scales));
            }
        }
        for (side, scales) in zeros.into_iter().flatten() {
            push(Kind::zero(side), 0, true, scales);
        }
        Some(())
    }

    /// Where a section of so many bytes begins that follows byte `end`.
    pub(super) fn begin(&self, end: u64) -> Option<u64> {
        if self.align8 { end.checked_next_multiple_of(8) } else { Some(end) }
    }
}

/// Bytes of a header with so many sections.
pub(super) fn header_bytes(sections: usize) -> usize {
    FIXED_BYTES + ENTRY_BYTES * sections + TAIL_BYTES
}
