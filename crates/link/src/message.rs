//! A sharer's cache as a message, and what a receiver makes of one.
//!
//! Only what an open gate of the fuser reads travels: a layer whose keys and values nobody reads is
//! left out, and of one that is read by half only that half is sent. Where that differs between
//! layers, each is a block of its own.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use smidgen_model::KeySpace;
use smidgen_tensor::Device;

use crate::align::Alignment;
use crate::fuse::{Arrival, Fill, LoadedFuser, Present};
use crate::plan::{LayerPrecision, Recipe};
use crate::wire::{
    self, DenseBlock, Fault, Group, Header, Pair, PerBlock, Plan, Precision, Reader, Side,
    TokenSpace, WireError,
};
use crate::{Error, KvCache, KvShape, KvView};

/// Layers and halves that are worth sending, `[L]`: keys and values.
pub type Needed = [[bool; 2]];

/// The plan that sends these tokens in one precision for keys and one for values; none where no
/// layer is needed.
pub fn plan(
    needed: &Needed,
    groups: &[(Vec<u32>, [Precision; 2])],
    space: KeySpace,
) -> Option<Plan> {
    let mut sent = needed.iter().filter(|halves| **halves != [false; 2]);
    let first = sent.next()?;
    let block_layers = if sent.all(|halves| halves == first) { needed.len() } else { 1 };
    let by_recipe =
        |(tokens, precision): &(Vec<u32>, _)| (tokens.clone(), recipe(needed, *precision));
    let groups: Vec<_> = groups.iter().map(by_recipe).collect();
    by_recipes(&groups, block_layers, space)
}

/// The plan that sends each group of tokens by its recipe, all of which send the same halves; none
/// where nothing is sent. Blocks have at most `block_layers`, and each has one precision.
pub(crate) fn by_recipes(
    groups: &[(Vec<u32>, Recipe)],
    block_layers: usize,
    space: KeySpace,
) -> Option<Plan> {
    let (_, first) = groups.first()?;
    let sent = first.sent();
    let layers_per_block = block_layers.min(sent.len());
    if layers_per_block == 0 {
        return None;
    }
    let group = |(tokens, recipe): &(Vec<u32>, Recipe)| {
        let pair = |layer: &usize| {
            let LayerPrecision { key, value } = recipe.layers[*layer];
            Pair { keys: key, values: value }
        };
        let pairs: Vec<Pair> = sent.iter().step_by(layers_per_block).map(pair).collect();
        let precision = match pairs.iter().all(|pair| *pair == pairs[0]) {
            true => PerBlock::Same(pairs[0]),
            false => PerBlock::Each(pairs),
        };
        Group { tokens: PerBlock::Same(tokens.clone()), precision }
    };
    let mut plan = Plan::new(first.layers.len(), groups.iter().map(group).collect());
    plan.layers = sent.iter().map(|layer| *layer as u16).collect();
    plan.layers_per_block = layers_per_block;
    plan.about.tokens = TokenSpace::Sharer;
    plan.about.keys = space.into();
    Some(plan)
}

/// What an allocator knows of a message of these halves in one precision for keys and one for values.
pub(crate) fn recipe(needed: &Needed, [keys, values]: [Precision; 2]) -> Recipe {
    let layer = |[key, value]: &[bool; 2]| LayerPrecision {
        key: key.then_some(keys),
        value: value.then_some(values),
    };
    Recipe { layers: needed.iter().map(layer).collect() }
}

/// What arrived of a sharer's cache.
#[derive(Debug)]
pub struct Received {
    /// Rows that did not arrive are zero.
    pub cache: KvCache,
    /// Which of them arrived.
    pub present: Present,
    /// What travelled; 0 where nothing did.
    pub wire_bytes: u64,
}

impl Received {
    /// Reads a container for a sharer's cache of this shape and `tokens`.
    ///
    /// # Errors
    /// [`Error::Wire`] for what is wrong with it, [`Error::Value`] for another shape.
    pub fn decode(
        device: &Device,
        bytes: &[u8],
        shape: KvShape,
        tokens: usize,
    ) -> Result<Received, Error> {
        let header = Header::parse(bytes, &wire::Limits::default())?;
        let start = header.header_bytes();
        let mut arriving = Arriving::new(device, header, shape, tokens)?;
        arriving.push(&bytes[start..])?;
        arriving.finish()
    }

    /// Sends a cache through a container and reads it back.
    ///
    /// # Errors
    /// Those of encoder and decoder.
    pub fn through(device: &Device, view: KvView<'_>, plan: &Plan) -> Result<Received, Error> {
        let bytes = wire::encode(device, view, plan)?;
        Received::decode(device, &bytes, view.shape, view.tokens)
    }

    /// What the fuser is given.
    pub fn arrival<'a>(&'a self, alignment: &'a Alignment) -> Arrival<'a> {
        let (kv, present) = (self.cache.view(), &self.present);
        Arrival { kv, present, alignment, fill: Fill::ReceiverOnly }
    }
}

/// A container as it arrives: each block is read as soon as its bytes are there.
pub struct Arriving {
    device: Device,
    reader: Reader,
    /// What came of the block that is next.
    pending: Vec<u8>,
    /// Where in the container that begins.
    at: u64,
    cache: KvCache,
    /// Tokens of each layer.
    arrived: Vec<Vec<u32>>,
    verified: Duration,
}

impl Arriving {
    /// Behind a header that was read, for a sharer's cache of this shape and `tokens`.
    ///
    /// # Errors
    /// [`Error::Value`] for another shape, [`Error::Refused`] where the ledger has no room.
    pub fn new(
        device: &Device,
        header: Header,
        shape: KvShape,
        tokens: usize,
    ) -> Result<Arriving, Error> {
        let (got, len, batch) = (header.shape(), header.seq_len as usize, header.batch());
        if got != shape || len != tokens || batch != 1 {
            let expected = format!("{shape:?} of {tokens} tokens");
            let got = format!("{got:?} of {len}, {batch} times");
            return Err(Error::value("container", expected, got));
        }
        Ok(Arriving {
            device: device.clone(),
            at: header.header_bytes() as u64,
            reader: Reader::new(header, &wire::Options::default()),
            pending: Vec::new(),
            cache: KvCache::zeroed(device.ledger(), shape, tokens)?,
            arrived: vec![Vec::new(); shape.layers],
            verified: Duration::ZERO,
        })
    }

    /// Takes the next bytes; borders mean nothing.
    ///
    /// # Errors
    /// [`Error::Wire`] for what is wrong with a block; what arrives is then of no further use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.pending.extend_from_slice(bytes);
        while let Some((number, range)) = self.reader.next_block() {
            let len = (range.end - self.at) as usize;
            let Some(whole) = self.pending.get(..len) else { break };
            let started = Instant::now();
            let block = self.reader.block(&self.device, number, whole)?;
            self.verified += started.elapsed();
            let block = block.dense(&self.device)?;
            self.pending.drain(..len);
            self.at = range.end;
            self.put(&block);
        }
        Ok(())
    }

    /// Whether all blocks have been read.
    pub fn is_read(&self) -> bool {
        self.reader.next_block().is_none()
    }

    /// Whether a layer of the sharer's has been read, with anything in it.
    pub fn has_layer(&self, layer: usize) -> bool {
        self.arrived.get(layer).is_some_and(|tokens| !tokens.is_empty())
    }

    /// Which rows have been read.
    pub fn present(&self) -> Present {
        Present::by_layer(self.cache.tokens(), &self.arrived)
    }

    /// What the fuser is given of it; `present` is [`Arriving::present`].
    pub fn arrival<'a>(&'a self, present: &'a Present, alignment: &'a Alignment) -> Arrival<'a> {
        Arrival { kv: self.cache.view(), present, alignment, fill: Fill::ReceiverOnly }
    }

    /// What checking blocks took: their checksums, lists, scales and codes.
    pub fn verified(&self) -> Duration {
        self.verified
    }

    fn put(&mut self, block: &DenseBlock) {
        for layer in &block.layers {
            for side in Side::BOTH {
                let Some(rows) = block.layer(*layer, side) else { continue };
                let layer = usize::from(*layer);
                let len = rows.values.len() / rows.tokens.len();
                for (token, row) in rows.tokens.iter().zip(rows.values.chunks_exact(len)) {
                    let to = match side {
                        Side::Keys => self.cache.key_mut(layer, *token as usize),
                        Side::Values => self.cache.value_mut(layer, *token as usize),
                    };
                    to.copy_from_slice(row);
                }
                self.arrived[layer] = rows.tokens.to_vec();
            }
        }
    }

    /// All came.
    ///
    /// # Errors
    /// [`Error::Wire`] for a container that ends too early or too late.
    pub fn finish(self) -> Result<Received, Error> {
        let expected = self.reader.header().total_bytes;
        let got = self.at + self.pending.len() as u64;
        let fault = match got.cmp(&expected) {
            Ordering::Less => Some((got, Fault::Truncated { expected, got })),
            Ordering::Greater => Some((expected, Fault::Trailing { expected, got })),
            Ordering::Equal => None,
        };
        if let Some((offset, fault)) = fault {
            return Err(WireError { offset, fault }.into());
        }
        let present = self.present();
        Ok(Received { cache: self.cache, present, wire_bytes: expected })
    }
}

/// A cache that was sent and measured as nothing would be a fault of the measurement.
///
/// # Errors
/// [`Error::Record`] where a gate is open and an item has no bytes.
pub(crate) fn check_sent(what: &str, fuser: &LoadedFuser, bytes: &[f64]) -> Result<(), Error> {
    let nothing = bytes.iter().filter(|bytes| **bytes == 0.0).count();
    if fuser.open_gates() == 0 || nothing == 0 {
        return Ok(());
    }
    let got = format!("{nothing} of 0");
    Err(Error::record(format!("`{what}`"), "measured bytes for every item", got))
}

/// The plan that sends these tokens of a cache to a fuser; none where no gate is open.
pub(crate) fn groups(
    fuser: &LoadedFuser,
    groups: impl IntoIterator<Item = (Vec<u32>, Precision)>,
) -> Option<Plan> {
    let both = |(tokens, precision)| (tokens, [precision; 2]);
    let groups: Vec<_> = groups.into_iter().map(both).collect();
    plan(&fuser.fuser.needed(&fuser.params), &groups, fuser.fuser.config().k_space)
}

/// Every token of a cache in one precision.
pub fn whole(fuser: &LoadedFuser, tokens: usize, precision: Precision) -> Option<Plan> {
    groups(fuser, [((0..tokens as u32).collect(), precision)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_codec::Ledger;

    fn device() -> Device {
        Device::cpu(Ledger::new(), 2)
    }

    #[test]
    fn only_what_a_gate_reads_travels() {
        let device = device();
        let cache = wire::reference(1, 3, 2, 16, 10);
        let bytes = |needed: &Needed| {
            let plan = plan(needed, &[(vec![2, 5], [Precision::F32; 2])], KeySpace::PreRope)?;
            Some(Received::through(&device, cache.view(), &plan).unwrap())
        };
        assert!(bytes(&[[false; 2]; 3]).is_none());
        let all = bytes(&[[true; 2]; 3]).unwrap();
        let one = bytes(&[[false; 2], [true; 2], [false; 2]]).unwrap();
        let half = bytes(&[[false; 2], [true, false], [false, true]]).unwrap();
        assert!(one.wire_bytes < half.wire_bytes && half.wire_bytes < all.wire_bytes);
        assert_eq!(all.cache.view().key(2, 5), cache.view().key(2, 5));
        assert!(all.cache.view().key(2, 4).iter().all(|x| *x == 0.0));
        assert_eq!(half.cache.view().key(1, 2), cache.view().key(1, 2));
        assert!(half.cache.view().value(1, 2).iter().all(|x| *x == 0.0));
        assert_eq!(half.cache.view().value(2, 2), cache.view().value(2, 2));
        assert_eq!(all.present, Present::tokens(3, 10, &[2, 5]));
    }

    #[test]
    fn blocks_are_read_as_they_come_in_pieces_of_any_size() {
        let device = device();
        let cache = wire::reference(1, 3, 2, 16, 10);
        let groups = [(vec![1, 4], [Precision::Int8; 2]), (vec![2, 9], [Precision::Int4; 2])];
        let plan = plan(&[[true; 2]; 3], &groups, KeySpace::PostRope).unwrap();
        let plan = Plan { layers_per_block: 1, ..plan };
        let bytes = wire::encode(&device, cache.view(), &plan).unwrap();
        let shape = cache.view().shape;
        let whole = Received::decode(&device, &bytes, shape, 10).unwrap();
        let header = Header::parse(&bytes, &wire::Limits::default()).unwrap();
        let (start, first) = (header.header_bytes(), header.block_bytes(0).end as usize);
        for size in [1, 7, 1000] {
            let mut arriving = Arriving::new(&device, header.clone(), shape, 10).unwrap();
            bytes[start..first].chunks(size).for_each(|piece| arriving.push(piece).unwrap());
            assert_eq!(arriving.arrived[0], [1, 2, 4, 9]);
            assert!(arriving.arrived[1].is_empty() && arriving.pending.is_empty());
            bytes[first..].chunks(size).for_each(|piece| arriving.push(piece).unwrap());
            let got = arriving.finish().unwrap();
            assert_eq!(got.cache.view().keys, whole.cache.view().keys);
            assert_eq!(got.cache.view().values, whole.cache.view().values);
            assert_eq!((got.present, got.wire_bytes), (whole.present.clone(), whole.wire_bytes));
        }
    }

    #[test]
    fn a_container_for_another_cache_is_refused() {
        let device = device();
        let cache = wire::reference(1, 2, 2, 16, 10);
        let plan =
            plan(&[[true; 2]; 2], &[(vec![0], [Precision::Int8; 2])], KeySpace::PostRope).unwrap();
        let bytes = wire::encode(&device, cache.view(), &plan).unwrap();
        let shape = cache.view().shape;
        Received::decode(&device, &bytes, shape, 10).unwrap();
        let longer = Received::decode(&device, &bytes, shape, 11).unwrap_err();
        assert!(longer.to_string().contains("of 11 tokens"), "{longer}");
        let wrong = |bytes: &[u8]| Received::decode(&device, bytes, shape, 10).unwrap_err();
        let longer = [&bytes[..], &[0]].concat();
        for wrong in [wrong(&bytes[1..]), wrong(&bytes[..bytes.len() - 1]), wrong(&longer)] {
            assert!(matches!(wrong, Error::Wire(_)), "{wrong}");
        }
        // Two sequences in one container once ended in a panic.
        let two = wire::reference(1, 4, 2, 16, 10);
        let layers = vec![0, 1];
        let plan = Plan { batch: 2, layers, layers_per_block: 2, ..plan };
        let twice = wire::encode(&device, two.view(), &plan).unwrap();
        let twice = Received::decode(&device, &twice, shape, 10).unwrap_err();
        assert!(twice.to_string().ends_with("of 10, 2 times"), "{twice}");
    }
}
