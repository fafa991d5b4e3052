//! What of a sharer's cache travels: all of it, the tokens a selector puts first, or what a cap has
//! room for.

use std::time::{Duration, Instant};

use serde::Serialize;
use smidgen_model::KeySpace;
use smidgen_tensor::Device;

use crate::message::{self, Needed, Received};
use crate::plan::{
    ContainerModel, LayerScores, Layout, Marks, RdHull, SelectionConfig, allocate, weights_by_rank,
};
use crate::select::{Needs, Scene, selector_by_name};
use crate::wire::{Plan, Precision};
use crate::{Error, KvView};

/// Ascending tokens, and the precision of their keys and values.
type Groups = Vec<(Vec<u32>, [Precision; 2])>;

/// What is asked of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Packing {
    /// Candidates under a cap, at most five; the format of all tokens, and no other, without one.
    pub formats: Vec<Precision>,
    /// The most that the container may weigh, its header included.
    pub cap_bytes: Option<u64>,
    /// Which tokens come first: a name of [`SELECTORS`](crate::select::SELECTORS).
    pub select: String,
    /// The share of the tokens that travels where there is no cap; above 0 and at most 1.
    pub share: f64,
    /// Layers that the receiver can use before the next ones are there; none for all at once.
    pub block_layers: Option<usize>,
}

impl Default for Packing {
    /// Every token in int8.
    fn default() -> Packing {
        let formats = vec![Precision::Int8];
        let (cap_bytes, block_layers) = (None, None);
        Packing { formats, cap_bytes, select: "back".into(), share: 1.0, block_layers }
    }
}

/// What travels, or why nothing does.
#[derive(Clone, Debug, PartialEq)]
pub enum Packed {
    /// A message.
    Plan {
        /// For the encoder.
        plan: Box<Plan>,
        /// Tokens in it.
        tokens: usize,
        /// What the scores took: of tokens, and under a cap of formats. The rest is allocation.
        score: Duration,
    },
    /// Nothing: 0 bytes.
    Nothing(Empty),
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// The least message weighs more than the cap.
    CapTooSmall,
    /// No gate of the receiver's fuser is open.
    NothingNeeded,
}

impl Empty {
    /// For the receiver.
    pub fn reason(self) -> &'static str {
        match self {
            Empty::CapTooSmall => "the cap is below the smallest message",
            Empty::NothingNeeded => "no gate of the fuser is open",
        }
    }
}

impl Packing {
    /// Checks what does not depend on a cache, so that nobody is called in vain.
    ///
    /// # Errors
    /// [`Error::Value`] and [`Error::UnknownName`] for what cannot be asked, [`Error::Needs`] for a
    /// selector that reads what only a receiver has.
    pub fn check(&self) -> Result<(), Error> {
        let (most, got) = (if self.cap_bytes.is_some() { 5 } else { 1 }, self.formats.len());
        if got == 0 || got > most {
            return Err(Error::value("format", format!("1 to {most}"), got));
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(Error::value("share", "above 0 and at most 1", self.share));
        }
        let selector = selector_by_name(&self.select)?;
        match selector.needs() {
            Needs::Nothing | Needs::Sharer => Ok(()),
            needs => Err(Error::Needs { selector: selector.name(), needs: needs.what() }),
        }
    }

    /// Plans a message of `cache`, of which the layers and halves in `needed` are read.
    ///
    /// # Errors
    /// As for [`Packing::check`], those of selector and allocator.
    pub fn plan(
        &self,
        device: &Device,
        cache: KvView<'_>,
        needed: &Needed,
        space: KeySpace,
    ) -> Result<Packed, Error> {
        self.check()?;
        let layers: Vec<usize> = (0..)
            .zip(needed)
            .filter(|(_, halves)| **halves != [false; 2])
            .map(|(layer, _)| layer)
            .collect();
        if layers.is_empty() {
            return Ok(Packed::Nothing(Empty::NothingNeeded));
        }
        let scene = Scene::of_sharer(0, 0, cache);
        let (groups, score) = match self.cap_bytes {
            Some(cap) => self.under(cap, device, &scene, needed, &layers, space)?,
            None => self.at_will(&scene, &layers)?,
        };
        let tokens = groups.iter().map(|(tokens, _)| tokens.len()).sum();
        let plan = message::plan(needed, &groups, space).filter(|_| tokens > 0);
        let Some(mut plan) = plan else { return Ok(Packed::Nothing(Empty::CapTooSmall)) };
        plan.layers_per_block = self.layers_per_block(&plan);
        // A cap that the field cannot hold is beyond any container.
        plan.about.cap = self.cap_bytes.and_then(|cap| u32::try_from(cap).ok());
        Ok(Packed::Plan { plan: Box::new(plan), tokens, score })
    }

    /// Where halves differ between layers, each is a block of its own already.
    fn layers_per_block(&self, plan: &Plan) -> usize {
        let most = plan.layers_per_block;
        self.block_layers.map_or(most, |layers| layers.clamp(1, most))
    }

    fn at_will(&self, scene: &Scene<'_>, layers: &[usize]) -> Result<(Groups, Duration), Error> {
        let started = Instant::now();
        let precision = self.formats[0];
        let config = SelectionConfig {
            mode: self.select.clone(),
            proportion: self.share,
            ..SelectionConfig::default()
        };
        let chosen = config.select(scene, &Marks::of(scene.tokens()), layers)?;
        let groups = chosen.lists.into_iter().take(1).map(|tokens| (tokens, [precision; 2]));
        Ok((groups.collect(), started.elapsed()))
    }

    fn under(
        &self,
        cap_bytes: u64,
        device: &Device,
        scene: &Scene<'_>,
        needed: &Needed,
        layers: &[usize],
        space: KeySpace,
    ) -> Result<(Groups, Duration), Error> {
        let started = Instant::now();
        let cache = scene.sharer;
        let scope: Vec<u32> = (0..cache.tokens as u32).collect();
        let whole = |precision: &Precision| {
            message::plan(needed, &[(scope.clone(), [*precision; 2])], space)
                .ok_or_else(|| Error::value("needed", "at least one layer", "none"))
        };
        let (mut recipes, mut distortions) = (Vec::new(), Vec::new());
        let mut block_layers = None;
        for precision in &self.formats {
            let plan = whole(precision)?;
            block_layers = Some(self.layers_per_block(&plan));
            recipes.push(message::recipe(needed, *precision));
            distortions.push(distortion(device, cache, needed, &plan)?);
        }
        // The blocks of the encoder, so that its bytes are the model's.
        let layout = Layout { block_layers, ..Layout::default() };
        let model = ContainerModel::new(cache.shape, cache.tokens, layout, recipes)?;
        let scores = LayerScores::of(selector_by_name(&self.select)?, scene, layers)?;
        let weights = weights_by_rank(&scores.shared(&scope));
        let score = started.elapsed();
        let chosen = allocate(&RdHull, &model, &scope, &weights, &distortions, cap_bytes)?;
        let group =
            |group: crate::plan::PlannedGroup| (group.tokens, [self.formats[group.recipe]; 2]);
        Ok((chosen.groups.into_iter().map(group).collect(), score))
    }
}

/// The squared error of a message of every token, as a share of the squares of what is needed: what
/// the sharer itself can know of the loss.
fn distortion(
    device: &Device,
    cache: KvView<'_>,
    needed: &Needed,
    plan: &Plan,
) -> Result<f64, Error> {
    let received = Received::through(device, cache, plan)?;
    let got = received.cache.view();
    let (mut error, mut all) = (0.0, 0.0);
    let mut add = |ours: &[f32], theirs: &[f32]| {
        for (x, y) in ours.iter().zip(theirs) {
            error += f64::from(x - y).powi(2);
            all += f64::from(*x).powi(2);
        }
    };
    for (layer, [keys, values]) in needed.iter().copied().enumerate() {
        for token in 0..cache.tokens {
            if keys {
                add(cache.key(layer, token), got.key(layer, token));
            }
            if values {
                add(cache.value(layer, token), got.value(layer, token));
            }
        }
    }
    Ok(if all > 0.0 { (error / all).min(1.0) } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;
    use smidgen_codec::Ledger;

    #[test]
    fn a_message_under_any_cap_fits_to_the_byte_or_is_none() {
        let device = Device::cpu(Ledger::new(), 1);
        let cache = wire::reference(3, 4, 2, 16, 40);
        let even = [[true; 2]; 4];
        // Halves that change every second layer: the encoder sends each layer as a block.
        let uneven = [[true; 2], [true; 2], [true, false], [true, false]];
        for (needed, block_layers) in [(even, None), (even, Some(1)), (uneven, None)] {
            let mut sent = Vec::new();
            for cap_bytes in [0, 100, 400, 600, 900, 1500, 3000, 1 << 20] {
                let formats = vec![Precision::Int4, Precision::Int8];
                let cap = Some(cap_bytes);
                let packing =
                    Packing { formats, cap_bytes: cap, block_layers, ..Packing::default() };
                let packed =
                    packing.plan(&device, cache.view(), &needed, KeySpace::PreRope).unwrap();
                let Packed::Plan { plan, tokens, .. } = packed else {
                    assert_eq!(packed, Packed::Nothing(Empty::CapTooSmall));
                    sent.push(0);
                    continue;
                };
                let bytes = wire::encode(&device, cache.view(), &plan).unwrap();
                assert!(bytes.len() as u64 <= cap_bytes, "{} of {cap_bytes}", bytes.len());
                assert_eq!(
                    bytes.len(),
                    wire::wire_bytes(cache.view().shape, 40, &plan).unwrap() as usize
                );
                sent.push(tokens);
            }
            assert!(sent.is_sorted() && sent[0] == 0 && *sent.last().unwrap() == 40, "{sent:?}");
            assert!(sent.iter().any(|tokens| (1..40).contains(tokens)), "{sent:?}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        let device = Device::cpu(Ledger::new(), 1);
        let cache = wire::reference(3, 2, 1, 8, 10);
        let plan = |packing: Packing, needed| {
            packing.plan(&device, cache.view(), &[[needed; 2]; 2], KeySpace::PostRope)
        };
        let nothing = plan(Packing::default(), false).unwrap();
        assert_eq!(nothing, Packed::Nothing(Empty::NothingNeeded));
        let formats = vec![Precision::Int4, Precision::Int8];
        let two = plan(Packing { formats, ..Packing::default() }, true).unwrap_err();
        assert_eq!(two.to_string(), "`format`: expected 1 to 1, got 2");
        let unknown = Packing { select: "bakc".into(), share: 0.5, ..Packing::default() };
        assert!(plan(unknown, true).unwrap_err().to_string().contains("`back`"));
        let wrong = |packing: Packing| packing.check().unwrap_err().to_string();
        Packing::default().check().unwrap();
        let share = wrong(Packing { share: 0.0, ..Packing::default() });
        assert_eq!(share, "`share`: expected above 0 and at most 1, got 0");
        let select = "delta_kv".to_string();
        assert!(wrong(Packing { select, ..Packing::default() }).contains("`delta_kv` needs"));
        assert!(wrong(Packing { formats: vec![], ..Packing::default() }).ends_with("got 0"));
        let half = plan(Packing { share: 0.5, ..Packing::default() }, true).unwrap();
        assert!(matches!(half, Packed::Plan { tokens: 5, .. }));
    }
}
