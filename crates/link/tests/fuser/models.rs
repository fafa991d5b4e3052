//! Two small models of different shapes, with weights as large as after training, and prompts.

use std::sync::Arc;

use smidgen_codec::{Ledger, Rng};
use smidgen_link::align::Alignment;
use smidgen_link::fuse::{
    FuserConfig, FuserData, FuserFacts, FuserTraining, Item, LoadedFuser, PairShape,
};
use smidgen_link::{KvCache, Side};
use smidgen_model::{Decoder, KeySpace, Spec};
use smidgen_tensor::{Compute, Device, Keep, Params, Role};

pub(crate) const SPACES: [KeySpace; 2] = [KeySpace::PostRope, KeySpace::PreRope];

pub(crate) fn device() -> Device {
    Device::cpu(Ledger::new(), 2)
}

pub(crate) fn sharer_spec() -> Spec {
    let spec = Spec { layers: 3, kv_heads: 2, qk_norm: true, ..Spec::new(61, 32, 3, 4, 48, 64) };
    Spec { tied: true, rope_theta: 500.0, ..spec }
}

pub(crate) fn receiver_spec() -> Spec {
    Spec { layers: 2, kv_heads: 2, head_dim: 6, qkv_bias: true, ..Spec::new(53, 24, 2, 4, 40, 64) }
}

pub(crate) fn side(device: &Device, compute: Compute, spec: Spec, seed: u64) -> Side {
    let mut params = Params::new();
    let decoder = Decoder::new(device, spec, &mut params).unwrap();
    decoder.init(&mut params, seed);
    for (_, param) in params.iter_mut().filter(|(_, param)| param.role != Role::Norm) {
        param.value.slice_mut::<f32>().iter_mut().for_each(|x| *x *= 6.0);
    }
    Side { device: device.clone(), compute, decoder, params }
}

pub(crate) fn sharer(device: &Device, compute: Compute) -> Side {
    side(device, compute, sharer_spec(), 1)
}

pub(crate) fn receiver(device: &Device, compute: Compute) -> Side {
    side(device, compute, receiver_spec(), 2)
}

pub(crate) fn config(variant: &str, k_space: KeySpace) -> FuserConfig {
    FuserConfig {
        variant: variant.into(),
        hidden: 20,
        inner: 28,
        fuser_rank: 8,
        dropout: 0.1,
        zero_init: false,
        k_space,
        ..FuserConfig::default()
    }
}

pub(crate) fn pair(sharer: &Side, receiver: &Side) -> PairShape {
    PairShape::new(sharer.kv_shape(), receiver.kv_shape())
}

pub(crate) fn facts(sharer: &Side, receiver: &Side) -> FuserFacts {
    let (sharer, receiver) = (sharer.fingerprint(), receiver.fingerprint());
    FuserFacts { sharer, receiver, steps: 7, ..FuserFacts::default() }
}

/// A fuser that changes much, with all its gates open.
pub(crate) fn open_fuser(config: FuserConfig, sharer: &Side, receiver: &Side) -> LoadedFuser {
    let facts = facts(sharer, receiver);
    let mut fuser =
        LoadedFuser::fresh(&receiver.device, config, pair(sharer, receiver), facts, 3).unwrap();
    let rng = Rng::named(4, "open");
    for (id, param) in fuser.params.iter_mut() {
        match param.role {
            Role::Gate => param.fill(|_, values| values.fill(0.5)),
            _ => param.fill(|at, values| {
                rng.fill_normal(id.index() as u64, at as u64, 0.3, values);
            }),
        }
    }
    fuser
}

pub(crate) fn tokens(count: usize, vocab: u64, seed: u64) -> Vec<u32> {
    let rng = Rng::named(seed, "tokens");
    (0..count as u64).map(|i| rng.below(0, 0, i, vocab) as u32).collect()
}

/// Prompts of several lengths. Every third token of the receiver is two of the sharer's, and one has
/// nothing that stands for it.
pub(crate) fn item(seed: u64) -> Item {
    let count = 6 + (seed % 4) as usize * 3;
    let receiver: Vec<_> = (0..count).map(|i| i * 2..i * 2 + if i == 2 { 0 } else { 2 }).collect();
    let mut sharer = Vec::new();
    for i in 0..count {
        match i % 3 {
            0 => sharer.extend([i * 2..i * 2 + 1, i * 2 + 1..i * 2 + 2]),
            _ => sharer.push(i * 2..i * 2 + 2),
        }
    }
    let overlap = smidgen_link::align::Overlap::MeanOverlap;
    Item {
        sharer: tokens(sharer.len(), 61, seed),
        receiver: tokens(count, 53, seed + 100),
        alignment: Alignment::by_spans(&receiver, &sharer, overlap),
        response: tokens(1 + (seed % 3) as usize, 53, seed + 200),
        response_bytes: 2,
    }
}

pub(crate) fn items(seeds: std::ops::Range<u64>) -> Vec<Item> {
    seeds.map(item).collect()
}

pub(crate) fn shared(sharer: &Side, items: &[Item], space: KeySpace) -> Vec<KvCache> {
    let prompts: Vec<&[u32]> = items.iter().map(|item| &*item.sharer).collect();
    sharer.read(&prompts, space).unwrap()
}

pub(crate) fn data() -> FuserData {
    FuserData { train: items(0..10), val: items(50..55) }
}

pub(crate) fn training(steps: u64) -> FuserTraining {
    let (batch, micro_batches, keep) = (3, 2, Keep::Values);
    FuserTraining { steps, batch, micro_batches, seed: 5, any_rate: None, keep }
}

pub(crate) fn sharer_arc(device: &Device, compute: Compute) -> Arc<Side> {
    Arc::new(sharer(device, compute))
}
