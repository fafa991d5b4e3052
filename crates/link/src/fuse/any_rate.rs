//! Training for any rate: what reaches the fuser is what a link of some budget would have let through.
//!
//! For every batch one precision is drawn, one share of tokens, and for each layer of the sharer whether
//! it is sent; what is not sent leaves the receiver its own rows. The cache is a constant to the fuser, so
//! no gradient passes the rounding, and none is needed. One fuser then serves every budget.

use std::fmt;
use std::sync::Arc;

use smidgen_codec::Rng;
use smidgen_model::KeySpace;
use smidgen_tensor::Device;

use super::{Arrival, Present};
use crate::message::{self, Received};
use crate::wire::Precision;
use crate::{Error, KvCache, KvView};

/// What the other end of a link reads of a cache: rounded as the wire rounds.
pub type Quantise = dyn Fn(&KvView<'_>) -> Result<KvCache, Error> + Send + Sync;

/// The rounding of the wire itself: every token of a cache in one precision, into a container and out.
pub fn through_wire(device: Device, precision: Precision, space: KeySpace) -> Arc<Quantise> {
    Arc::new(move |view: &KvView<'_>| {
        let all = (0..view.tokens as u32).collect();
        let plan =
            message::plan(&vec![[true; 2]; view.shape.layers], &[(all, [precision; 2])], space);
        let plan = plan.ok_or_else(|| Error::value("any_rate", "a cache of some layers", 0))?;
        Ok(Received::through(&device, *view, &plan)?.cache)
    })
}

/// What is drawn for each batch.
#[derive(Clone)]
pub struct AnyRate {
    /// Precisions by name, each as likely; none leaves a cache as it is.
    pub precisions: Vec<(String, Option<Arc<Quantise>>)>,
    /// Shares of tokens that are sent, each as likely; at least one token is. Half of the batches send
    /// the last tokens, the others tokens at random.
    pub keep_tokens: Vec<f64>,
    /// How likely it is that a layer of the sharer is not sent.
    pub drop_layers: f64,
}

impl fmt::Debug for AnyRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.precisions.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("AnyRate")
            .field("precisions", &names)
            .field("keep_tokens", &self.keep_tokens)
            .field("drop_layers", &self.drop_layers)
            .finish()
    }
}

/// What was drawn for a batch.
pub(crate) struct Drawn<'a> {
    any_rate: &'a AnyRate,
    quantise: Option<&'a Quantise>,
    keep: f64,
    sends_last: bool,
    rng: Rng,
}

impl AnyRate {
    /// # Errors
    /// [`Error::Value`] for nothing to draw from and shares outside their range.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.precisions.is_empty() {
            return Err(Error::value("any_rate.precisions", "at least one", "none"));
        }
        let is_share = |share: &f64| *share > 0.0 && *share <= 1.0;
        if self.keep_tokens.is_empty() || !self.keep_tokens.iter().all(is_share) {
            let got = format!("{:?}", self.keep_tokens);
            return Err(Error::value("any_rate.keep_tokens", "shares over 0 up to 1", got));
        }
        if !(0.0..1.0).contains(&self.drop_layers) {
            return Err(Error::value(
                "any_rate.drop_layers",
                "from 0 to below 1",
                self.drop_layers,
            ));
        }
        Ok(())
    }

    /// Draws for the batch of a key.
    pub(crate) fn draw(&self, key: u64) -> Drawn<'_> {
        let rng = Rng::named(key, "any-rate");
        let pick = |what: u64, count: usize| rng.below(0, what, 0, count as u64) as usize;
        Drawn {
            any_rate: self,
            quantise: self.precisions[pick(0, self.precisions.len())].1.as_deref(),
            keep: self.keep_tokens[pick(1, self.keep_tokens.len())],
            sends_last: pick(2, 2) == 0,
            rng,
        }
    }
}

impl Drawn<'_> {
    /// The cache as it arrives.
    pub(crate) fn quantised(&self, cache: KvCache) -> Result<KvCache, Error> {
        match self.quantise {
            Some(quantise) => quantise(&cache.view()),
            None => Ok(cache),
        }
    }

    /// Which rows of the cache of prompt `index` arrive.
    pub(crate) fn present(&self, index: u64, layers: usize, tokens: usize) -> Present {
        let count = ((self.keep * tokens as f64).round() as usize).clamp(1, tokens.max(1));
        let mut order: Vec<u32> = (0..tokens as u32).collect();
        if !self.sends_last {
            order.sort_by_key(|token| self.rng.at(1, index, u64::from(*token)));
        }
        let chosen = &order[tokens.saturating_sub(count)..];
        let is_sent = |layer| self.rng.uniform(2, layer, 0) >= self.any_rate.drop_layers;
        let sent: Vec<bool> = (0..layers as u64).map(is_sent).collect();
        if count == tokens && sent.iter().all(|is_sent| *is_sent) {
            return Present::All;
        }
        let of = |is_sent: &bool| if *is_sent { chosen.to_vec() } else { Vec::new() };
        Present::by_layer(tokens, &sent.iter().map(of).collect::<Vec<_>>())
    }
}

/// The batch of an objective on its way to the fuser.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) caches: Vec<KvCache>,
    pub(crate) present: Vec<Present>,
}

impl Sent {
    /// Caches as they leave the sharer, or as they arrive after what was drawn for the batch.
    pub(crate) fn new(caches: Vec<KvCache>, drawn: Option<Drawn<'_>>) -> Result<Sent, Error> {
        let Some(drawn) = drawn else {
            let present = vec![Present::All; caches.len()];
            return Ok(Sent { caches, present });
        };
        let mut sent = Sent::default();
        for (index, cache) in caches.into_iter().enumerate() {
            let (layers, tokens) = (cache.shape().layers, cache.tokens());
            sent.present.push(drawn.present(index as u64, layers, tokens));
            sent.caches.push(drawn.quantised(cache)?);
        }
        Ok(sent)
    }

    pub(crate) fn arrivals<'a>(
        &'a self,
        alignments: impl Iterator<Item = &'a crate::align::Alignment>,
    ) -> Vec<Arrival<'a>> {
        let each = self.caches.iter().zip(&self.present).zip(alignments);
        each.map(|((cache, present), alignment)| Arrival {
            kv: cache.view(),
            present,
            alignment,
            fill: super::Fill::ReceiverOnly,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_rate(keep: &[f64], drop_layers: f64) -> AnyRate {
        let precisions = vec![("fp16".to_string(), None)];
        AnyRate { precisions, keep_tokens: keep.to_vec(), drop_layers }
    }

    fn rows(present: &Present) -> Vec<bool> {
        match present {
            Present::All => vec![true; 60],
            Present::Rows(rows) => rows.clone(),
        }
    }

    #[test]
    fn shares_of_tokens_and_layers_are_those_asked_for() {
        let any_rate = any_rate(&[0.25], 0.3);
        let (mut dropped, mut last) = (0, 0);
        for key in 0..400 {
            let drawn = any_rate.draw(key);
            let rows = rows(&drawn.present(3, 3, 20));
            for layer in rows.chunks(20) {
                let count = layer.iter().filter(|row| **row).count();
                dropped += usize::from(count == 0);
                assert!(count == 0 || count == 5, "{count}");
                last += usize::from(count == 5 && layer[15..].iter().all(|row| *row));
            }
            // The same key draws the same, another prompt of the batch other tokens of the same layers.
            assert_eq!(rows, self::rows(&any_rate.draw(key).present(3, 3, 20)));
        }
        assert!((dropped as f64 / 1200.0 - 0.3).abs() < 0.05, "{dropped}");
        assert!((last as f64 / (1200 - dropped) as f64 - 0.5).abs() < 0.08, "{last}");
    }

    #[test]
    fn training_sees_the_rounding_of_the_wire() {
        let device = Device::cpu(smidgen_codec::Ledger::new(), 1);
        let cache = crate::wire::reference(1, 3, 2, 16, 10);
        for precision in [Precision::F32, Precision::Int4, Precision::Int2] {
            let quantise = through_wire(device.clone(), precision, KeySpace::PreRope);
            let rounded = quantise(&cache.view()).unwrap();
            // Scales are those of a token and head, so a link that sends few tokens rounds them alike.
            let few = [(vec![2, 7], [precision; 2])];
            let plan = message::plan(&[[true; 2]; 3], &few, KeySpace::PreRope).unwrap();
            let sent = Received::through(&device, cache.view(), &plan).unwrap();
            for (layer, token) in [(0, 2), (1, 7), (2, 2)] {
                let ours = (rounded.view().key(layer, token), rounded.view().value(layer, token));
                let got = sent.cache.view();
                assert_eq!(ours, (got.key(layer, token), got.value(layer, token)));
            }
            let is_same = rounded.view().keys == cache.view().keys;
            assert_eq!(is_same, precision == Precision::F32, "{precision:?}");
        }
    }

    #[test]
    fn everything_is_everything_and_never_nothing() {
        assert_eq!(any_rate(&[1.0], 0.0).draw(4).present(0, 3, 20), Present::All);
        let one = any_rate(&[0.001], 0.0).draw(4).present(0, 1, 20);
        assert_eq!(rows(&one).iter().filter(|row| **row).count(), 1);
        assert!(any_rate(&[], 0.0).validate().is_err());
        assert!(any_rate(&[0.0], 0.0).validate().is_err());
        assert!(any_rate(&[0.5], 1.0).validate().is_err());
        let none = AnyRate { precisions: vec![], ..any_rate(&[0.5], 0.0) };
        assert!(none.validate().unwrap_err().to_string().contains("precisions"));
    }
}
