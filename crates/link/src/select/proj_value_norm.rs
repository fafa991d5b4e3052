//! `proj_vnorm_topk`: by the size of the value after fusing.
//!
//! score = mean over heads of |F(V)|, mean over the receiver's layers that read the sharer's layer.
//! Source: the token selection of LatentWire. Differs: scores belong to the sharer's layers, for
//! each of them travels once, however many layers of the receiver read it.

use super::norm::mean_norm;
use super::{Needs, Scene, Selector};
use crate::Error;

/// Large fused values first.
#[derive(Clone, Copy, Debug)]
pub struct ProjValueNorm;

impl Selector for ProjValueNorm {
    fn name(&self) -> &'static str {
        "proj_vnorm_topk"
    }

    fn needs(&self) -> Needs {
        Needs::Receiver
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        let side = scene.at_receiver(self)?;
        let dim = side.fused.shape.value_dim;
        side.mean_over_targets(layer, out, |target, token| {
            mean_norm(side.fused.value(target, token), dim)
        });
        Ok(())
    }
}
