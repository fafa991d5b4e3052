//! What is known of a fuser before it is tested: which changes it makes, what each precision loses of
//! them, a regressor by which the sharer can guess them, and which sizes to weigh tokens by. All of it
//! from questions of the training split.

use std::collections::BTreeMap;

use smidgen_tensor::Tensor;

use super::ends::Prepared;
use super::pair::Prompt;
use crate::fuse::LoadedFuser;
use crate::message::{self, Received};
use crate::plan::{
    Calibration, CalibrationSums, ContainerModel, Layout, allocate, allocator_by_name, full_bytes,
};
use crate::select::{AtReceiver, DeltaHat, Scene};
use crate::wire::{Plan, Precision};
use crate::{Error, KvCache, Receiver};

/// Examples that are looked at.
pub(super) const EXAMPLES: usize = 64;
/// What allocators may choose from.
pub(super) const CANDIDATES: [Precision; 2] = [Precision::Int4, Precision::Int8];
/// What one layer is degraded to, to see whether it matters.
const COARSE: Precision = Precision::Int2;
/// What may weigh tokens under a cap: whatever is a size and needs nothing of the receiver's.
const WEIGHERS: [&str; 3] = ["delta_hat", "knorm_topk", "vnorm_topk"];
/// The allocator with which they are tried, and the part of the whole cache in int8 that it may spend.
const TRIED: (&str, u64) = ("rd_hull", 4);
/// Penalty of the regressor.
const RIDGE: f32 = 1e-2;

/// The receiver's cache before and after fusing, each row at the sharer's token that stands for it; of
/// several rows at one token the last.
pub(super) struct Change {
    own: KvCache,
    fused: KvCache,
}

impl Change {
    /// What fusing makes of what arrived, every token of it.
    pub(super) fn of(
        receiver: &Receiver<'_>,
        prompt: &Prompt,
        received: &Received,
    ) -> Result<Change, Error> {
        let read = receiver.read(&[&prompt.receiver])?;
        let front = receiver.fused(&read, Some(&[received.arrival(&prompt.alignment)]))?;
        let (side, tokens) = (receiver.side(), received.cache.tokens());
        let make = || KvCache::zeroed(side.device.ledger(), side.kv_shape(), tokens);
        let mut change = Change { own: make()?, fused: make()? };
        for (layer, own) in read.base().layers().iter().enumerate() {
            let (keys, values) = &front.layers[layer];
            for row in 0..read.base().lens()[0] {
                let Some(piece) = prompt.alignment.of(row).last() else { continue };
                let token = piece.token as usize;
                for (to, keys, values) in
                    [(&mut change.own, &own.keys, &own.values), (&mut change.fused, keys, values)]
                {
                    to.key_mut(layer, token).copy_from_slice(line(keys, row));
                    to.value_mut(layer, token).copy_from_slice(line(values, row));
                }
            }
        }
        Ok(change)
    }

    /// For selectors that may look.
    pub(super) fn seen<'a>(&'a self, receiver: &'a Receiver<'_>) -> AtReceiver<'a> {
        let source_of = receiver.fuser().fuser.sources();
        AtReceiver { own: self.own.view(), fused: self.fused.view(), source_of }
    }
}

fn line(rows: &Tensor, row: usize) -> &[f32] {
    &rows.slice::<f32>()[row * rows.cols()..][..rows.cols()]
}

/// What came out.
pub(super) struct Known {
    pub(super) calibration: Calibration,
    pub(super) delta_hat: DeltaHat,
    /// Of the sharer: those that anybody reads.
    pub(super) layers: Vec<usize>,
}

impl Known {
    /// Looks at examples with their right answers in the receiver's tokens; none where no gate is open,
    /// for nothing is sent then.
    ///
    /// # Errors
    /// Those of models, wire and fits.
    pub(super) fn of(
        receiver: &Receiver<'_>,
        examples: &Prepared,
        ids: Vec<String>,
        responses: &[Vec<u32>],
        seed: u64,
    ) -> Result<Option<Known>, Error> {
        let (fuser, device) = (receiver.fuser(), &receiver.side().device);
        let needed = fuser.fuser.needed(&fuser.params);
        let layers: Vec<usize> =
            (0..needed.len()).filter(|layer| needed[*layer] != [false; 2]).collect();
        if layers.is_empty() {
            return Ok(None);
        }
        let sent = |place: usize, precision| -> Result<Received, Error> {
            let cache = &examples.caches[place];
            let plan = message::whole(fuser, cache.tokens(), precision);
            Received::through(device, cache.view(), &plan.expect("a gate is open"))
        };
        let mut sums = CalibrationSums::new(needed.len());
        let mut rise = vec![0.0; needed.len()];
        let mut changes = Vec::with_capacity(ids.len());
        for (place, (prompt, response)) in examples.prompts.iter().zip(responses).enumerate() {
            let exact = sent(place, Precision::F32)?;
            let change = Change::of(receiver, prompt, &exact)?;
            let targets = |layer: &usize| {
                let source = *layer;
                let reads = move |(_, from): &(usize, &Option<usize>)| **from == Some(source);
                fuser.fuser.sources().iter().enumerate().filter(reads).map(|(target, _)| target)
            };
            for layer in &layers {
                for target in targets(layer) {
                    for [fused, own] in rows(&change.fused, &change.own, target) {
                        sums.add_change(*layer, fused, own);
                    }
                }
            }
            for precision in CANDIDATES {
                let coarse = Change::of(receiver, prompt, &sent(place, precision)?)?;
                for layer in &layers {
                    for target in targets(layer) {
                        for [coarse, fused] in rows(&coarse.fused, &change.fused, target) {
                            sums.add_loss(*layer, precision, coarse, fused);
                        }
                    }
                }
            }
            let read = receiver.read(&[&prompt.receiver])?;
            let loss = |received: &Received| -> Result<f64, Error> {
                let arrival = [received.arrival(&prompt.alignment)];
                Ok(receiver.nll(&read, Some(&arrival), &[response])?[0])
            };
            let (least, coarse) = (loss(&exact)?, sent(place, COARSE)?);
            for layer in &layers {
                let mut one = sent(place, Precision::F32)?;
                for token in 0..one.cache.tokens() {
                    let from = coarse.cache.view();
                    one.cache.key_mut(*layer, token).copy_from_slice(from.key(*layer, token));
                    one.cache.value_mut(*layer, token).copy_from_slice(from.value(*layer, token));
                }
                rise[*layer] += loss(&one)? - least;
            }
            changes.push(change);
        }
        let weights = rise.iter().map(|rise| (rise / ids.len() as f64).max(0.0) as f32).collect();
        let calibration = sums.finish(&fuser.fingerprint(), seed, ids, weights)?;
        let scene = |(place, change): (usize, _)| Scene {
            receiver: Some(Change::seen(change, receiver)),
            ..Scene::of_sharer(seed, place as u64, examples.caches[place].view())
        };
        let scenes: Vec<Scene<'_>> = changes.iter().enumerate().map(scene).collect();
        let delta_hat = DeltaHat::fit(&fuser.fingerprint(), &scenes, &layers, RIDGE)?;
        let known = Known { calibration, delta_hat, layers };
        let mut weigher_losses = BTreeMap::new();
        for weigher in WEIGHERS {
            let mut sum = 0.0;
            for ((cache, prompt), response) in
                examples.caches.iter().zip(&examples.prompts).zip(responses)
            {
                let cap_bytes = full_bytes(cache.shape(), cache.tokens()) / TRIED.1;
                let plan = known.budgeted(fuser, cache, [weigher, TRIED.0], cap_bytes)?;
                let received =
                    plan.map(|plan| Received::through(device, cache.view(), &plan)).transpose()?;
                let arrivals = received.as_ref().map(|it| [it.arrival(&prompt.alignment)]);
                let read = receiver.read(&[&prompt.receiver])?;
                let arrivals = arrivals.as_ref().map(|arrivals| &arrivals[..]);
                sum += receiver.nll(&read, arrivals, &[response])?[0];
            }
            weigher_losses.insert(weigher.into(), sum / responses.len() as f64);
        }
        let calibration = known.calibration.with_weighers(weigher_losses)?;
        Ok(Some(Known { calibration, ..known }))
    }

    /// What an allocator sends under a cap, tokens weighed by the sizes of a selector that the sharer can
    /// compute, precisions by the calibration; none where nothing fits.
    pub(super) fn budgeted(
        &self,
        fuser: &LoadedFuser,
        cache: &KvCache,
        [weigher, allocator]: [&str; 2],
        cap_bytes: u64,
    ) -> Result<Option<Plan>, Error> {
        let needed = fuser.fuser.needed(&fuser.params);
        let recipes = CANDIDATES.map(|precision| message::recipe(&needed, [precision; 2]));
        // The blocks of the encoder, so that its bytes are the model's.
        let whole = message::whole(fuser, cache.tokens(), Precision::Int8);
        let block_layers = whole.map(|plan| plan.layers_per_block);
        let layout = Layout { block_layers, ..Layout::default() };
        let model = ContainerModel::new(cache.shape(), cache.tokens(), layout, recipes.to_vec())?;
        let scene =
            Scene { regressor: Some(&self.delta_hat), ..Scene::of_sharer(0, 0, cache.view()) };
        let allocator = allocator_by_name(allocator)?;
        let scope: Vec<u32> = (0..cache.tokens() as u32).collect();
        let (weights, distortions) = self.calibration.weigh(&scope, &recipes, &scene, weigher)?;
        let chosen = allocate(allocator, &model, &scope, &weights, &distortions, cap_bytes)?;
        let sent = chosen.groups.into_iter().map(|group| (group.tokens, CANDIDATES[group.recipe]));
        let sent: Vec<_> = sent.collect();
        Ok(if sent.is_empty() { None } else { message::groups(fuser, sent) })
    }
}

/// Keys and values of a layer in two caches.
fn rows<'a>(first: &'a KvCache, second: &'a KvCache, layer: usize) -> [[&'a [f32]; 2]; 2] {
    let part = |all: &'a [f32], row: usize| &all[layer * row..][..row];
    let both = [first, second].map(|cache| {
        let kv = cache.view();
        let [keys, values] = [kv.shape.key_row(), kv.shape.value_row()].map(|row| row * kv.tokens);
        [part(kv.keys, keys), part(kv.values, values)]
    });
    [0, 1].map(|half| both.each_ref().map(|parts| parts[half]))
}
