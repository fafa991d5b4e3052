//! `lion`: the sign of an interpolated average.
//!
//! c = b1 m + (1 - b1) g; p = p - lr (sign(c) + wd p); m = b2 m + (1 - b2) g, with sign(0) = 0.
//! State: one slot, 4 bytes per value in f32. Every value moves by the rate, so rates are 3 to 10
//! times smaller than AdamW's, and the decay as much larger.
//! Source: Chen et al., Symbolic Discovery of Optimization Algorithms (arXiv 2302.06675),
//! algorithm 2. Differs: where a schedule cycles b1, it is that of the interpolation.

use serde::{Deserialize, Serialize};

use crate::{Error, GroupConfig, Optimizer, Param, ParamSpec, Slot, SlotSpec, StepCx, elementwise};

/// The hyper-parameters of Lion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lion {
    /// The share of the average in the update, and the decay of the average; each in 0..1.
    pub betas: [f64; 2],
    /// Share of the value taken off per unit of rate.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { betas: [0.9, 0.99], weight_decay: 0.3 }
    }
}

impl Lion {
    pub(super) fn build(group: &mut GroupConfig) -> Result<Box<dyn Optimizer>, Error> {
        let default = Self::default();
        let rule = Self {
            betas: *group.betas.get_or_insert(default.betas),
            weight_decay: *group.weight_decay.get_or_insert(default.weight_decay),
        };
        group.check_shares("betas", &rule.betas)?;
        group.check_not_negative("weight_decay", rule.weight_decay)?;
        Ok(Box::new(rule))
    }
}

impl Optimizer for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn slots(&self, param: &ParamSpec) -> Vec<SlotSpec> {
        vec![SlotSpec::signed("exp_avg", param.shape)]
    }

    fn step(&self, cx: &StepCx<'_>, param: Param<'_>, slots: &mut [Slot]) -> Result<(), Error> {
        let [beta1, beta2] = [cx.beta1.unwrap_or(self.betas[0]), self.betas[1]];
        let (b1, rest1) = (beta1 as f32, (1.0 - beta1) as f32);
        let (b2, rest2) = (beta2 as f32, (1.0 - beta2) as f32);
        let (rate, decay) = (cx.lr as f32, (cx.lr * self.weight_decay) as f32);
        elementwise(cx, param, slots, |p, g, [m]| {
            *p -= decay * *p + rate * sign(b1 * *m + rest1 * g);
            // After the update, which looks one gradient further than the average.
            *m = b2 * *m + rest2 * g;
        })
    }
}

/// Zero has no sign here; `f32::signum(0.0)` is 1.
#[inline(always)]
fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1f32.copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_no_sign() {
        assert_eq!([2.5, -1e-30, 0.0, -0.0].map(sign), [1.0, -1.0, 0.0, 0.0]);
    }
}
