//! What a selector may look at.

use super::{DeltaHat, Needs, Selector};
use crate::{Error, KvView};

/// One example as the selectors see it. Positions are those of the message: T is
/// `sharer.tokens` for every part.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Of the run; part of the random selector's place.
    pub seed: u64,
    /// The example's number, stable across runs.
    pub example: u64,
    /// The sharer's cache.
    pub sharer: KvView<'a>,
    /// `[T]`: whether a token belongs to the chat template; none where the prompt has no template.
    pub template: Option<&'a [bool]>,
    /// What is known on the receiver's side, if anybody may look.
    pub receiver: Option<AtReceiver<'a>>,
    /// What came with the fuser.
    pub regressor: Option<&'a DeltaHat>,
}

/// The receiver's cache before and after fusing; both have its layers and its shape.
#[derive(Clone, Copy, Debug)]
pub struct AtReceiver<'a> {
    /// Its own cache.
    pub own: KvView<'a>,
    /// The cache fused from the sharer's *dequantised* one, every position of it.
    pub fused: KvView<'a>,
    /// For each of its layers the sharer's layer that is fused there.
    pub source_of: &'a [Option<usize>],
}

impl<'a> Scene<'a> {
    /// A scene with the sharer's cache alone.
    pub fn of_sharer(seed: u64, example: u64, sharer: KvView<'a>) -> Scene<'a> {
        Scene { seed, example, sharer, template: None, receiver: None, regressor: None }
    }

    /// T.
    pub fn tokens(&self) -> usize {
        self.sharer.tokens
    }

    /// The receiver's side, checked against the sharer's.
    ///
    /// # Errors
    /// [`Error::Needs`] where nobody may look at it, [`Error::Length`] where the parts do not fit.
    pub fn at_receiver(&self, selector: &dyn Selector) -> Result<AtReceiver<'a>, Error> {
        let missing = Error::Needs { selector: selector.name(), needs: Needs::Receiver.what() };
        let side = self.receiver.ok_or(missing)?;
        let (own, fused) = (side.own, side.fused);
        for (what, expected, got) in [
            ("tokens of the receiver's cache", self.tokens(), own.tokens),
            ("tokens of the fused cache", self.tokens(), fused.tokens),
            ("layers of the fused cache", own.shape.layers, fused.shape.layers),
            ("a key of the fused cache", own.shape.key_row(), fused.shape.key_row()),
            ("a value of the fused cache", own.shape.value_row(), fused.shape.value_row()),
            ("the layer mapping", own.shape.layers, side.source_of.len()),
        ] {
            if expected != got {
                return Err(Error::Length { what, expected, got });
            }
        }
        Ok(side)
    }
}

impl AtReceiver<'_> {
    /// The mean of `score(receiver layer, token)` over the receiver's layers that read `layer` of
    /// the sharer; 0 for a layer that nobody reads, for sending it changes nothing.
    pub fn mean_over_targets(
        &self,
        layer: usize,
        out: &mut [f32],
        mut score: impl FnMut(usize, usize) -> f32,
    ) {
        let reads = |target: &usize| self.source_of[*target] == Some(layer);
        let targets: Vec<usize> = (0..self.source_of.len()).filter(reads).collect();
        for (token, out) in out.iter_mut().enumerate() {
            let sum = targets.iter().fold(0.0, |sum: f32, target| sum + score(*target, token));
            *out = sum / targets.len().max(1) as f32;
        }
    }
}
