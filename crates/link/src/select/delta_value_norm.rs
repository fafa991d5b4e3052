//! `delta_proj_vnorm_topk`: by how much fusing changes the receiver's value.
//!
//! score = mean over heads of |F(V) - V of the receiver|, F of the *dequantised* sharer's cache,
//! mean over the receiver's layers that read the sharer's layer.
//! Source: the delta selection of LatentWire. Differs as [`proj_vnorm_topk`](super::ProjValueNorm).

use super::norm::mean_norm_of_difference;
use super::{Needs, Scene, Selector};
use crate::Error;

/// Large changes of the value first.
#[derive(Clone, Copy, Debug)]
pub struct DeltaValueNorm;

impl Selector for DeltaValueNorm {
    fn name(&self) -> &'static str {
        "delta_proj_vnorm_topk"
    }

    fn needs(&self) -> Needs {
        Needs::Receiver
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        let side = scene.at_receiver(self)?;
        let dim = side.fused.shape.value_dim;
        side.mean_over_targets(layer, out, |target, token| {
            let (fused, own) = (side.fused.value(target, token), side.own.value(target, token));
            mean_norm_of_difference(fused, own, dim)
        });
        Ok(())
    }
}
