//! `vnorm_topk`: by the size of the value, which is what attention adds up.
//!
//! score = mean over heads of |V|. Source: the token selection of LatentWire.

use super::norm::mean_norm;
use super::{Scene, Selector};
use crate::Error;

/// Large values first.
#[derive(Clone, Copy, Debug)]
pub struct ValueNorm;

impl Selector for ValueNorm {
    fn name(&self) -> &'static str {
        "vnorm_topk"
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        for (token, score) in out.iter_mut().enumerate() {
            *score = mean_norm(scene.sharer.value(layer, token), scene.sharer.shape.value_dim);
        }
        Ok(())
    }
}
