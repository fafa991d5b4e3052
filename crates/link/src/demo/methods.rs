//! What is measured: the link in several precisions and shares of tokens, and the controls that show
//! that the gain is communication.
//!
//! Every line answers the same items through the same scorer. A line is what is delivered for an item:
//! nothing, a cache that passed through a container, zeros, the cache of another item.

use smidgen_data::Tokenizer;
use smidgen_model::Session;
use smidgen_tensor::Device;

use super::pair::{Model, Prompt};
use crate::fuse::{LoadedFuser, Present};
use crate::message::{self, Received};
use crate::plan::{self, LayerScores};
use crate::plan::{ContainerModel, Layout, Recipe, allocate, allocator_by_name, full_bytes};
use crate::select::{Scene, selector_by_name};
use crate::wire::Precision;
use crate::world::{Item, Reader};
use crate::{Error, KvCache, Receiver};

/// What is delivered for each item.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    /// Every token in one precision.
    Whole(Precision),
    /// The tokens a selector puts first.
    Share(&'static str, f64, Precision),
    /// The tokens of an allocator under a share of what the whole cache takes in int8.
    Budget(&'static str, u32),
    /// The cache of another item in the place of the right one.
    Shuffled,
    /// Zeros in the place of the cache.
    Zeros,
}

impl Line {
    pub(super) fn name(self) -> String {
        match self {
            Line::Whole(precision) => format!("c2c {}", precision.name()),
            Line::Share(selector, share, precision) => {
                format!("{selector} p={share} {}", precision.name())
            }
            Line::Budget(allocator, part) => format!("{allocator} 1/{part}"),
            Line::Shuffled => "shuffled payload".into(),
            Line::Zeros => "zero payload".into(),
        }
    }
}

/// The lines of every task.
pub(super) const LINES: &[Line] = &[
    Line::Whole(Precision::F16),
    Line::Whole(Precision::Int8),
    Line::Whole(Precision::Int4),
    Line::Whole(Precision::Nf4),
    Line::Whole(Precision::Int2),
    Line::Shuffled,
    Line::Zeros,
    Line::Share("back", 0.5, Precision::Int8),
    Line::Share("back", 0.25, Precision::Int8),
    Line::Share("front", 0.25, Precision::Int8),
    Line::Share("random", 0.25, Precision::Int8),
    Line::Share("knorm_topk", 0.25, Precision::Int8),
    Line::Share("knorm_low", 0.25, Precision::Int8),
    Line::Share("vnorm_topk", 0.25, Precision::Int8),
    Line::Budget("rd_greedy_v0", 8),
    Line::Budget("rd_hull", 8),
    Line::Budget("rd_greedy_v0", 4),
    Line::Budget("rd_hull", 4),
];

/// Items with the caches that the sharer made of them.
pub(super) struct Prepared {
    pub(super) prompts: Vec<Prompt>,
    pub(super) caches: Vec<KvCache>,
    clusters: Vec<u64>,
}

impl Prepared {
    pub(super) fn new(
        items: &[Item],
        sharer: &Model,
        receiver: &Model,
        fuser: &LoadedFuser,
    ) -> Result<Prepared, Error> {
        let space = fuser.fuser.config().k_space;
        let prompts = items.iter().map(|item| Prompt::new(item, sharer, receiver));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let caches = prompts.iter().map(|prompt| prompt.cache(&sharer.side, space));
        let caches = caches.collect::<Result<Vec<_>, _>>()?;
        Ok(Prepared { prompts, caches, clusters: items.iter().map(|item| item.cluster).collect() })
    }

    /// What arrives for an item; none where nothing is sent.
    pub(super) fn deliver(
        &self,
        device: &Device,
        fuser: &LoadedFuser,
        line: Line,
        place: usize,
    ) -> Result<Option<Received>, Error> {
        let cache = &self.caches[place];
        let (shape, tokens) = (cache.shape(), cache.tokens());
        let needed = fuser.fuser.needed(&fuser.params);
        let space = fuser.fuser.config().k_space;
        let through = |groups: &[(Vec<u32>, [Precision; 2])]| {
            let plan = message::plan(&needed, groups, space);
            plan.map(|plan| Received::through(device, cache.view(), &plan)).transpose()
        };
        match line {
            Line::Whole(precision) => through(&[((0..tokens as u32).collect(), [precision; 2])]),
            Line::Share(selector, share, precision) => {
                let scene = Scene::of_sharer(0, place as u64, cache.view());
                let layers = sent_layers(&needed);
                if layers.is_empty() {
                    return Ok(None);
                }
                let config = plan::SelectionConfig {
                    mode: selector.into(),
                    proportion: share,
                    ..plan::SelectionConfig::default()
                };
                let marks = plan::Marks::of(tokens);
                let chosen = config.select(&scene, &marks, &layers)?.lists.remove(0);
                through(&[(chosen, [precision; 2])])
            }
            Line::Budget(allocator, part) => {
                let layers = sent_layers(&needed);
                if layers.is_empty() {
                    return Ok(None);
                }
                self.budgeted(device, fuser, (allocator, part), place, &layers)
            }
            Line::Shuffled => {
                let other = self.another(place);
                let mut moved = KvCache::zeroed(device.ledger(), shape, tokens)?;
                let (from, most) = (self.caches[other].view(), self.caches[other].tokens());
                for layer in 0..shape.layers {
                    for token in 0..tokens.min(most) {
                        moved.key_mut(layer, token).copy_from_slice(from.key(layer, token));
                        moved.value_mut(layer, token).copy_from_slice(from.value(layer, token));
                    }
                }
                let plan = message::whole(fuser, tokens, Precision::F16);
                plan.map(|plan| Received::through(device, moved.view(), &plan)).transpose()
            }
            Line::Zeros => {
                let cache = KvCache::zeroed(device.ledger(), shape, tokens)?;
                Ok(Some(Received { cache, present: Present::All, wire_bytes: 0 }))
            }
        }
    }

    /// The nearest item behind this one that is about something else and as long, or as it comes.
    fn another(&self, place: usize) -> usize {
        let count = self.caches.len();
        let others = || (1..count).map(|step| (place + step) % count);
        let differs = |other: &usize| self.clusters[*other] != self.clusters[place];
        let as_long = |other: &usize| self.caches[*other].tokens() == self.caches[place].tokens();
        others().filter(differs).find(as_long).or_else(|| others().find(differs)).unwrap_or(place)
    }

    /// The squared error of a precision as a share of the squares of what is needed of a cache: what the
    /// sharer itself can know of the loss.
    fn distortion(
        &self,
        device: &Device,
        fuser: &LoadedFuser,
        precision: Precision,
        place: usize,
    ) -> Result<f64, Error> {
        let own = self.caches[place].view();
        let Some(plan) = message::whole(fuser, own.tokens, precision) else { return Ok(0.0) };
        let received = Received::through(device, own, &plan)?;
        let got = received.cache.view();
        let (mut error, mut all) = (0.0, 0.0);
        let mut add = |ours: &[f32], theirs: &[f32]| {
            for (x, y) in ours.iter().zip(theirs) {
                error += f64::from(x - y).powi(2);
                all += f64::from(*x).powi(2);
            }
        };
        for (layer, [keys, values]) in fuser.fuser.needed(&fuser.params).into_iter().enumerate() {
            for token in 0..own.tokens {
                if keys {
                    add(own.key(layer, token), got.key(layer, token));
                }
                if values {
                    add(own.value(layer, token), got.value(layer, token));
                }
            }
        }
        Ok(if all > 0.0 { (error / all).min(1.0) } else { 0.0 })
    }

    fn budgeted(
        &self,
        device: &Device,
        fuser: &LoadedFuser,
        (allocator, part): (&str, u32),
        place: usize,
        layers: &[usize],
    ) -> Result<Option<Received>, Error> {
        let cache = &self.caches[place];
        let needed = fuser.fuser.needed(&fuser.params);
        let recipes = [Precision::Int4, Precision::Int8].map(|p| recipe(&needed, p));
        let [int4, int8] = [Precision::Int4, Precision::Int8]
            .map(|precision| self.distortion(device, fuser, precision, place));
        let distortions = [int4?, int8?];
        let model = ContainerModel::new(
            cache.shape(),
            cache.tokens(),
            Layout::default(),
            recipes.to_vec(),
        )?;
        let cap = full_bytes(cache.shape(), cache.tokens()) / u64::from(part);
        let scope: Vec<u32> = (0..cache.tokens() as u32).collect();
        let scene = Scene::of_sharer(0, place as u64, cache.view());
        let scores = LayerScores::of(selector_by_name("back")?, &scene, layers)?;
        let weights = plan::weights_by_rank(&scores.shared(&scope));
        let chosen =
            allocate(allocator_by_name(allocator)?, &model, &scope, &weights, &distortions, cap)?;
        let precision = [Precision::Int4, Precision::Int8];
        let groups: Vec<_> = chosen
            .groups
            .into_iter()
            .map(|group| (group.tokens, [precision[group.recipe]; 2]))
            .collect();
        if groups.is_empty() {
            return Ok(None);
        }
        let plan = message::plan(&needed, &groups, fuser.fuser.config().k_space);
        let received =
            plan.map(|plan| Received::through(device, cache.view(), &plan)).transpose()?;
        if let Some(received) = &received
            && received.wire_bytes > cap
        {
            let what = format!("`{allocator}` under 1/{part}");
            let got_bytes = received.wire_bytes;
            return Err(Error::OverCap { what, cap_bytes: cap, got_bytes });
        }
        Ok(received)
    }
}

fn sent_layers(needed: &[[bool; 2]]) -> Vec<usize> {
    (0..needed.len()).filter(|layer| needed[*layer] != [false; 2]).collect()
}

fn recipe(needed: &[[bool; 2]], precision: Precision) -> Recipe {
    let half = |is_sent: bool| is_sent.then_some(precision);
    let layer =
        |halves: &[bool; 2]| plan::LayerPrecision { key: half(halves[0]), value: half(halves[1]) };
    Recipe { layers: needed.iter().map(layer).collect() }
}

/// The receiver with what is delivered for each item.
pub(super) struct Linked<'a> {
    receiver: &'a Receiver<'a>,
    session: Session<'a>,
    tokenizer: Tokenizer,
    prepared: &'a Prepared,
    line: Line,
    /// The place of the item that is read next.
    next: usize,
    /// Bytes that travelled for each item.
    pub(super) wire_bytes: Vec<f64>,
}

impl<'a> Linked<'a> {
    pub(super) fn new(
        receiver: &'a Receiver<'a>,
        tokenizer: &Tokenizer,
        prepared: &'a Prepared,
        line: Line,
        capacity: usize,
    ) -> Result<Linked<'a>, Error> {
        let (session, tokenizer) = (receiver.session(capacity)?, tokenizer.clone());
        Ok(Linked { receiver, session, tokenizer, prepared, line, next: 0, wire_bytes: Vec::new() })
    }
}

impl Reader for Linked<'_> {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn read(&mut self, _: &Item) -> Result<Vec<f32>, Error> {
        let (place, fuser) = (self.next, self.receiver.fuser());
        self.next += 1;
        let device = &self.receiver.side().device;
        let received = self.prepared.deliver(device, fuser, self.line, place)?;
        self.wire_bytes.push(received.as_ref().map_or(0.0, |received| received.wire_bytes as f64));
        let prompt = &self.prepared.prompts[place];
        let arrival = received.as_ref().map(|received| received.arrival(&prompt.alignment));
        self.receiver.begin(&mut self.session, &prompt.receiver, arrival.as_ref())
    }

    fn follow(&mut self, token: u32) -> Result<Vec<f32>, Error> {
        Ok(self.session.feed(&[token])?)
    }
}
