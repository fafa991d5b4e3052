//! A sharer's cache as a message, and what a receiver makes of one.
//!
//! Only what an open gate of the fuser reads travels: a layer whose keys and values nobody reads is
//! left out, and of one that is read by half only that half is sent. Where that differs between
//! layers, each is a block of its own.

use smidgen_model::KeySpace;
use smidgen_tensor::Device;

use crate::align::Alignment;
use crate::fuse::{Arrival, Fill, LoadedFuser, Present};
use crate::wire::{self, Group, Pair, PerBlock, Plan, Precision, Side, TokenSpace};
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
    let sent: Vec<(u16, [bool; 2])> = (0..).zip(needed.iter().copied()).collect();
    let sent: Vec<_> = sent.into_iter().filter(|(_, halves)| *halves != [false; 2]).collect();
    let first = sent.first()?.1;
    let is_even = sent.iter().all(|(_, halves)| *halves == first);
    let group = |(tokens, precision): &(Vec<u32>, [Precision; 2])| {
        let pair = |halves: [bool; 2]| Pair {
            keys: halves[0].then_some(precision[0]),
            values: halves[1].then_some(precision[1]),
        };
        let precision = match is_even {
            true => PerBlock::Same(pair(first)),
            false => PerBlock::Each(sent.iter().map(|(_, halves)| pair(*halves)).collect()),
        };
        Group { tokens: PerBlock::Same(tokens.clone()), precision }
    };
    let mut plan = Plan::new(needed.len(), groups.iter().map(group).collect());
    plan.layers = sent.iter().map(|(layer, _)| *layer).collect();
    plan.layers_per_block = if is_even { plan.layers.len() } else { 1 };
    plan.about.tokens = TokenSpace::Sharer;
    plan.about.keys = match space {
        KeySpace::PostRope => wire::KeySpace::PostRope,
        KeySpace::PreRope => wire::KeySpace::PreRope,
    };
    Some(plan)
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
        let payload = wire::decode(device, bytes, &wire::Options::default())?;
        let (got, len) = (payload.header.shape(), payload.header.seq_len as usize);
        if got != shape || len != tokens {
            let expected = format!("{shape:?} of {tokens} tokens");
            return Err(Error::value("container", expected, format!("{got:?} of {len}")));
        }
        let mut cache = KvCache::zeroed(device.ledger(), shape, tokens)?;
        let mut arrived = vec![Vec::new(); shape.layers];
        for layer in &payload.layers {
            for side in Side::BOTH {
                let Some(rows) = payload.layer(*layer, side) else { continue };
                let layer = usize::from(*layer);
                let len = rows.values.len() / rows.tokens.len();
                for (token, row) in rows.tokens.iter().zip(rows.values.chunks_exact(len)) {
                    let to = match side {
                        Side::Keys => cache.key_mut(layer, *token as usize),
                        Side::Values => cache.value_mut(layer, *token as usize),
                    };
                    to.copy_from_slice(row);
                }
                arrived[layer] = rows.tokens.to_vec();
            }
        }
        let present = Present::by_layer(tokens, &arrived);
        Ok(Received { cache, present, wire_bytes: bytes.len() as u64 })
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

/// Every token of a cache in one precision.
pub fn whole(fuser: &LoadedFuser, tokens: usize, precision: Precision) -> Option<Plan> {
    let needed = fuser.fuser.needed(&fuser.params);
    let all = (0..tokens as u32).collect();
    plan(&needed, &[(all, [precision; 2])], fuser.fuser.config().k_space)
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
        assert!(matches!(Received::decode(&device, &bytes[1..], shape, 10), Err(Error::Wire(_))));
    }
}
