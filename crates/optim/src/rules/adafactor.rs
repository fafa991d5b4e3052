//! `adafactor`: second moments of rows and of columns in place of one for every value.
//!
//! R = b R + (1 - b) (mean over columns of g^2 + e), C the same over rows, b = 1 - t^-0.8;
//! u = g / sqrt(R C^T / mean(R)), divided by max(1, rms(u) / d); p = p - lr wd p - rate u.
//! The rate is `lr`, or with `relative_step` it is max(1e-3, rms(p)) min(lr, 1 / sqrt(t)).
//! State: 4 (m + n) bytes for a matrix [m, n], always in f32; a vector keeps one moment for each
//! value. `momentum` adds an average of u in the group's format.
//! Source: Shazeer and Stern, Adafactor (arXiv 1804.04235), algorithms 4 and 5. Differs: the roots
//! of R and of C are taken apart, so that no product of tiny moments becomes zero; the decay is
//! decoupled.

use serde::{Deserialize, Serialize};
use smidgen_codec::{Format, Tag};
use smidgen_tensor::{Format as Dense, Tensor};

use crate::clip::norm_of_values;
use crate::elementwise::check_length;
use crate::factor::{Factors, mean_squares};
use crate::{
    Error, GroupConfig, Optimizer, Param, ParamSpec, Slot, SlotSpec, StepCx, Updates, Values,
    apply, elementwise, global_norm,
};

/// The smallest size of a parameter that a relative rate sees: zeros must be able to leave.
const SMALLEST_RMS: f64 = 1e-3;

/// The hyper-parameters of Adafactor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adafactor {
    /// Decay of an average of updates, in 0..1; 0 for none.
    pub momentum: f64,
    /// Added to squares of gradients.
    pub eps: f64,
    /// The largest root mean square of an update before the rate.
    pub clip_rms: f64,
    /// Whether the rate is a share of the size of the parameter.
    pub relative_step: bool,
    /// Share of the value taken off per unit of `lr`.
    pub weight_decay: f64,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self { momentum: 0.0, eps: 1e-30, clip_rms: 1.0, relative_step: false, weight_decay: 0.0 }
    }
}

impl Adafactor {
    pub(super) const KEYS: &[&str] =
        &["weight_decay", "eps", "momentum", "clip_rms", "relative_step"];

    pub(super) fn build(group: &mut GroupConfig) -> Result<Box<dyn Optimizer>, Error> {
        let default = Self::default();
        let rule = Self {
            momentum: *group.momentum.get_or_insert(default.momentum),
            eps: *group.eps.get_or_insert(default.eps),
            clip_rms: *group.clip_rms.get_or_insert(default.clip_rms),
            relative_step: *group.relative_step.get_or_insert(default.relative_step),
            weight_decay: *group.weight_decay.get_or_insert(default.weight_decay),
        };
        group.check_shares("momentum", &[rule.momentum])?;
        group.check_not_negative("eps", rule.eps)?;
        group.check("clip_rms", "a number above 0", rule.clip_rms, rule.clip_rms > 0.0)?;
        group.check_not_negative("weight_decay", rule.weight_decay)?;
        Ok(Box::new(rule))
    }

    /// The rate of this step, before updates are clipped.
    fn rate(&self, cx: &StepCx<'_>, value: &Values<'_>) -> f64 {
        if !self.relative_step {
            return cx.lr;
        }
        let size = norm_of_values(cx.device, value) / (value.len().max(1) as f64).sqrt();
        size.max(SMALLEST_RMS) * cx.lr.min((cx.step as f64).powf(-0.5))
    }

    /// The weight of a gradient in the moments: all of it at first, less at each step.
    fn weight(step: u64) -> f64 {
        (step as f64).powf(-0.8)
    }

    /// p = p - lr wd p - rate u for updates of this norm, through their average where there is one.
    fn finish(
        &self,
        cx: &StepCx<'_>,
        index: usize,
        value: Values<'_>,
        average: &mut [Slot],
        (updates, norm): (Updates<'_>, f64),
    ) -> Result<(), Error> {
        if !norm.is_finite() {
            return Err(Error::NotFinite { param: index });
        }
        let rms = norm / (value.len().max(1) as f64).sqrt();
        let clip = (1.0 / (rms / self.clip_rms).max(1.0)) as f32;
        let rate = self.rate(cx, &value) as f32;
        let decay = (cx.lr * self.weight_decay) as f32;
        if self.momentum == 0.0 {
            let rate = rate * clip;
            return apply(cx, index, value, average, updates, |p, u, []| {
                *p -= decay * *p + rate * u;
            });
        }
        let beta = cx.beta1.unwrap_or(self.momentum);
        let (b, rest) = (beta as f32, (1.0 - beta) as f32 * clip);
        apply(cx, index, value, average, updates, |p, u, [m]| {
            *m = b * *m + rest * u;
            *p -= decay * *p + rate * *m;
        })
    }

    fn step_vector(
        &self,
        cx: &StepCx<'_>,
        param: Param<'_>,
        slots: &mut [Slot],
    ) -> Result<(), Error> {
        let Param { index, shape, value, grad } = param;
        let mut u = Tensor::uninit(cx.device.pool(), Tag::Workspace, shape, Dense::F32)?;
        let rest = Self::weight(cx.step);
        let (b, rest, eps) = ((1.0 - rest) as f32, rest as f32, self.eps as f32);
        let (moment, average) = slots.split_at_mut(1);
        let to = Param { index, shape, value: u.slice_mut::<f32>().into(), grad };
        elementwise(cx, to, moment, |u, g, [v]| {
            *v = b * *v + rest * (g * g + eps);
            // Squares of tiny gradients are zero in f32, and so is their share of the update.
            *u = if *v > 0.0 { g / v.sqrt() } else { 0.0 };
        })?;
        let u = u.slice::<f32>();
        let norm = global_norm(cx.device.team(), &[u]);
        self.finish(cx, index, value, average, (Updates::Slice(u, 1.0), norm))
    }

    fn step_matrix(
        &self,
        cx: &StepCx<'_>,
        param: Param<'_>,
        slots: &mut [Slot],
    ) -> Result<(), Error> {
        let Param { index, shape, value, grad } = param;
        let scale = f64::from(cx.grad_scale).powi(2);
        let (moments, average) = slots.split_at_mut(2);
        let means = mean_squares(cx.device, shape, grad);
        let rest = Self::weight(cx.step);
        for (slot, mean) in moments.iter_mut().zip(means) {
            let state = slot.data_mut().as_f32_mut().expect("the rule asks for f32");
            for (state, mean) in state.iter_mut().zip(mean) {
                let new = (1.0 - rest) * f64::from(*state) + rest * (mean * scale + self.eps);
                *state = new as f32;
            }
        }
        let moment = |slot: &Slot| slot.data().as_f32().expect("the rule asks for f32").to_vec();
        let factors = Factors::of_moments(&moment(&moments[0]), &moment(&moments[1]));
        let factors = factors.scaled(cx.grad_scale);
        let norm = factors.norm(cx.device, grad);
        let make = |first: usize, to: &mut [f32]| factors.multiply(first, grad, to);
        self.finish(cx, index, value, average, (Updates::Made(&make), norm))
    }
}

fn is_matrix(shape: [usize; 2]) -> bool {
    shape.iter().all(|side| *side > 1)
}

impl Optimizer for Adafactor {
    fn name(&self) -> &'static str {
        "adafactor"
    }

    fn slots(&self, param: &ParamSpec) -> Vec<SlotSpec> {
        let [rows, cols] = param.shape;
        let moment = |name, shape| SlotSpec::unsigned(name, shape).in_format(Format::F32);
        let mut slots = match is_matrix(param.shape) {
            true => vec![moment("row_sq", [rows, 1]), moment("col_sq", [1, cols])],
            false => vec![moment("exp_avg_sq", param.shape)],
        };
        if self.momentum > 0.0 {
            slots.push(SlotSpec::signed("exp_avg", param.shape));
        }
        slots
    }

    fn workspace_bytes(&self, param: &ParamSpec) -> usize {
        // A vector's update is made before it is used; a matrix' is made on the way.
        let [rows, cols] = param.shape;
        if rows.min(cols) > 1 { 0 } else { rows.max(cols) * 4 }
    }

    fn step(&self, cx: &StepCx<'_>, param: Param<'_>, slots: &mut [Slot]) -> Result<(), Error> {
        check_length("value", param.shape, param.value.len())?;
        check_length("gradient", param.shape, param.grad.len())?;
        let spec = ParamSpec::new("", param.shape, crate::Role::MatrixHidden);
        let expected = self.slots(&spec).len();
        if slots.len() != expected {
            return Err(Error::Slots { expected, got: slots.len() });
        }
        match is_matrix(param.shape) {
            true => self.step_matrix(cx, param, slots),
            false => self.step_vector(cx, param, slots),
        }
    }
}
