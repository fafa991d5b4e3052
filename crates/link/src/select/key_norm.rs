//! `knorm_topk`, `knorm_low`: by the size of the key.
//!
//! score = + or - mean over heads of |K|. The reference keeps large keys; the published evidence is
//! for small ones (Devoto et al., arXiv 2406.11430), so both signs are here and measured.

use super::norm::mean_norm;
use super::{Scene, Selector};
use crate::Error;

/// Large keys first.
#[derive(Clone, Copy, Debug)]
pub struct KeyNormTop;

/// Small keys first.
#[derive(Clone, Copy, Debug)]
pub struct KeyNormLow;

impl Selector for KeyNormTop {
    fn name(&self) -> &'static str {
        "knorm_topk"
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        for (token, score) in out.iter_mut().enumerate() {
            *score = mean_norm(scene.sharer.key(layer, token), scene.sharer.shape.key_dim);
        }
        Ok(())
    }
}

impl Selector for KeyNormLow {
    fn name(&self) -> &'static str {
        "knorm_low"
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        KeyNormTop.score(scene, layer, out)?;
        out.iter_mut().for_each(|score| *score = -*score);
        Ok(())
    }
}
