//! What is measured: the link in several precisions and shares of tokens, and the controls that show
//! that the gain is communication.
//!
//! Every line answers the same items through the same scorer. A line is what is delivered for an item:
//! nothing, a cache that passed through a container, zeros, the cache of another item.
//! A choice of tokens by the change at the receiver is an upper bound: no sharer could make it.

use std::cell::OnceCell;

use smidgen_data::Tokenizer;
use smidgen_model::Session;

use super::known::{CANDIDATES, Change, Known};
use super::pair::{Model, Prompt};
use crate::fuse::{LoadedFuser, Present};
use crate::message::{self, Received};
use crate::plan::{self, LayerScores};
use crate::plan::{ContainerModel, Layout, allocate, allocator_by_name, full_bytes};
use crate::select::{DeltaHatSelector, Needs, Scene, selector_by_name};
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
                let is_bound = selector_by_name(selector).is_ok_and(|s| s.needs().is_upper_bound());
                let bound = if is_bound { " (upper bound)" } else { "" };
                format!("{selector} p={share} {}{bound}", precision.name())
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
    Line::Share("delta_hat", 0.25, Precision::Int8),
    Line::Share("proj_vnorm_topk", 0.25, Precision::Int8),
    Line::Share("delta_proj_vnorm_topk", 0.25, Precision::Int8),
    Line::Share("delta_kv", 0.25, Precision::Int8),
    Line::Share("oracle", 0.25, Precision::Int8),
    Line::Budget("rd_greedy_v0", 32),
    Line::Budget("rd_hull", 32),
    Line::Budget("rd_greedy_v0", 16),
    Line::Budget("rd_hull", 16),
    Line::Budget("rd_greedy_v0", 8),
    Line::Budget("rd_hull", 8),
    Line::Budget("rd_lagrange", 8),
    Line::Budget("rd_dp", 8),
    Line::Budget("rd_greedy_v0", 4),
    Line::Budget("rd_hull", 4),
    Line::Budget("rd_greedy_v0", 2),
    Line::Budget("rd_hull", 2),
];

/// Lines that are compared item by item: the first less the second.
pub(super) const COMPARED: &[[&str; 2]] = &[
    ["c2c int8", "c2c f16"],
    ["c2c int4", "c2c f16"],
    ["c2c f16", "shuffled payload"],
    ["c2c f16", IDENTICAL],
    ["c2c f16", TUNED],
    ["delta_hat p=0.25 int8", "back p=0.25 int8"],
    ["delta_hat p=0.25 int8", "random p=0.25 int8"],
    [DELTA, "back p=0.25 int8"],
    [DELTA, "random p=0.25 int8"],
    ["rd_hull 1/32", "rd_greedy_v0 1/32"],
    ["rd_hull 1/16", "rd_greedy_v0 1/16"],
    ["rd_hull 1/8", "rd_greedy_v0 1/8"],
    ["rd_hull 1/4", "rd_greedy_v0 1/4"],
    ["rd_hull 1/2", "rd_greedy_v0 1/2"],
];

/// Name of the line of the receiver as its own sharer.
pub(super) const IDENTICAL: &str = "identical sharer c2c f16";
/// Name of the line of the receiver that was taught what the fuser learns from.
pub(super) const TUNED: &str = "receiver fine-tuned on the fuser's data";
const DELTA: &str = "delta_proj_vnorm_topk p=0.25 int8 (upper bound)";

/// Items with the caches that the sharer made of them.
pub(super) struct Prepared {
    pub(super) prompts: Vec<Prompt>,
    pub(super) caches: Vec<KvCache>,
    clusters: Vec<u64>,
    /// What fusing the whole cache in int8 changes, where somebody asked.
    changes: Vec<OnceCell<Change>>,
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
        let clusters = items.iter().map(|item| item.cluster).collect();
        let changes = items.iter().map(|_| OnceCell::new()).collect();
        Ok(Prepared { prompts, caches, clusters, changes })
    }

    /// What arrives for an item; none where nothing is sent.
    pub(super) fn deliver(
        &self,
        receiver: &Receiver<'_>,
        known: Option<&Known>,
        line: Line,
        place: usize,
    ) -> Result<Option<Received>, Error> {
        let (device, fuser) = (&receiver.side().device, receiver.fuser());
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
                let layers = sent_layers(&needed);
                let Some(known) = known.filter(|_| !layers.is_empty()) else { return Ok(None) };
                let scene = Scene {
                    regressor: Some(&known.delta_hat),
                    receiver: match selector_by_name(selector)?.needs() {
                        Needs::Receiver => Some(self.change(receiver, place)?.seen(receiver)),
                        _ => None,
                    },
                    ..Scene::of_sharer(0, place as u64, cache.view())
                };
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
                let Some(known) = known.filter(|_| !layers.is_empty()) else { return Ok(None) };
                self.budgeted(receiver, known, (allocator, part), place, &layers)
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

    fn change(&self, receiver: &Receiver<'_>, place: usize) -> Result<&Change, Error> {
        if self.changes[place].get().is_none() {
            let (device, cache) = (&receiver.side().device, &self.caches[place]);
            let plan = message::whole(receiver.fuser(), cache.tokens(), Precision::Int8);
            let plan = plan.expect("whoever asks has an open gate");
            let received = Received::through(device, cache.view(), &plan)?;
            let change = Change::of(receiver, &self.prompts[place], &received)?;
            let _ = self.changes[place].set(change);
        }
        Ok(self.changes[place].get().expect("it was just put there"))
    }

    /// Weights by the regressor that came with the fuser, distortions by its calibration: the sharer has
    /// both.
    fn budgeted(
        &self,
        receiver: &Receiver<'_>,
        known: &Known,
        (allocator, part): (&str, u32),
        place: usize,
        layers: &[usize],
    ) -> Result<Option<Received>, Error> {
        let (device, fuser) = (&receiver.side().device, receiver.fuser());
        let cache = &self.caches[place];
        let needed = fuser.fuser.needed(&fuser.params);
        let recipes = CANDIDATES.map(|precision| message::recipe(&needed, precision));
        let [int4, int8] = recipes.each_ref().map(|recipe| known.calibration.distortion(recipe));
        let distortions = [int4?, int8?];
        // The blocks of the encoder, so that its bytes are the model's.
        let whole = message::whole(fuser, cache.tokens(), Precision::Int8);
        let block_layers = whole.map(|plan| plan.layers_per_block);
        let layout = Layout { block_layers, ..Layout::default() };
        let model = ContainerModel::new(cache.shape(), cache.tokens(), layout, recipes.to_vec())?;
        let cap = full_bytes(cache.shape(), cache.tokens()) / u64::from(part);
        let scope: Vec<u32> = (0..cache.tokens() as u32).collect();
        let scene = Scene {
            regressor: Some(&known.delta_hat),
            ..Scene::of_sharer(0, place as u64, cache.view())
        };
        let weights = LayerScores::of(&DeltaHatSelector, &scene, layers)?.weights(&scope)?;
        let chosen =
            allocate(allocator_by_name(allocator)?, &model, &scope, &weights, &distortions, cap)?;
        let groups: Vec<_> = chosen
            .groups
            .into_iter()
            .map(|group| (group.tokens, [CANDIDATES[group.recipe]; 2]))
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

/// The receiver with what is delivered for each item.
pub(super) struct Linked<'a> {
    receiver: &'a Receiver<'a>,
    session: Session<'a>,
    tokenizer: Tokenizer,
    prepared: &'a Prepared,
    known: Option<&'a Known>,
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
        known: Option<&'a Known>,
        line: Line,
        capacity: usize,
    ) -> Result<Linked<'a>, Error> {
        let (session, tokenizer) = (receiver.session(capacity)?, tokenizer.clone());
        let (next, wire_bytes) = (0, Vec::new());
        Ok(Linked { receiver, session, tokenizer, prepared, known, line, next, wire_bytes })
    }
}

impl Reader for Linked<'_> {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn read(&mut self, _: &Item) -> Result<Vec<f32>, Error> {
        let place = self.next;
        self.next += 1;
        let received = self.prepared.deliver(self.receiver, self.known, self.line, place)?;
        self.wire_bytes.push(received.as_ref().map_or(0.0, |received| received.wire_bytes as f64));
        let prompt = &self.prepared.prompts[place];
        let arrival = received.as_ref().map(|received| received.arrival(&prompt.alignment));
        self.receiver.begin(&mut self.session, &prompt.receiver, arrival.as_ref())
    }

    fn follow(&mut self, token: u32) -> Result<Vec<f32>, Error> {
        Ok(self.session.feed(&[token])?)
    }
}
