//! `front`, `back`: by position alone, the first tokens or the last.
//!
//! score(i) = T - i or i. No bytes, and either side knows it without asking.
//! Source: the reference implementation of cache-to-cache (arXiv 2510.03215), whose sharer decides
//! late: keeping the back costs little, keeping the front costs nearly everything.

use super::{Needs, Scene, Selector};
use crate::Error;

/// Earlier tokens first.
#[derive(Clone, Copy, Debug)]
pub struct Front;

/// Later tokens first.
#[derive(Clone, Copy, Debug)]
pub struct Back;

impl Selector for Front {
    fn name(&self) -> &'static str {
        "front"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn score(&self, scene: &Scene<'_>, _layer: usize, out: &mut [f32]) -> Result<(), Error> {
        for (token, score) in out.iter_mut().enumerate() {
            *score = (scene.tokens() - token) as f32;
        }
        Ok(())
    }
}

impl Selector for Back {
    fn name(&self) -> &'static str {
        "back"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn score(&self, _scene: &Scene<'_>, _layer: usize, out: &mut [f32]) -> Result<(), Error> {
        for (token, score) in out.iter_mut().enumerate() {
            *score = token as f32;
        }
        Ok(())
    }
}
