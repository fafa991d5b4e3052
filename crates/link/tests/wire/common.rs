//! Caches and plans of all kinds.

use proptest::prelude::*;
use smidgen_codec::{Ledger, Rng, Stream};
use smidgen_link::wire::{
    Granularity, Group, Pair, Payload, PerBlock, Plan, Precision, ScaleType, Side,
};
use smidgen_link::{KvShape, KvView};
use smidgen_tensor::Device;

pub(crate) fn device() -> Device {
    Device::cpu(Ledger::new(), 1)
}

/// A small cache of several sequences.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub(crate) shape: KvShape,
    pub(crate) tokens: usize,
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
}

impl Cache {
    /// Numbers of many sizes; some rows are zero.
    pub(crate) fn new(shape: KvShape, tokens: usize, seed: u64) -> Cache {
        let rng = Rng::new(seed, Stream::Data);
        let fill = |len: usize, row: usize, which: u64| {
            let mut values = vec![0.0; len];
            rng.fill_normal(which, 0, 1.0, &mut values);
            for (number, row) in values.chunks_mut(row).enumerate() {
                let size = [1.0, 30.0, 0.02, 0.0, 3.0][(number + seed as usize) % 5];
                row.iter_mut().for_each(|value| *value *= size);
            }
            values
        };
        let keys = fill(shape.layers * tokens * shape.key_row(), shape.key_dim, 0);
        let values = fill(shape.layers * tokens * shape.value_row(), shape.value_dim, 1);
        Cache { shape, tokens, keys, values }
    }

    pub(crate) fn view(&self) -> KvView<'_> {
        KvView::new(self.shape, self.tokens, &self.keys, &self.values).unwrap()
    }
}

/// The cache with the rows of a payload in the place of its own.
pub(crate) fn replaced(cache: &Cache, payload: &Payload) -> Cache {
    let (mut again, batch) = (cache.clone(), payload.header.batch());
    for layer in &payload.layers {
        for (side, to, row) in [
            (Side::Keys, &mut again.keys, cache.shape.key_row()),
            (Side::Values, &mut again.values, cache.shape.value_row()),
        ] {
            let Some(rows) = payload.layer(*layer, side) else { continue };
            let mut received = rows.values.chunks_exact(row);
            for plane in (0..batch).map(|number| usize::from(*layer) * batch + number) {
                for token in rows.tokens {
                    let start = (plane * cache.tokens + *token as usize) * row;
                    to[start..start + row].copy_from_slice(received.next().expect("a row each"));
                }
            }
        }
    }
    again
}

pub(crate) fn precision() -> impl Strategy<Value = Precision> {
    prop::sample::select(Precision::all().collect::<Vec<_>>())
}

fn pair() -> impl Strategy<Value = Pair> {
    let side = || prop::option::weighted(0.85, precision());
    (side(), side()).prop_map(|(keys, values)| Pair { keys, values })
}

fn granularity() -> impl Strategy<Value = Granularity> {
    use Granularity::*;
    prop_oneof![
        1 => prop::sample::select(vec![Tensor, Layer, Head]),
        1 => Just(Block),
        1 => (1u16..9).prop_map(Group),
        1 => (1u16..9).prop_map(Channel),
    ]
}

/// A cache and a plan that fits it.
pub(crate) fn sample() -> impl Strategy<Value = (Cache, Plan)> {
    let sizes = (1usize..6, 1usize..3, 1usize..4, 1usize..20, 1usize..20, 1usize..30);
    (sizes, any::<u64>(), 1usize..4).prop_flat_map(|(sizes, seed, groups)| {
        let (layers, batch, kv_heads, key_dim, value_dim, tokens) = sizes;
        let shape = KvShape { layers: layers * batch, kv_heads, key_dim, value_dim };
        let cache = Cache::new(shape, tokens, seed);
        let sent = prop::collection::vec(any::<bool>(), layers);
        // Which group each token of each block is in, if any.
        let tokens = prop::collection::vec(prop::option::of(0..groups), tokens * layers);
        let pairs = prop::collection::vec(pair(), groups * layers);
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        let scale = prop::sample::select(ScaleType::ALL.to_vec());
        let per_block = (1usize..5, granularity(), scale);
        (Just((cache, batch, groups)), sent, tokens, pairs, flags, per_block).prop_map(
            |((cache, batch, groups), sent, tokens, pairs, flags, (block, granularity, scale))| {
                let plan = plan(&cache, batch, groups, &sent, &tokens, &pairs, flags, block);
                (cache, Plan { granularity, scale, ..plan })
            },
        )
    })
}

#[allow(clippy::too_many_arguments)]
fn plan(
    cache: &Cache,
    batch: usize,
    groups: usize,
    sent: &[bool],
    tokens: &[Option<usize>],
    pairs: &[Pair],
    (each, precision_each, asymmetric, align8, upgrade): (bool, bool, bool, bool, bool),
    layers_per_block: usize,
) -> Plan {
    let mut plan = Plan::new(1, Vec::new());
    plan.layers = (0..sent.len() as u16).filter(|layer| sent[usize::from(*layer)]).collect();
    if plan.layers.is_empty() {
        plan.layers = vec![sent.len() as u16 - 1];
    }
    plan.layers_per_block = layers_per_block.min(plan.layers.len());
    (plan.batch, plan.asymmetric, plan.align8, plan.upgrade) = (batch, asymmetric, align8, upgrade);
    let list = |block: usize, group: usize| -> Vec<u32> {
        let of_block = &tokens[block * cache.tokens..][..cache.tokens];
        (0..).zip(of_block).filter(|(_, g)| **g == Some(group)).map(|(t, _)| t).collect()
    };
    for group in 0..groups {
        let lists = (0..plan.blocks()).map(|block| list(block, group)).collect::<Vec<_>>();
        let pairs = (0..plan.blocks()).map(|block| pairs[block * groups + group]);
        let pairs = pairs.collect::<Vec<_>>();
        plan.groups.push(Group {
            tokens: if each { PerBlock::Each(lists) } else { PerBlock::Same(lists[0].clone()) },
            precision: if precision_each {
                PerBlock::Each(pairs)
            } else {
                PerBlock::Same(pairs[0])
            },
        });
    }
    plan
}
