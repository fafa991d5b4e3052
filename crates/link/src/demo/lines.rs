//! What is measured: the link in several precisions and shares of tokens, and the controls that show
//! that the gain is communication.
//!
//! Every line is a [`Method`], so all answer the same items through the same scorer. It makes a container:
//! of the cache in some precision, of a choice of its tokens, of zeros, of the cache of another item.
//! A choice of tokens by the change at the receiver is an upper bound: no sharer could make it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::ends::{Asked, Ends, since};
use crate::message;
use crate::methods::{Answer, Contents, Entry, Method, Pair, Payload, Stage};
use crate::plan::{self, Budget, SelectionConfig, SelectionStats};
use crate::select::{Needs, Scene, selector_by_name};
use crate::wire::{self, Plan, Precision};
use crate::{Error, KvCache};

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
    /// The line under its budget.
    pub(super) fn entry<'l, 'e: 'l>(&'l self) -> Entry<'l, Ends<'e>> {
        let budget = match *self {
            Line::Budget(_, denominator) => Budget::Share { numerator: 1, denominator },
            _ => Budget::Unlimited,
        };
        Entry { method: self, budget }
    }

    /// How it chooses tokens, where it takes a share of them.
    pub(super) fn selection(self) -> Option<SelectionConfig> {
        let Line::Share(mode, proportion, _) = self else { return None };
        Some(SelectionConfig { mode: mode.into(), proportion, ..SelectionConfig::default() })
    }

    /// Who chooses tokens under its cap.
    pub(super) fn allocator(self) -> Option<&'static str> {
        let Line::Budget(allocator, _) = self else { return None };
        Some(allocator)
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
    [DELTA_KV, "back p=0.25 int8"],
    [DELTA_KV, "random p=0.25 int8"],
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
const DELTA_KV: &str = "delta_kv p=0.25 int8 (upper bound)";

impl<'a> Method<Ends<'a>> for Line {
    fn name(&self) -> String {
        match self {
            Line::Whole(precision) => format!("c2c {}", precision.name()),
            Line::Share(selector, share, precision) => {
                format!("{selector} p={share} {}", precision.name())
            }
            Line::Budget(allocator, _) => (*allocator).into(),
            Line::Shuffled => "shuffled payload".into(),
            Line::Zeros => "zero payload".into(),
        }
    }

    fn is_upper_bound(&self) -> bool {
        let Line::Share(selector, ..) = self else { return false };
        selector_by_name(selector).is_ok_and(|selector| selector.needs().is_upper_bound())
    }

    fn answer(
        &self,
        ends: &mut Ends<'a>,
        asked: &Asked<'a>,
        cap_bytes: Option<u64>,
    ) -> Result<Answer, Error> {
        let (started, prepared) = (Instant::now(), ends.prepared);
        let (plan, selection) = ends.plan(*self, asked.place, cap_bytes)?;
        let prefill = prepared.prefill_ms[asked.place];
        let mut timings_ms: BTreeMap<_, _> = [(Stage::PrefillSharer, prefill)].into();
        if !self.is_upper_bound() {
            timings_ms.insert(Stage::Select, since(started));
        }
        let payload = match plan {
            None => Payload::empty(),
            Some(plan) => {
                let instead = ends.instead(*self, asked.place)?;
                let cache = instead.as_ref().unwrap_or(&prepared.caches[asked.place]);
                let planned = wire::wire_bytes(cache.shape(), cache.tokens(), &plan)?;
                let encoding = Instant::now();
                let device = &ends.receiver.side().device;
                let container = wire::encode(device, cache.view(), &plan)?;
                timings_ms.insert(Stage::Encode, since(encoding));
                let contents = Contents::of(&container, planned)?;
                Payload::kv(container, contents)
            }
        };
        let reply = ends.apply(asked, &payload)?;
        timings_ms.extend(&reply.timings_ms);
        timings_ms.insert(Stage::EndToEnd, prefill + since(started));
        Ok(Answer { reply, payload, selection, timings_ms })
    }
}

/// What lines send.
impl Ends<'_> {
    /// What is sent of the cache in this place; none where it is nothing.
    fn plan(
        &self,
        line: Line,
        place: usize,
        cap_bytes: Option<u64>,
    ) -> Result<(Option<Plan>, Option<SelectionStats>), Error> {
        let cache = &self.prepared.caches[place];
        let tokens = cache.tokens();
        let whole = |precision| message::whole(self.fuser(), tokens, precision);
        match line {
            Line::Whole(precision) => Ok((whole(precision), None)),
            Line::Shuffled | Line::Zeros => Ok((whole(Precision::F16), None)),
            Line::Share(selector, _, precision) => {
                let Some(known) = self.known else { return Ok((None, None)) };
                let scene = Scene {
                    regressor: Some(&known.delta_hat),
                    receiver: match selector_by_name(selector)?.needs() {
                        Needs::Receiver => {
                            Some(self.prepared.change(self.receiver, place)?.seen(self.receiver))
                        }
                        _ => None,
                    },
                    ..Scene::of_sharer(0, place as u64, cache.view())
                };
                let config = line.selection().expect("this line selects");
                let mut chosen = config.select(&scene, &plan::Marks::of(tokens), &known.layers)?;
                let groups = [(chosen.lists.remove(0), precision)];
                Ok((message::groups(self.fuser(), groups), Some(chosen.stats)))
            }
            Line::Budget(allocator, _) => {
                let Some(known) = self.known else { return Ok((None, None)) };
                let weigher = known.calibration.weigher().expect("it was tried what weighs tokens");
                let cap_bytes = cap_bytes.unwrap_or(u64::MAX);
                let cache = &self.prepared.caches[place];
                let plan = known.budgeted(self.fuser(), cache, [weigher, allocator], cap_bytes)?;
                Ok((plan, None))
            }
        }
    }

    /// What a line sends in the place of the cache; none for the cache itself.
    fn instead(&self, line: Line, place: usize) -> Result<Option<KvCache>, Error> {
        let cache = &self.prepared.caches[place];
        let make = || {
            let ledger = self.receiver.side().device.ledger();
            KvCache::zeroed(ledger, cache.shape(), cache.tokens())
        };
        match line {
            Line::Zeros => make().map(Some),
            Line::Shuffled => {
                let other = &self.prepared.caches[self.prepared.another(place)];
                let (mut moved, from) = (make()?, other.view());
                for layer in 0..cache.shape().layers {
                    for token in 0..cache.tokens().min(other.tokens()) {
                        moved.key_mut(layer, token).copy_from_slice(from.key(layer, token));
                        moved.value_mut(layer, token).copy_from_slice(from.value(layer, token));
                    }
                }
                Ok(Some(moved))
            }
            _ => Ok(None),
        }
    }
}
