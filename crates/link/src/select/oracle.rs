//! `oracle`: the change itself, which `delta_hat` predicts and the allocators weigh.
//!
//! score = sqrt(|F(K) - K of the receiver|^2 + |F(V) - V of the receiver|^2) over all heads, so that
//! its square, summed over layers, is the weight of a token in the allocators' loss.
//! Always in a column of upper bounds: a sharer that knows this has the receiver and the fuser.

use super::delta_kv::squares;
use super::{Needs, Scene, Selector};
use crate::Error;

/// Large changes of the cache first.
#[derive(Clone, Copy, Debug)]
pub struct Oracle;

impl Selector for Oracle {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn needs(&self) -> Needs {
        Needs::Receiver
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        let side = scene.at_receiver(self)?;
        side.mean_over_targets(layer, out, |target, token| {
            let [key, value] = squares(&side.fused, &side.own, target, token);
            (key + value).sqrt()
        });
        Ok(())
    }
}
