//! What each precision costs after the fuser, measured once on examples that are never evaluated.
//!
//! e(l, m) = sum |F(q_m) - F(x)|^2 / sum |F(x) - own|^2 over calibration examples, per layer l of the
//! sharer: the share of the change at the receiver that precision m loses. Layer weights come from
//! how much the receiver's loss rises when only that layer is degraded, and what weighs a token from how
//! little the receiver loses under a cap with it: the largest change is not always the needed one.
//! The record names the fuser it belongs to; that of another one is refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use smidgen_store::{Files, read_json, sha256_bytes, write_json};

use super::{LayerScores, Precision, Recipe};
use crate::Error;
use crate::record::canonical_json;
use crate::select::{Scene, selector_by_name};

/// Where the record lies beside its fuser.
pub const CALIBRATION_JSON: &str = "calibration.json";

const WHAT: &str = "calibration";

/// A calibration of one fuser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Fingerprint of the fuser.
    pub fuser: String,
    /// Of the draw of the examples.
    pub seed: u64,
    /// Ids of the examples, in their order.
    pub examples: Vec<String>,
    /// For each layer of the sharer: the rise of the receiver's loss where that layer alone is
    /// degraded, at least 0.
    pub layer_weights: Vec<f32>,
    /// For each precision, e of every layer of the sharer.
    pub distortions: BTreeMap<String, Vec<f32>>,
    /// For each selector that was tried as what weighs tokens: the receiver's mean loss under a cap, in
    /// nats.
    pub weigher_losses: BTreeMap<String, f64>,
    /// SHA-256 of the canonical JSON of all other fields.
    pub sha256: String,
}

/// The sums of one calibration while it is measured.
#[derive(Clone, Debug, Default)]
pub struct CalibrationSums {
    lost: BTreeMap<&'static str, Vec<f64>>,
    change: Vec<f64>,
}

impl CalibrationSums {
    /// Sums for a sharer of so many layers.
    pub fn new(layers: usize) -> CalibrationSums {
        CalibrationSums { lost: BTreeMap::new(), change: vec![0.0; layers] }
    }

    /// Adds what fusing changed at the receiver layers that read `layer`, once per example:
    /// `fused` from the exact cache, `own` the receiver's.
    pub fn add_change(&mut self, layer: usize, fused: &[f32], own: &[f32]) {
        self.change[layer] += square_distance(fused, own);
    }

    /// Adds what a precision lost there: `coarse` fused from the quantised cache.
    pub fn add_loss(&mut self, layer: usize, precision: Precision, coarse: &[f32], fused: &[f32]) {
        let layers = self.change.len();
        let lost = self.lost.entry(precision.name()).or_insert_with(|| vec![0.0; layers]);
        lost[layer] += square_distance(coarse, fused);
    }

    /// The record. A layer that changes nothing has distortion 0: nothing can be lost there.
    ///
    /// # Errors
    /// As [`Calibration::check`].
    pub fn finish(
        self,
        fuser: &str,
        seed: u64,
        examples: Vec<String>,
        layer_weights: Vec<f32>,
    ) -> Result<Calibration, Error> {
        let share = |(lost, change): (&f64, &f64)| match *change > 0.0 {
            true => (lost / change) as f32,
            false => 0.0,
        };
        let row = |lost: &Vec<f64>| lost.iter().zip(&self.change).map(share).collect();
        let rows = self.lost.iter().map(|(name, lost)| ((*name).into(), row(lost)));
        let found = Calibration {
            fuser: fuser.into(),
            seed,
            examples,
            layer_weights,
            distortions: rows.collect(),
            weigher_losses: BTreeMap::new(),
            sha256: String::new(),
        };
        found.sealed()
    }
}

impl Calibration {
    /// The record with what each selector lost as what weighs tokens.
    ///
    /// # Errors
    /// As [`Calibration::check`].
    pub fn with_weighers(self, weigher_losses: BTreeMap<String, f64>) -> Result<Self, Error> {
        Calibration { weigher_losses, ..self }.sealed()
    }

    /// The selector that lost least as what weighs tokens, ties to the first by name; none where none
    /// was tried.
    pub fn weigher(&self) -> Option<&str> {
        let least = self.weigher_losses.iter().min_by(|a, b| a.1.total_cmp(b.1));
        least.map(|(name, _)| name.as_str())
    }

    /// Reads a record and checks that it is whole and belongs to this fuser.
    ///
    /// # Errors
    /// [`Error::OtherFuser`], [`Error::Store`], and as [`Calibration::check`].
    pub fn load(path: &Path, fuser: &str) -> Result<Calibration, Error> {
        let found: Calibration = read_json(path)?;
        if found.fuser != fuser {
            return Err(Error::OtherFuser { what: WHAT, expected: fuser.into(), got: found.fuser });
        }
        found.check()?;
        Ok(found)
    }

    /// Writes it, all or nothing.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn save(&self, files: &dyn Files, path: &Path) -> Result<(), Error> {
        Ok(write_json(files, path, self)?)
    }

    /// The distortion of a recipe: e of its precisions, each layer by its weight, keys and values
    /// by halves. Halves that do not travel are left out: no recipe of one message sends them.
    ///
    /// # Errors
    /// [`Error::Value`] for a precision that was not measured, [`Error::Length`] where the recipe
    /// has another number of layers.
    pub fn distortion(&self, recipe: &Recipe) -> Result<f64, Error> {
        let (expected, got) = (self.layer_weights.len(), recipe.layers.len());
        if expected != got {
            return Err(Error::Length { what: "layers of a recipe", expected, got });
        }
        let (mut lost, mut all) = (0.0, 0.0);
        for layer in recipe.sent() {
            // Where no layer matters all of them do alike.
            let weight = match self.layer_weights.iter().any(|weight| *weight > 0.0) {
                true => f64::from(self.layer_weights[layer]),
                false => 1.0,
            };
            let halves = recipe.layers[layer];
            for precision in [halves.key, halves.value].into_iter().flatten() {
                lost += weight * self.of(layer, precision)?;
                all += weight;
            }
        }
        Ok(if all > 0.0 { (lost / all).min(1.0) } else { 1.0 })
    }

    /// Whether every precision of a recipe was measured.
    pub fn knows(&self, recipe: &Recipe) -> bool {
        let mut halves = recipe.layers.iter().flat_map(|layer| [layer.key, layer.value]).flatten();
        let is_known = |precision: Precision| {
            precision == Precision::F32 || self.distortions.contains_key(precision.name())
        };
        halves.all(is_known)
    }

    /// What an allocator goes by: the tokens of a scope weighed by the sizes that the selector `weigher`
    /// gives them in a scene, and the distortions of recipes that send the same halves.
    ///
    /// # Errors
    /// As for [`Calibration::distortion`] and [`LayerScores::weights`], and those of the selector.
    pub fn weigh(
        &self,
        scope: &[u32],
        recipes: &[Recipe],
        scene: &Scene<'_>,
        weigher: &str,
    ) -> Result<(Vec<f64>, Vec<f64>), Error> {
        let distortions = recipes.iter().map(|recipe| self.distortion(recipe));
        let distortions = distortions.collect::<Result<Vec<_>, _>>()?;
        let sent = recipes.first().map(Recipe::sent).unwrap_or_default();
        let scores = LayerScores::of(selector_by_name(weigher)?, scene, &sent)?;
        Ok((scores.weights(scope)?, distortions))
    }

    /// e of one layer; 0 for f32.
    fn of(&self, layer: usize, precision: Precision) -> Result<f64, Error> {
        if precision == Precision::F32 {
            return Ok(0.0);
        }
        let row = self.distortions.get(precision.name()).ok_or_else(|| {
            let known: Vec<&str> = self.distortions.keys().map(String::as_str).collect();
            let expected = format!("one of the calibrated precisions: {}", known.join(", "));
            Error::value("token_precision_candidates", expected, precision.name())
        })?;
        Ok(f64::from(row[layer]))
    }

    /// Refuses examples of an evaluation that the calibration has seen.
    ///
    /// # Errors
    /// [`Error::Record`] names one.
    pub fn check_unseen<'a>(
        &self,
        evaluated: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let seen: std::collections::BTreeSet<&str> =
            self.examples.iter().map(String::as_str).collect();
        match evaluated.into_iter().find(|id| seen.contains(id)) {
            Some(id) => {
                Err(Error::record(WHAT, "examples that are not evaluated", format!("`{id}`")))
            }
            None => Ok(()),
        }
    }

    /// Whether the parts fit together and the hash is theirs.
    ///
    /// # Errors
    /// [`Error::Record`] says what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let sound = |x: &f32| x.is_finite() && *x >= 0.0;
        let layers = self.layer_weights.len();
        if self.examples.is_empty() {
            return Err(Error::record(WHAT, "at least 1 example", 0));
        }
        for (name, row) in
            self.distortions.iter().chain([(&"layer_weights".into(), &self.layer_weights)])
        {
            if row.len() != layers || !row.iter().all(sound) {
                let expected = format!("{layers} numbers of at least 0");
                return Err(Error::record(
                    format!("{WHAT}, `{name}`"),
                    expected,
                    format!("{row:?}"),
                ));
            }
        }
        for name in self.distortions.keys() {
            name.parse::<Precision>()?;
        }
        for (name, loss) in &self.weigher_losses {
            selector_by_name(name)?;
            if !loss.is_finite() {
                let what = format!("{WHAT}, loss with `{name}`");
                return Err(Error::record(what, "a finite number", loss));
            }
        }
        let digest = self.digest()?;
        if self.sha256 != digest {
            return Err(Error::record(WHAT, format!("hash {digest}"), &self.sha256));
        }
        Ok(())
    }

    fn sealed(mut self) -> Result<Self, Error> {
        self.sha256 = self.digest()?;
        self.check()?;
        Ok(self)
    }

    fn digest(&self) -> Result<String, Error> {
        let bare = Calibration { sha256: String::new(), ..self.clone() };
        Ok(sha256_bytes(canonical_json(&bare)?.as_bytes()))
    }
}

fn square_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| {
        let d = f64::from(a - b);
        sum + d * d
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_store::Disk;

    fn calibration() -> Calibration {
        let mut sums = CalibrationSums::new(2);
        for _ in 0..3 {
            sums.add_change(0, &[3.0, 0.0], &[0.0, 4.0]);
            sums.add_loss(0, Precision::Int4, &[3.0, 1.0], &[3.0, 0.0]);
            sums.add_loss(0, Precision::Int8, &[3.0, 0.5], &[3.0, 0.0]);
            // The second layer changes nothing.
            sums.add_loss(1, Precision::Int4, &[1.0], &[1.0]);
        }
        sums.finish("fuser", 7, vec!["a".into(), "b".into()], vec![3.0, 1.0]).unwrap()
    }

    #[test]
    fn distortions_are_shares_of_the_change_by_layer() {
        let found = calibration();
        assert_eq!(found.distortions["int4"], [1.0 / 25.0, 0.0]);
        assert_eq!(found.distortions["int8"], [0.25 / 25.0, 0.0]);
        let e = |key, value| found.distortion(&Recipe::uniform(2, key, value)).unwrap();
        assert!((e(Precision::Int4, Precision::Int4) - 0.75 * 0.04).abs() < 1e-9);
        assert!((e(Precision::Int8, Precision::Int4) - 0.75 * 0.025).abs() < 1e-9);
        assert_eq!(e(Precision::F32, Precision::F32), 0.0);
        let mut keys_of_one = Recipe::uniform(2, Precision::Int4, Precision::Int4);
        keys_of_one.layers[1] = Default::default();
        keys_of_one.layers[0].value = None;
        assert!((found.distortion(&keys_of_one).unwrap() - 0.04).abs() < 1e-9);
        let error = found.distortion(&Recipe::uniform(2, Precision::Nf4, Precision::Int4));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("int4, int8, got nf4"), "{error}");
        assert!(found.distortion(&Recipe::uniform(3, Precision::Int4, Precision::Int4)).is_err());
    }

    #[test]
    fn a_record_is_read_by_its_fuser_alone_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CALIBRATION_JSON);
        let found = calibration();
        found.save(&Disk, &path).unwrap();
        assert_eq!(Calibration::load(&path, "fuser").unwrap(), found);
        let error = Calibration::load(&path, "other").unwrap_err();
        assert!(matches!(error, Error::OtherFuser { .. }), "{error}");
        let text = std::fs::read_to_string(&path).unwrap();
        let edited = text.replacen("0.04", "0.03", 1);
        assert_ne!(text, edited);
        std::fs::write(&path, edited).unwrap();
        let error = Calibration::load(&path, "fuser").unwrap_err().to_string();
        assert!(error.starts_with("calibration: expected hash "), "{error}");
    }

    #[test]
    fn tokens_are_weighed_by_what_lost_least() {
        let with = |losses: &[(&str, f64)]| {
            let losses = losses.iter().map(|(name, loss)| ((*name).into(), *loss)).collect();
            calibration().with_weighers(losses)
        };
        assert_eq!(calibration().weigher(), None);
        let found = with(&[("delta_hat", 2.0), ("vnorm_topk", 1.0), ("knorm_topk", 1.0)]).unwrap();
        assert_eq!(found.weigher(), Some("knorm_topk"));
        assert_ne!(found.sha256, calibration().sha256);
        assert!(with(&[("vnorm_top", 1.0)]).unwrap_err().to_string().contains("`vnorm_topk`?"));
        let error = with(&[("back", f64::NAN)]).unwrap_err().to_string();
        assert!(error.ends_with("loss with `back`: expected a finite number, got NaN"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let found = calibration();
        assert!(found.check_unseen(["c", "d"]).is_ok());
        let error = found.check_unseen(["c", "b"]).unwrap_err().to_string();
        assert!(error.ends_with("got `b`"), "{error}");
        let sums = || CalibrationSums::new(2);
        assert!(sums().finish("f", 0, vec![], vec![1.0, 1.0]).is_err());
        assert!(sums().finish("f", 0, vec!["a".into()], vec![1.0, f32::NAN]).is_err());
        let mut short = sums();
        short.add_loss(0, Precision::Int4, &[1.0], &[0.0]);
        assert!(short.finish("f", 0, vec!["a".into()], vec![1.0]).is_err());
    }
}
