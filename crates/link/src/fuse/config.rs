//! What a fuser is made of.

use serde::{Deserialize, Serialize};
use smidgen_model::KeySpace;
use smidgen_tensor::GateNoise;

use super::{Mapping, variant_by_name};
use crate::{Error, KvShape};

/// Sizes and rules of a fuser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FuserConfig {
    /// The name in [`FUSERS`](super::FUSERS).
    pub variant: String,
    /// h, the width of its stream.
    pub hidden: usize,
    /// f, the width inside its blocks.
    pub inner: usize,
    /// L, blocks from the rows that come in to those that go out; at least 2.
    pub blocks: usize,
    /// Share of values that are dropped in training.
    pub dropout: f32,
    /// What goes into and out of a shared trunk, in `lite`.
    pub fuser_rank: usize,
    /// Whether the last maps begin at zero, so that training starts from the receiver alone.
    pub zero_init: bool,
    /// What is drawn for gates in training.
    pub gate_noise: GateNoise,
    /// Temperature of the gates at the first step.
    pub tau_start: f32,
    /// And at the last one; it falls geometrically in between.
    pub tau_end: f32,
    /// Whether keys are fused with positions or before them.
    pub k_space: KeySpace,
    /// Which layers meet.
    pub mapping: Mapping,
}

impl Default for FuserConfig {
    fn default() -> FuserConfig {
        FuserConfig {
            variant: "c2c".into(),
            hidden: 1024,
            inner: 1024,
            blocks: 3,
            dropout: 0.1,
            fuser_rank: 64,
            zero_init: true,
            gate_noise: GateNoise::Logistic,
            tau_start: 1.0,
            tau_end: 0.001,
            k_space: KeySpace::PostRope,
            mapping: Mapping::default(),
        }
    }
}

impl FuserConfig {
    /// Checks what does not depend on the models.
    ///
    /// # Errors
    /// [`Error::Value`] naming the first key that cannot be.
    pub fn validate(&self) -> Result<(), Error> {
        variant_by_name(&self.variant)?;
        for (key, size) in
            [("hidden", self.hidden), ("inner", self.inner), ("fuser_rank", self.fuser_rank)]
        {
            if size == 0 || size > 1 << 20 {
                return Err(Error::value(key, "1 to 1048576", size));
            }
        }
        if !(2..=64).contains(&self.blocks) {
            return Err(Error::value("blocks", "2 to 64", self.blocks));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::value("dropout", "from 0 to below 1", self.dropout));
        }
        for (key, tau) in [("tau_start", self.tau_start), ("tau_end", self.tau_end)] {
            if !(tau > 0.0 && tau.is_finite()) {
                return Err(Error::value(key, "a number over 0", tau));
            }
        }
        Ok(())
    }

    /// Temperature of the gates at `step` of `steps`, counted from 0: it falls geometrically from the
    /// first value to the last, and stays there.
    pub fn tau(&self, step: u64, steps: u64) -> f32 {
        let share = (step as f64 / steps.max(1) as f64).min(1.0);
        let (start, end) = (f64::from(self.tau_start), f64::from(self.tau_end));
        (start * (end / start).powf(share)) as f32
    }
}

/// Keys or values: each has a network of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

impl Part {
    /// Both.
    pub const BOTH: [Part; 2] = [Part::Keys, Part::Values];

    /// The name in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Part::Keys => "keys",
            Part::Values => "values",
        }
    }

    /// Elements of one row, all heads of a layer and token.
    pub fn width(self, shape: &KvShape) -> usize {
        match self {
            Part::Keys => shape.key_row(),
            Part::Values => shape.value_row(),
        }
    }
}

/// The caches of two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairShape {
    /// Whose cache is given.
    pub sharer: KvShape,
    /// Whose cache is changed.
    pub receiver: KvShape,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_falls_geometrically() {
        let config = FuserConfig::default();
        assert_eq!((config.tau(0, 1929), config.tau(1929, 1929)), (1.0, 0.001));
        let half = config.tau(964, 1928);
        assert!((half - 0.001f32.sqrt()).abs() < 1e-5, "{half}");
        assert_eq!(config.tau(5000, 1929), 0.001);
        assert_eq!(config.tau(3, 0), 0.001);
        let steps: Vec<f32> =
            (0..10).map(|step| config.tau(step + 1, 10) / config.tau(step, 10)).collect();
        assert!(steps.iter().all(|ratio| (ratio / steps[0] - 1.0).abs() < 1e-4), "{steps:?}");
    }

    #[test]
    fn what_cannot_be_is_named() {
        let wrong = |config: FuserConfig| config.validate().unwrap_err().to_string();
        let good = FuserConfig::default;
        good().validate().unwrap();
        assert!(
            wrong(FuserConfig { variant: "c2x".into(), ..good() }).contains("c2c, linear, lite")
        );
        assert!(wrong(FuserConfig { hidden: 0, ..good() }).starts_with("`hidden`"));
        assert!(wrong(FuserConfig { blocks: 1, ..good() }).starts_with("`blocks`"));
        assert!(wrong(FuserConfig { dropout: 1.0, ..good() }).starts_with("`dropout`"));
        assert!(wrong(FuserConfig { tau_end: f32::NAN, ..good() }).starts_with("`tau_end`"));
    }
}
