//! Which rows of a batch are fused, and what a fuser reads of them.

use std::sync::Arc;

use smidgen_codec::Tag;
use smidgen_model::{KeySpace, LayerKv};
use smidgen_tensor::{Device, Format, Tensor};

use super::{PairShape, Part};
use crate::align::{Alignment, Piece};
use crate::side::{Prefill, keys_in};
use crate::{Error, KvShape, KvView};

/// Which rows of a sharer's cache arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Present {
    /// All of them.
    #[default]
    All,
    /// Those that are set, `[L T]`.
    Rows(Vec<bool>),
}

impl Present {
    /// These tokens, the same of every layer.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn tokens(layers: usize, tokens: usize, chosen: &[u32]) -> Present {
        let mut rows = vec![false; layers * tokens];
        for layer in 0..layers {
            chosen
                .iter()
                .for_each(|token| rows[layer * tokens..][..tokens][*token as usize] = true);
        }
        Present::Rows(rows)
    }

    /// Tokens of each layer; none of a layer that did not arrive.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn by_layer(tokens: usize, chosen: &[Vec<u32>]) -> Present {
        let mut rows = vec![false; chosen.len() * tokens];
        for (row, chosen) in rows.chunks_exact_mut(tokens.max(1)).zip(chosen) {
            chosen.iter().for_each(|token| row[*token as usize] = true);
        }
        Present::Rows(rows)
    }

    fn has(&self, row: usize) -> bool {
        match self {
            Present::All => true,
            Present::Rows(rows) => rows[row],
        }
    }
}

/// What becomes of a token whose rows did not arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// The receiver keeps its own.
    #[default]
    ReceiverOnly,
    /// It is fused with zeros.
    Zeros,
}

/// What arrived for one prompt of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The sharer's cache; rows that are not present may hold anything.
    pub kv: KvView<'a>,
    /// Which of its rows arrived.
    pub present: &'a Present,
    /// What stands for each of the receiver's tokens.
    pub alignment: &'a Alignment,
    /// What becomes of the others.
    pub fill: Fill,
}

impl<'a> Arrival<'a> {
    /// All of a cache.
    pub fn whole(kv: KvView<'a>, alignment: &'a Alignment) -> Arrival<'a> {
        Arrival { kv, present: &Present::All, alignment, fill: Fill::ReceiverOnly }
    }

    /// Whether all that stands for a token arrived of a layer.
    fn has(&self, layer: usize, pieces: &[Piece]) -> bool {
        let row = |piece: &Piece| layer * self.kv.tokens + piece.token as usize;
        pieces.iter().all(|piece| self.present.has(row(piece)))
    }
}

/// Where the prompts of a batch are in the arrays `[B P, K E]` of its layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent<'a> {
    /// The cache of each prompt.
    pub(crate) shape: KvShape,
    /// Tokens of each.
    pub(crate) lens: &'a [usize],
    /// P, rows of each.
    pub(crate) length: usize,
}

impl<'a> Extent<'a> {
    pub(crate) fn of(base: &'a Prefill) -> Extent<'a> {
        Extent { shape: base.shape(), lens: base.lens(), length: base.length() }
    }
}

/// Whether shapes fit each other, so that no later step can miss a row.
pub(crate) fn check(
    pair: &PairShape,
    extent: Extent<'_>,
    arrivals: &[Arrival<'_>],
) -> Result<(), Error> {
    if extent.shape != pair.receiver {
        let expected = format!("{:?}", pair.receiver);
        return Err(Error::value("receiver cache", expected, format!("{:?}", extent.shape)));
    }
    if arrivals.len() != extent.lens.len() {
        let expected = format!("one for each of {} prompts", extent.lens.len());
        return Err(Error::value("arrivals", expected, arrivals.len()));
    }
    for (arrival, len) in arrivals.iter().zip(extent.lens) {
        let (kv, alignment) = (&arrival.kv, arrival.alignment);
        if kv.shape != pair.sharer {
            let expected = format!("{:?}", pair.sharer);
            return Err(Error::value("sharer cache", expected, format!("{:?}", kv.shape)));
        }
        if alignment.tokens() < *len || alignment.needed() > kv.tokens {
            let expected = format!("one of {len} tokens, to {} of the sharer", kv.tokens);
            let got = format!("{} to {}", alignment.tokens(), alignment.needed());
            return Err(Error::value("alignment", expected, got));
        }
        if let Present::Rows(rows) = arrival.present
            && rows.len() != kv.shape.layers * kv.tokens
        {
            let expected = format!("{} rows", kv.shape.layers * kv.tokens);
            return Err(Error::value("present", expected, rows.len()));
        }
    }
    Ok(())
}

/// The rows of a layer that are fused.
pub(crate) struct LayerRows {
    /// Prompt and token of each.
    rows: Vec<(u32, u32)>,
    /// Their places in the batch.
    pub(crate) places: Arc<[u32]>,
    /// Their tokens' positions.
    pub(crate) positions: Arc<[u32]>,
}

impl LayerRows {
    /// Of a layer that listens to the sharer's layer `source`.
    pub(crate) fn find(extent: Extent<'_>, arrivals: &[Arrival<'_>], source: usize) -> LayerRows {
        let mut rows = Vec::new();
        for (row, (arrival, len)) in arrivals.iter().zip(extent.lens).enumerate() {
            for token in 0..*len {
                let pieces = arrival.alignment.of(token);
                let fills = arrival.fill == Fill::Zeros;
                if !pieces.is_empty() && (fills || arrival.has(source, pieces)) {
                    rows.push((row as u32, token as u32));
                }
            }
        }
        let length = extent.length as u32;
        let places = rows.iter().map(|(row, token)| row * length + token).collect();
        let positions = rows.iter().map(|(_, token)| *token).collect();
        LayerRows { rows, places, positions }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What a network reads: `[N, I + O]`, the row of the sharer's layer `source` and then that of
    /// the receiver's `own`, and `[N, O]`, the receiver's alone.
    pub(crate) fn gather(
        &self,
        device: &Device,
        own: &LayerKv,
        arrivals: &[Arrival<'_>],
        source: usize,
        part: Part,
        space: KeySpace,
    ) -> Result<[Tensor; 2], Error> {
        let own = match part {
            Part::Keys => keys_in(own, space)?,
            Part::Values => &own.values,
        };
        let (width, from) = (own.cols(), own.slice::<f32>());
        let given = part.width(&arrivals[0].kv.shape);
        let count = self.rows.len();
        let make =
            |cols| Tensor::uninit(device.pool(), Tag::Activations, [count, cols], Format::F32);
        let (mut input, mut alone) = (make(given + width)?, make(width)?);
        let inputs = input.slice_mut::<f32>().chunks_exact_mut(given + width);
        let places = self.places.iter().zip(&self.rows);
        for ((input, alone), (place, (row, token))) in
            inputs.zip(alone.slice_mut::<f32>().chunks_exact_mut(width)).zip(places)
        {
            let own = &from[*place as usize * width..][..width];
            let (to, rest) = input.split_at_mut(given);
            sharer_row(&arrivals[*row as usize], (source, *token as usize), part, to);
            rest.copy_from_slice(own);
            alone.copy_from_slice(own);
        }
        Ok([input, alone])
    }
}

/// The sharer's row for a token of the receiver: that of its token, or their mean.
fn sharer_row(arrival: &Arrival<'_>, (source, token): (usize, usize), part: Part, to: &mut [f32]) {
    let pieces = arrival.alignment.of(token);
    let row = |piece: &Piece| match part {
        Part::Keys => arrival.kv.key(source, piece.token as usize),
        Part::Values => arrival.kv.value(source, piece.token as usize),
    };
    if !arrival.has(source, pieces) {
        return to.fill(0.0);
    }
    if let [piece] = pieces {
        return to.copy_from_slice(row(piece));
    }
    to.fill(0.0);
    for piece in pieces {
        to.iter_mut().zip(row(piece)).for_each(|(to, x)| *to += piece.weight * x);
    }
}
