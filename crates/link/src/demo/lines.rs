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
use crate::methods::{Answer, Contents, Method, Pair, Payload, Stage};
use crate::plan::{self, Budget, SelectionConfig, SelectionStats};
use crate::select::{Needs, Scene, selector_by_name};
use crate::wire::{self, Plan, Precision};
use crate::{Error, KvCache};

/// A way to answer over the link of a demonstration.
pub(super) type Linked = dyn for<'e> Method<Ends<'e>>;

/// Every way and its budget, in the order of the tables. A baseline is one file and one line here.
pub(super) static METHODS: &[(&Linked, Budget)] = &[
    (&Line::Whole(Precision::F16), Budget::Unlimited),
    (&Line::Whole(Precision::Int8), Budget::Unlimited),
    (&Line::Whole(Precision::Int4), Budget::Unlimited),
    (&Line::Whole(Precision::Nf4), Budget::Unlimited),
    (&Line::Whole(Precision::Int2), Budget::Unlimited),
    (&Line::Kept(Precision::F16, Precision::Int4), Budget::Unlimited),
    (&Line::Kept(Precision::Int4, Precision::Int4), Budget::Unlimited),
    (&Line::Shuffled, Budget::Unlimited),
    (&Line::Zeros, Budget::Unlimited),
    (&Line::Share("back", 0.5, Precision::Int8), Budget::Unlimited),
    (&Line::Share("back", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("front", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("random", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("knorm_topk", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("knorm_low", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("vnorm_topk", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("delta_hat", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("proj_vnorm_topk", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("delta_proj_vnorm_topk", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("delta_kv", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Share("oracle", 0.25, Precision::Int8), Budget::Unlimited),
    (&Line::Capped("rd_greedy_v0"), one_in(32)),
    (&Line::Capped("rd_hull"), one_in(32)),
    (&Line::Capped("rd_greedy_v0"), one_in(16)),
    (&Line::Capped("rd_hull"), one_in(16)),
    (&Line::Capped("rd_greedy_v0"), one_in(8)),
    (&Line::Capped("rd_hull"), one_in(8)),
    (&Line::Capped("rd_lagrange"), one_in(8)),
    (&Line::Capped("rd_dp"), one_in(8)),
    (&Line::Capped("rd_greedy_v0"), one_in(4)),
    (&Line::Capped("rd_hull"), one_in(4)),
    (&Line::Capped("rd_greedy_v0"), one_in(2)),
    (&Line::Capped("rd_hull"), one_in(2)),
];

/// A share of what the whole cache takes in int8.
const fn one_in(denominator: u32) -> Budget {
    Budget::Share { numerator: 1, denominator }
}

/// What is delivered for each item.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// Every token in one precision.
    Whole(Precision),
    /// Every token in one precision, to a receiver that keeps its own cache in another.
    Kept(Precision, Precision),
    /// The tokens a selector puts first.
    Share(&'static str, f64, Precision),
    /// The tokens of an allocator under the cap.
    Capped(&'static str),
    /// The cache of another item in the place of the right one.
    Shuffled,
    /// Zeros in the place of the cache.
    Zeros,
}

/// What one line sends of the cache in a place.
struct Sent {
    /// None where it is nothing.
    plan: Option<Plan>,
    selection: Option<SelectionStats>,
}

/// Lines that are compared item by item: the first less the second.
pub(super) const COMPARED: &[[&str; 2]] = &[
    ["c2c int8", LINKED],
    ["c2c int4", LINKED],
    ["c2c f16 own int4", LINKED],
    ["c2c int4 own int4", "c2c int4"],
    [LINKED, SHUFFLED],
    [LINKED, SHARER],
    [LINKED, IDENTICAL],
    [LINKED, TUNED],
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

/// Name of the line of the whole cache in f16.
pub(super) const LINKED: &str = "c2c f16";
/// Name of the line of the sharer itself.
pub(super) const SHARER: &str = "sharer alone";
/// Name of the line of the cache of another item.
pub(super) const SHUFFLED: &str = "shuffled payload";
/// Name of the line of zeros.
pub(super) const ZEROS: &str = "zero payload";
/// Name of the line of the receiver as its own sharer.
pub(super) const IDENTICAL: &str = "identical sharer c2c f16";
/// Name of the line of the receiver that was taught what the fuser learns from.
pub(super) const TUNED: &str = "receiver fine-tuned on the fuser's data";
pub(super) const DELTA: &str = "delta_proj_vnorm_topk p=0.25 int8 (upper bound)";
pub(super) const DELTA_KV: &str = "delta_kv p=0.25 int8 (upper bound)";

impl<'a> Method<Ends<'a>> for Line {
    fn name(&self) -> String {
        match self {
            Line::Whole(precision) => format!("c2c {}", precision.name()),
            Line::Kept(sent, kept) => format!("c2c {} own {}", sent.name(), kept.name()),
            Line::Share(selector, share, precision) => {
                format!("{selector} p={share} {}", precision.name())
            }
            Line::Capped(allocator) => (*allocator).into(),
            Line::Shuffled => SHUFFLED.into(),
            Line::Zeros => ZEROS.into(),
        }
    }

    fn is_upper_bound(&self) -> bool {
        let Line::Share(selector, ..) = self else { return false };
        selector_by_name(selector).is_ok_and(|selector| selector.needs().is_upper_bound())
    }

    fn selection(&self) -> Option<SelectionConfig> {
        let Line::Share(mode, proportion, _) = *self else { return None };
        Some(SelectionConfig { mode: mode.into(), proportion, ..SelectionConfig::default() })
    }

    fn allocator(&self) -> Option<&'static str> {
        let Line::Capped(allocator) = self else { return None };
        Some(allocator)
    }

    fn answer(
        &self,
        ends: &mut Ends<'a>,
        asked: &Asked<'a>,
        cap_bytes: Option<u64>,
    ) -> Result<Answer, Error> {
        let (started, prepared) = (Instant::now(), ends.prepared);
        let Sent { plan, selection } = ends.sent(self, asked.place, cap_bytes)?;
        let prefill = prepared.prefill_ms[asked.place];
        let mut timings_ms: BTreeMap<_, _> = [(Stage::PrefillSharer, prefill)].into();
        if !Method::<Ends<'_>>::is_upper_bound(self) {
            timings_ms.insert(Stage::Select, since(started));
        }
        let payload = match plan {
            None => Payload::empty(),
            Some(plan) => {
                let instead = ends.instead(self, asked.place)?;
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
        ends.kept = if let Line::Kept(_, precision) = self { Some(*precision) } else { None };
        let reply = ends.apply(asked, &payload);
        // The next way finds the receiver as it was.
        ends.kept = None;
        let reply = reply?;
        timings_ms.extend(&reply.timings_ms);
        timings_ms.insert(Stage::EndToEnd, prefill + since(started));
        Ok(Answer { reply, payload, selection, timings_ms })
    }
}

/// What lines send.
impl Ends<'_> {
    fn sent(&self, line: &Line, place: usize, cap_bytes: Option<u64>) -> Result<Sent, Error> {
        let cache = &self.prepared.caches[place];
        let plain = |plan| Ok(Sent { plan, selection: None });
        let whole = |precision| plain(message::whole(self.fuser(), cache.tokens(), precision));
        match line {
            Line::Whole(precision) | Line::Kept(precision, _) => whole(*precision),
            Line::Shuffled | Line::Zeros => whole(Precision::F16),
            Line::Share(selector, _, precision) => {
                let Some(known) = self.known else { return plain(None) };
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
                let config = Method::<Ends<'_>>::selection(line).expect("this line selects");
                let marks = plan::Marks::of(cache.tokens());
                let mut chosen = config.select(&scene, &marks, &known.layers)?;
                let groups = [(chosen.lists.remove(0), *precision)];
                let plan = message::groups(self.fuser(), groups);
                Ok(Sent { plan, selection: Some(chosen.stats) })
            }
            Line::Capped(allocator) => {
                let Some(known) = self.known else { return plain(None) };
                let weigher = known.calibration.weigher().expect("it was tried what weighs tokens");
                let cap_bytes = cap_bytes.unwrap_or(u64::MAX);
                plain(known.budgeted(self.fuser(), cache, [weigher, allocator], cap_bytes)?)
            }
        }
    }

    /// What a line sends in the place of the cache; none for the cache itself.
    fn instead(&self, line: &Line, place: usize) -> Result<Option<KvCache>, Error> {
        let cache = &self.prepared.caches[place];
        let make = || {
            let ledger = self.receiver.side().device.ledger();
            KvCache::zeroed(ledger, cache.shape(), cache.tokens())
        };
        match line {
            Line::Zeros => make().map(Some),
            Line::Shuffled => {
                let other = &self.prepared.caches[self.prepared.another(place)?];
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
