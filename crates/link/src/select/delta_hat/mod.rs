//! `delta_hat`: the change that fusing will make, guessed from the sharer's side alone.
//!
//! Per layer, ln delta ~ a ridge regression on [`features`]: sizes of key and value, position from
//! the end, template or not, the value on its principal directions, likeness to the token before.
//! score = exp(guess), in the unit of [`oracle`](super::Oracle), whose scores it is fitted to.
//! No bytes when running: the regressor travels once, with the fuser, and names its fingerprint.
//! Ours: the reference computes delta with the receiver at hand and counts no bytes for it.

mod features;
mod fit;

use std::path::Path;

use serde::{Deserialize, Serialize};
use smidgen_store::{Files, read_json, write_json};

use self::features::Basis;
use super::{Needs, Oracle, Scene, Selector};
use crate::stats::{overlap_at, spearman};
use crate::{Error, KvShape};

/// Where the regressor lies beside its fuser.
pub const DELTA_HAT_JSON: &str = "delta_hat.json";

/// Beyond this the guess is no guess; `exp` of it is finite in f32.
const LARGEST_LOG: f64 = 60.0;

/// One regressor per layer of the sharer, and what they were fitted for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaHat {
    /// Fingerprint of the fuser whose changes it predicts.
    pub fuser: String,
    /// The sharer's.
    pub shape: KvShape,
    /// Examples it was fitted on.
    pub examples: usize,
    /// The penalty on standardised weights, per token.
    pub ridge: f32,
    layers: Vec<LayerFit>,
}

/// The regressor of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerFit {
    layer: usize,
    basis: Basis,
    /// Of raw features; the standardisation is folded in.
    weights: Vec<f32>,
    intercept: f32,
}

/// A ranking beside the one that it stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Spearman's rho, -1..1; 0 where a side has one score only, for it ranks nothing.
    pub spearman: f64,
    /// Share of the first k that both rankings have, 0..1.
    pub overlap: f64,
    /// k.
    pub k: usize,
}

impl DeltaHat {
    /// Reads a regressor and checks whose it is.
    ///
    /// # Errors
    /// [`Error::OtherFuser`] where it was fitted for another fuser, [`Error::Store`] where it
    /// cannot be read, [`Error::Length`] where a part of it has the wrong size.
    pub fn load(path: &Path, fuser: &str) -> Result<DeltaHat, Error> {
        let found: DeltaHat = read_json(path)?;
        if found.fuser != fuser {
            let (expected, got) = (fuser.into(), found.fuser);
            return Err(Error::OtherFuser { what: "delta regressor", expected, got });
        }
        for fit in &found.layers {
            fit.basis.check(&found.shape, fit.weights.len())?;
        }
        Ok(found)
    }

    /// Writes it, all or nothing.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn save(&self, files: &dyn Files, path: &Path) -> Result<(), Error> {
        Ok(write_json(files, path, self)?)
    }

    /// How well it ranks, layer by layer: the mean over scenes of both figures, k being
    /// `proportion` of each scene's tokens. The scenes must hold the receiver's side; they should
    /// not be those it was fitted on.
    ///
    /// # Errors
    /// Those of scoring.
    pub fn agreement(
        &self,
        scenes: &[Scene<'_>],
        layer: usize,
        proportion: f64,
    ) -> Result<Agreement, Error> {
        let mut sum = Agreement { spearman: 0.0, overlap: 0.0, k: 0 };
        for scene in scenes {
            let (mut guess, mut truth) = (vec![0.0; scene.tokens()], vec![0.0; scene.tokens()]);
            let k = (proportion * scene.tokens() as f64).round_ties_even() as usize;
            self.score(scene, layer, &mut guess)?;
            Oracle.score(scene, layer, &mut truth)?;
            let exact = |scores: Vec<f32>| scores.into_iter().map(f64::from).collect::<Vec<_>>();
            let (guess, truth, k) = (exact(guess), exact(truth), k.max(1));
            sum.spearman += spearman(&guess, &truth)?.unwrap_or(0.0) / scenes.len() as f64;
            sum.overlap += overlap_at(&guess, &truth, k)? / scenes.len() as f64;
            sum.k = sum.k.max(k);
        }
        Ok(sum)
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        if scene.sharer.shape != self.shape {
            let (expected, got) = (self.shape.layers, scene.sharer.shape.layers);
            return Err(Error::Length { what: "layers of the regressor's sharer", expected, got });
        }
        let fitted = self.layers.iter().find(|fit| fit.layer == layer);
        let name = DeltaHatSelector.name();
        let fit =
            fitted.ok_or(Error::Needs { selector: name, needs: "a regressor of this layer" })?;
        let mut row = vec![0.0; fit.weights.len()];
        for (token, score) in out.iter_mut().enumerate() {
            fit.basis.features(scene, layer, token, &mut row);
            let terms = row.iter().zip(&fit.weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let log = terms.fold(f64::from(fit.intercept), |sum, term| sum + term);
            *score = log.clamp(-LARGEST_LOG, LARGEST_LOG).exp() as f32;
        }
        Ok(())
    }
}

/// Large guessed changes first.
#[derive(Clone, Copy, Debug)]
pub struct DeltaHatSelector;

impl Selector for DeltaHatSelector {
    fn name(&self) -> &'static str {
        "delta_hat"
    }

    fn needs(&self) -> Needs {
        Needs::Regressor
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        let missing = Error::Needs { selector: self.name(), needs: self.needs().what() };
        scene.regressor.ok_or(missing)?.score(scene, layer, out)
    }
}
