//! `random`: the control that every other selector has to beat.
//!
//! score = uniform in [0, 1) at the place (seed, example, layer, token), so neither threads nor the
//! order of examples change what is sent, and both sides could draw it.

use smidgen_codec::Rng;

use super::{Needs, Scene, Selector};
use crate::Error;

/// The stream of this selector's draws.
const STREAM: &str = "select";

/// Tokens in random order.
#[derive(Clone, Copy, Debug)]
pub struct Random;

impl Selector for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        let rng = Rng::named(scene.seed, STREAM);
        for (token, score) in out.iter_mut().enumerate() {
            *score = rng.uniform(scene.example, layer as u64, token as u64) as f32;
        }
        Ok(())
    }
}
