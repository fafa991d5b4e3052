//! What happens to gradients between the backward pass and the update.
//!
//! `held` keeps them all until the last is there: accumulation, the global norm and skipping are
//! exact, and cost the bytes of every gradient. `streamed` updates each parameter the moment its
//! gradient is complete: the peak is the largest parameter, and the price is written in
//! [`GradPolicy::validate`].

use serde::{Deserialize, Serialize};

use crate::{Assignment, Error, clip_scale};

/// Skips in a row after which a run gives up.
const MAX_SKIPS: u32 = 10;

/// When a gradient is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradMode {
    /// After the last one of the step is complete.
    #[default]
    Held,
    /// As soon as it is complete.
    Streamed,
}

/// Whose norm is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clip {
    /// Nobody's.
    Off,
    /// That of all gradients together.
    #[default]
    Global,
    /// That of each parameter's gradient.
    Tensor,
}

/// The gradient policy of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradPolicy {
    /// When a gradient is used.
    pub grad: GradMode,
    /// Whose norm is limited.
    pub clip: Clip,
    /// The limit, where there is one.
    pub max_norm: f64,
    /// Micro-batches per step.
    pub grad_accum: u32,
}

impl Default for GradPolicy {
    fn default() -> Self {
        Self { grad: GradMode::Held, clip: Clip::Global, max_norm: 1.0, grad_accum: 1 }
    }
}

impl GradPolicy {
    /// # Errors
    /// [`Error::Policy`] for streamed gradients with a global clip, which needs every gradient before
    /// the first update. [`Error::Value`] for a limit or count that is not positive. Whether gradients
    /// can be summed over micro-batches is for [`GradPolicy::check_sums`] to say.
    pub fn validate(&self) -> Result<(), Error> {
        let value = |key, expected, got| Error::Value { group: String::new(), key, expected, got };
        if self.grad_accum == 0 {
            return Err(value("grad_accum", "a number from 1", 0.0));
        }
        if self.clip != Clip::Off && !(self.max_norm.is_finite() && self.max_norm > 0.0) {
            return Err(value("max_norm", "a positive number", self.max_norm));
        }
        if self.grad == GradMode::Held {
            return Ok(());
        }
        if self.clip == Clip::Global {
            let hint = "set `clip = \"tensor\"` or `clip = \"off\"`, or `grad = \"held\"`";
            return Err(Error::Policy { setting: "`clip = \"global\"`".into(), hint });
        }
        Ok(())
    }

    /// Whether gradients can be streamed over the micro-batches of a step: the matrices inside blocks
    /// must be updated in subspaces, in which gradients are summed; what else there is holds its own.
    ///
    /// # Errors
    /// [`Error::Policy`] where one is not.
    pub fn check_sums(&self, assignment: &Assignment) -> Result<(), Error> {
        if self.grad == GradMode::Held || self.grad_accum <= 1 {
            return Ok(());
        }
        if assignment.whole_matrix().is_none() {
            return Ok(());
        }
        let setting = format!("`grad_accum = {}`", self.grad_accum);
        let hint = "set `grad_accum = 1`, or `grad = \"held\"`, or a `projection` for every matrix inside blocks";
        Err(Error::Policy { setting, hint })
    }

    /// What gradients of this norm are multiplied by: of all together for a global clip, of the one
    /// parameter for a clip per tensor.
    pub fn factor(&self, norm: f64) -> f64 {
        if self.clip == Clip::Off { 1.0 } else { clip_scale(norm, self.max_norm) }
    }
}

/// What to do with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Use the gradients.
    Apply,
    /// Leave every parameter as it is and go on.
    Skip,
    /// Some parameters are already updated: go back to the last good checkpoint.
    Restore,
    /// Too many in a row: save and give up.
    Abort,
}

/// Counts the steps whose gradients were not finite. Part of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Bad steps since the last good one.
    pub in_a_row: u32,
    /// Bad steps of the run.
    pub skipped: u64,
    /// Times a checkpoint was restored for it.
    pub restored: u64,
}

impl Guard {
    /// Judges one step: whether its gradients were finite, and whether a parameter has already been
    /// updated in it (never so for held gradients).
    pub fn judge(&mut self, finite: bool, updated: bool) -> Verdict {
        if finite {
            self.in_a_row = 0;
            return Verdict::Apply;
        }
        self.in_a_row += 1;
        self.skipped += 1;
        if self.in_a_row >= MAX_SKIPS {
            return Verdict::Abort;
        }
        if updated {
            self.restored += 1;
            return Verdict::Restore;
        }
        Verdict::Skip
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupConfig, ParamSpec, ProjectionKind, Role};

    #[test]
    fn streamed_refuses_what_needs_all_gradients() {
        let held = GradPolicy { grad_accum: 8, ..GradPolicy::default() };
        held.validate().unwrap();
        let streamed = GradPolicy { grad: GradMode::Streamed, ..GradPolicy::default() };
        let message = streamed.validate().unwrap_err().to_string();
        assert!(message.starts_with("`grad = \"streamed\"` excludes `clip = \"global\"`\n  hint:"));
        let tensor = GradPolicy { clip: Clip::Tensor, ..streamed };
        tensor.validate().unwrap();
        let accum = GradPolicy { grad_accum: 2, ..tensor };
        accum.validate().unwrap();
        let params = [
            ParamSpec::new("w", [40, 60], Role::MatrixHidden),
            ParamSpec::new("embed", [40, 60], Role::Embedding),
        ];
        let projected = GroupConfig {
            projection: Some(ProjectionKind::Galore2),
            projector: Some("bf16".into()),
            ..GroupConfig::default()
        };
        let sums = Assignment::resolve(&[projected], &params).unwrap();
        accum.check_sums(&sums).unwrap();
        assert_eq!(sums.sum_bytes(), 4 * (10 * 60 + 40 * 60));
        let whole = Assignment::resolve(&[GroupConfig::default()], &params).unwrap();
        assert!(matches!(accum.check_sums(&whole), Err(Error::Policy { .. })));
        tensor.check_sums(&whole).unwrap();
    }

    #[test]
    fn the_factor_brings_a_large_norm_to_the_limit() {
        let policy = GradPolicy { clip: Clip::Tensor, max_norm: 2.0, ..GradPolicy::default() };
        assert!((policy.factor(8.0) * 8.0 - 2.0).abs() < 1e-5);
        assert_eq!([policy.factor(1.0), policy.factor(0.0)], [1.0, 1.0]);
        assert_eq!(GradPolicy { clip: Clip::Off, ..policy }.factor(8.0), 1.0);
    }

    #[test]
    fn impossible_numbers_are_errors() {
        for max_norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let policy = GradPolicy { max_norm, ..GradPolicy::default() };
            assert!(matches!(policy.validate(), Err(Error::Value { key: "max_norm", .. })));
            GradPolicy { clip: Clip::Off, ..policy }.validate().unwrap();
        }
        let none = GradPolicy { grad_accum: 0, ..GradPolicy::default() };
        assert!(matches!(none.validate(), Err(Error::Value { key: "grad_accum", .. })));
    }

    #[test]
    fn ten_bad_steps_in_a_row_abort() {
        let mut guard = Guard::default();
        for _ in 0..9 {
            assert_eq!(guard.judge(false, false), Verdict::Skip);
        }
        assert_eq!(guard.judge(true, true), Verdict::Apply);
        assert_eq!(guard.judge(false, true), Verdict::Restore);
        for _ in 0..8 {
            assert_eq!(guard.judge(false, false), Verdict::Skip);
        }
        assert_eq!(guard.judge(false, false), Verdict::Abort);
        assert_eq!((guard.skipped, guard.restored), (19, 1));
    }
}
