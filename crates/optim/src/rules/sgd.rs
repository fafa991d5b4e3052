//! `sgd`: gradient descent with momentum.
//!
//! m = mu m + g; p = p - lr wd p - lr u, where u = m, or g + mu m with `nesterov`.
//! State: one slot, 4 bytes per value in f32; none where `momentum` is 0.
//! Source: Sutskever et al., On the importance of initialization and momentum in deep learning
//! (ICML 2013), in PyTorch's form, where the rate is no part of the average. Differs from PyTorch:
//! the decay is decoupled, as in every rule here, so the average knows nothing of it.

use serde::{Deserialize, Serialize};

use crate::{Error, GroupConfig, Optimizer, Param, ParamSpec, Slot, SlotSpec, StepCx, elementwise};

/// The hyper-parameters of SGD.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// Decay of the sum of gradients, in 0..1.
    pub momentum: f64,
    /// Whether the update looks one gradient further than the sum.
    pub nesterov: bool,
    /// Share of the value taken off per unit of rate.
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false, weight_decay: 0.0 }
    }
}

impl Sgd {
    pub(super) fn build(group: &mut GroupConfig) -> Result<Box<dyn Optimizer>, Error> {
        let default = Self::default();
        let rule = Self {
            momentum: *group.momentum.get_or_insert(default.momentum),
            nesterov: *group.nesterov.get_or_insert(default.nesterov),
            weight_decay: *group.weight_decay.get_or_insert(default.weight_decay),
        };
        group.check_shares("momentum", &[rule.momentum])?;
        let expected = "a number above 0 where `nesterov` is on";
        let some = !rule.nesterov || rule.momentum > 0.0;
        group.check("momentum", expected, rule.momentum, some)?;
        group.check_not_negative("weight_decay", rule.weight_decay)?;
        Ok(Box::new(rule))
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn slots(&self, param: &ParamSpec) -> Vec<SlotSpec> {
        let slot = (self.momentum > 0.0).then(|| SlotSpec::signed("momentum", param.shape));
        slot.into_iter().collect()
    }

    fn step(&self, cx: &StepCx<'_>, param: Param<'_>, slots: &mut [Slot]) -> Result<(), Error> {
        let (rate, decay) = (cx.lr as f32, (cx.lr * self.weight_decay) as f32);
        if self.momentum == 0.0 {
            return elementwise(cx, param, slots, |p, g, []| *p -= decay * *p + rate * g);
        }
        let mu = cx.beta1.unwrap_or(self.momentum) as f32;
        let (of_grad, of_sum) = if self.nesterov { (1.0, mu) } else { (0.0, 1.0) };
        elementwise(cx, param, slots, |p, g, [m]| {
            *m = mu * *m + g;
            *p -= decay * *p + rate * (of_grad * g + of_sum * *m);
        })
    }
}
