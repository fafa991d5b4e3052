//! What a container holds, as arrays: of each layer the tokens that came, in order, and their rows.

use std::sync::{Arc, Mutex};

use smidgen_codec::{Entry, Tag};
use smidgen_tensor::Device;

use super::codes::Codes;
use super::decode::{Block, BlockPart, Options, open};
use super::header::Header;
use super::scale::Side;
use crate::Error;

/// Keys or values of the tokens that came, of all layers of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The tokens, increasing.
    pub tokens: Arc<[u32]>,
    /// `[layer][batch][token][K E]`.
    pub values: Vec<f32>,
}

/// A block of layers as arrays, on the ledger under `kv`.
#[derive(Debug)]
pub struct DenseBlock {
    /// The source layers in it.
    pub layers: Vec<u16>,
    /// Keys of all groups together, if any travel.
    pub keys: Option<Rows>,
    /// Values of all groups together, if any travel.
    pub values: Option<Rows>,
    _booked: Entry,
}

/// Keys or values of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerRows<'a> {
    /// The tokens, increasing.
    pub tokens: &'a [u32],
    /// `[batch][token][K E]`.
    pub values: &'a [f32],
}

impl DenseBlock {
    /// Keys or values of a source layer; `None` where that layer or side is not in it.
    pub fn layer(&self, layer: u16, side: Side) -> Option<LayerRows<'_>> {
        let rows = if side == Side::Keys { &self.keys } else { &self.values };
        let (rows, place) = (rows.as_ref()?, self.layers.iter().position(|l| *l == layer)?);
        let len = rows.values.len() / self.layers.len();
        Some(LayerRows { tokens: &rows.tokens, values: &rows.values[place * len..][..len] })
    }
}

impl Block<'_> {
    /// The block as arrays, the tokens of all groups in one order.
    ///
    /// # Errors
    /// [`Error::Refused`] when the ledger's limit is reached.
    pub fn dense(&self, device: &Device) -> Result<DenseBlock, Error> {
        let values = Side::BOTH.map(|side| self.codes(side).map(|(_, codes)| codes.len()).sum());
        let [keys, values]: [usize; 2] = values;
        let booked = device.ledger().try_book(Tag::Kv, 4 * (keys + values))?;
        let [keys, values] = Side::BOTH.map(|side| self.rows(device, side));
        Ok(DenseBlock { layers: self.layers.clone(), keys, values, _booked: booked })
    }

    fn codes(&self, side: Side) -> impl Iterator<Item = (&BlockPart<'_>, &Codes<'_>)> {
        self.parts.iter().filter_map(move |part| Some((part, part.side(side)?)))
    }

    fn rows(&self, device: &Device, side: Side) -> Option<Rows> {
        let (first, codes) = self.codes(side).next()?;
        let len: usize = self.codes(side).map(|(_, codes)| codes.len()).sum();
        let mut values = vec![0.0; len];
        if self.codes(side).count() == 1 {
            codes.decode_to_new(device, &mut values);
            return Some(Rows { tokens: first.index.tokens().collect(), values });
        }
        let (tokens, places) = merged(self.codes(side).map(|(part, _)| part));
        let planes = codes.grid.planes();
        let tasks: Vec<_> = values.chunks_mut(len / planes).map(Mutex::new).collect();
        device.team().run(planes, |plane| {
            let mut out = tasks[plane].lock().expect("each plane has one task");
            for ((_, codes), places) in self.codes(side).zip(&places) {
                codes.decode_plane(device.level(), plane, places, &mut out);
            }
        });
        drop(tasks);
        Some(Rows { tokens, values })
    }
}

/// The tokens of some groups in one order, and the place of each token of each group in it.
fn merged<'a>(parts: impl Iterator<Item = &'a BlockPart<'a>>) -> (Arc<[u32]>, Vec<Vec<u32>>) {
    let lists: Vec<Vec<u32>> = parts.map(|part| part.index.tokens().collect()).collect();
    let mut all: Vec<u32> = lists.concat();
    all.sort_unstable();
    let place = |token: u32| all.binary_search(&token).expect("all of them are in it") as u32;
    let places = lists.iter().map(|list| list.iter().map(|token| place(*token)).collect());
    let places = places.collect();
    (all.into(), places)
}

/// A whole container as arrays.
#[derive(Debug)]
pub struct Payload {
    /// Its header.
    pub header: Header,
    /// The source layers that travelled.
    pub layers: Vec<u16>,
    /// Its blocks.
    pub blocks: Vec<DenseBlock>,
    /// A text for people.
    pub note: Option<String>,
}

impl Payload {
    /// Keys or values of a source layer; `None` where they did not travel.
    pub fn layer(&self, layer: u16, side: Side) -> Option<LayerRows<'_>> {
        let place = self.layers.iter().position(|l| *l == layer)?;
        self.blocks.get(place / self.header.layers_per_block())?.layer(layer, side)
    }
}

/// Reads, checks and decodes a whole container.
///
/// # Errors
/// [`Error::Wire`] for what is wrong with it, [`Error::Refused`] when the ledger's limit is reached.
pub fn decode(device: &Device, bytes: &[u8], options: &Options) -> Result<Payload, Error> {
    let container = open(device, bytes, options)?;
    let blocks = container.blocks.iter().map(|block| block.dense(device));
    let blocks = blocks.collect::<Result<_, _>>()?;
    Ok(Payload { header: container.header, layers: container.layers, blocks, note: container.note })
}
