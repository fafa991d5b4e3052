//! `adamw`: Adam with decoupled weight decay.
//!
//! m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, both corrected by 1 / (1 - b^t);
//! p = p - lr wd p - lr m^ / (sqrt(v^) + eps).
//! State: two slots, 8 bytes per value in f32. The decay acts on the old value with the scheduled
//! rate, and eps stands outside the root. Corrections are computed in f64, once per step.
//! Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (arXiv 1711.05101),
//! algorithm 2. Differs: the schedule's multiplier is in the rate; where a schedule cycles b1, the
//! correction takes the present one, as PyTorch does.

use serde::{Deserialize, Serialize};

use crate::{Error, GroupConfig, Optimizer, Param, ParamSpec, Slot, SlotSpec, StepCx, elementwise};

/// The hyper-parameters of AdamW; the defaults are those of pre-training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Decay of the two averages, each in 0..1.
    pub betas: [f64; 2],
    /// Added to the root of the second average.
    pub eps: f64,
    /// Share of the value taken off per unit of rate.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamW {
    pub(super) fn build(group: &mut GroupConfig) -> Result<Box<dyn Optimizer>, Error> {
        let default = Self::default();
        let rule = Self {
            betas: *group.betas.get_or_insert(default.betas),
            eps: *group.eps.get_or_insert(default.eps),
            weight_decay: *group.weight_decay.get_or_insert(default.weight_decay),
        };
        group.check_shares("betas", &rule.betas)?;
        group.check_not_negative("eps", rule.eps)?;
        group.check_not_negative("weight_decay", rule.weight_decay)?;
        Ok(Box::new(rule))
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn slots(&self, param: &ParamSpec) -> Vec<SlotSpec> {
        let shape = param.shape;
        vec![SlotSpec::signed("exp_avg", shape), SlotSpec::unsigned("exp_avg_sq", shape)]
    }

    fn step(&self, cx: &StepCx<'_>, param: Param<'_>, slots: &mut [Slot]) -> Result<(), Error> {
        let correction = |beta: f64| 1.0 - beta.powf(cx.step as f64);
        let [beta1, beta2] = [cx.beta1.unwrap_or(self.betas[0]), self.betas[1]];
        let (b1, rest1) = (beta1 as f32, (1.0 - beta1) as f32);
        let (b2, rest2) = (beta2 as f32, (1.0 - beta2) as f32);
        let rate = (cx.lr / correction(beta1)) as f32;
        let unbias = (1.0 / correction(beta2)) as f32;
        // Small numbers are exact enough in f32; 1 - lr wd would err the same way at every step.
        let decay = (cx.lr * self.weight_decay) as f32;
        let eps = self.eps as f32;
        elementwise(cx, param, slots, |p, g, [m, v]| {
            *m = b1 * *m + rest1 * g;
            *v = b2 * *v + rest2 * (g * g);
            *p -= decay * *p + rate * *m / ((*v * unbias).sqrt() + eps);
        })
    }
}
