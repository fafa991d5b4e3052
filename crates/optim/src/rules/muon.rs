//! `muon`: momentum whose update is made orthogonal.
//!
//! m = mu m + (1 - mu) g; u = (1 - mu) g + mu m, or m without `nesterov`; O = U V^T of u's singular
//! value decomposition, by products (see [`Polar`]); p = p - lr wd p - lr s O, where s is
//! 0.2 sqrt(max(m, n)) for `scale = "rms"` and sqrt(max(1, m / n)) for `"spectral"`.
//! State: one slot, 4 bytes per value in f32; with `row_norm` one f32 per row besides. Nothing is
//! divided by the state, so 8 bits in plain blocks do: `state = "int8/2048"`.
//! For hidden matrices only: embeddings, heads and vectors have no two sides to balance.
//! Sources: Jordan et al., Muon (2024); Liu et al., Muon is Scalable (arXiv 2502.16982), for `rms`
//! and the decay; Li et al., NorMuon (arXiv 2510.05491), for `row_norm`; Chen et al., Cautious
//! Weight Decay (arXiv 2510.12402), for `cautious`. Differs: the average of `row_norm` is rescaled
//! to the norm of O, so the sizes of both scales stay what they are.

use serde::{Deserialize, Serialize};
use smidgen_codec::{Format, Tag};
use smidgen_tensor::{Device, Format as Dense, Tensor};

use crate::elementwise::check_length;
use crate::polar::{row_squares, widen};
use crate::{
    Error, GroupConfig, Optimizer, Param, ParamSpec, Polar, Role, Slot, SlotSpec, StepCx, Updates,
    apply, elementwise,
};

/// Decay of the running size of rows.
const ROW_BETA: f64 = 0.95;

/// What an orthogonal update of shape `[m, n]` is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatrixScale {
    /// 0.2 sqrt(max(m, n)): the size of an update of AdamW, so that its rates can be used.
    #[default]
    Rms,
    /// sqrt(max(1, m / n)).
    Spectral,
}

impl MatrixScale {
    fn of(self, shape: [usize; 2]) -> f64 {
        let [rows, cols] = shape.map(|side| side as f64);
        match self {
            MatrixScale::Rms => 0.2 * rows.max(cols).sqrt(),
            MatrixScale::Spectral => (rows / cols).max(1.0).sqrt(),
        }
    }
}

/// The hyper-parameters of Muon.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Muon {
    /// Decay of the average, in 0..1.
    pub momentum: f64,
    /// Whether the update looks one gradient further than the average.
    pub nesterov: bool,
    /// How the update is made orthogonal.
    pub polar: Polar,
    /// Iterations of it, from 1 to 20.
    pub iterations: usize,
    /// What the orthogonal update is multiplied by.
    pub scale: MatrixScale,
    /// Whether each row is divided by its own running size.
    pub row_norm: bool,
    /// Whether decay acts only on values that the update makes smaller too.
    pub cautious: bool,
    /// Share of the value taken off per unit of rate.
    pub weight_decay: f64,
}

impl Default for Muon {
    fn default() -> Self {
        Self {
            momentum: 0.95,
            nesterov: true,
            polar: Polar::default(),
            iterations: 5,
            scale: MatrixScale::default(),
            row_norm: false,
            cautious: false,
            weight_decay: 0.1,
        }
    }
}

impl Muon {
    pub(super) const KEYS: &[&str] = &[
        "weight_decay",
        "momentum",
        "nesterov",
        "polar",
        "iterations",
        "scale",
        "row_norm",
        "cautious",
    ];

    pub(super) fn build(group: &mut GroupConfig) -> Result<Box<dyn Optimizer>, Error> {
        let default = Self::default();
        let rule = Self {
            momentum: *group.momentum.get_or_insert(default.momentum),
            nesterov: *group.nesterov.get_or_insert(default.nesterov),
            polar: *group.polar.get_or_insert(default.polar),
            iterations: *group.iterations.get_or_insert(default.iterations),
            scale: *group.scale.get_or_insert(default.scale),
            row_norm: *group.row_norm.get_or_insert(default.row_norm),
            cautious: *group.cautious.get_or_insert(default.cautious),
            weight_decay: *group.weight_decay.get_or_insert(default.weight_decay),
        };
        group.check_shares("momentum", &[rule.momentum])?;
        let good = (1..=20).contains(&rule.iterations);
        group.check("iterations", "a number from 1 to 20", rule.iterations as f64, good)?;
        group.check_not_negative("weight_decay", rule.weight_decay)?;
        Ok(Box::new(rule))
    }

    /// Updates the average, and makes of it what is to be orthogonal.
    fn average(
        &self,
        cx: &StepCx<'_>,
        (index, shape, grad): (usize, [usize; 2], &[f32]),
        momentum: &mut [Slot],
    ) -> Result<Tensor, Error> {
        let beta = cx.beta1.unwrap_or(self.momentum);
        let (b, rest) = (beta as f32, (1.0 - beta) as f32);
        let (of_grad, of_average) = if self.nesterov { (rest, b) } else { (0.0, 1.0) };
        let mut u = Tensor::uninit(cx.device.pool(), Tag::Workspace, shape, Dense::F32)?;
        let to = Param { index, shape, value: u.slice_mut::<f32>().into(), grad };
        elementwise(cx, to, momentum, |u, g, [m]| {
            *m = b * *m + rest * g;
            *u = of_grad * g + of_average * *m;
        })?;
        Ok(u)
    }

    /// p = p - lr wd p - lr s O with a factor for each row of O.
    fn finish(
        &self,
        cx: &StepCx<'_>,
        param: Param<'_>,
        update: &Tensor,
        rows: &[f32],
    ) -> Result<(), Error> {
        let rate = (cx.lr * self.scale.of(param.shape)) as f32;
        let decay = (cx.lr * self.weight_decay) as f32;
        let cols = param.shape[1];
        let make = |first: usize, to: &mut [f32]| {
            widen(update, first, to);
            if !rows.is_empty() {
                let rows = (first..).map(|at| rows[at / cols]);
                to.iter_mut().zip(rows).for_each(|(to, row)| *to *= row);
            }
        };
        let (value, made) = (param.value, Updates::Made(&make));
        match self.cautious {
            false => apply(cx, param.index, value, &mut [], made, |p, o, []| {
                *p -= decay * *p + rate * o;
            }),
            true => apply(cx, param.index, value, &mut [], made, |p, o, []| {
                let decay = if o * *p >= 0.0 { decay } else { 0.0 };
                *p -= decay * *p + rate * o;
            }),
        }
    }
}

/// Updates the running size of each row, and gives factors that make rows of `update` alike in size
/// and leave its norm as it is.
fn row_factors(device: &Device, update: &Tensor, running: &mut [f32]) -> Vec<f32> {
    let squares = row_squares(device, update);
    let cols = update.cols().max(1) as f64;
    for (running, square) in running.iter_mut().zip(&squares) {
        *running = (ROW_BETA * f64::from(*running) + (1.0 - ROW_BETA) * square / cols) as f32;
    }
    // The average starts at zero: what is missing at first is the same in all rows and falls out.
    let root = |x: &f32| if *x > 0.0 { 1.0 / f64::from(*x).sqrt() } else { 0.0 };
    let factors: Vec<f64> = running.iter().map(root).collect();
    let after: f64 = squares.iter().zip(&factors).map(|(square, by)| square * by * by).sum();
    let before: f64 = squares.iter().sum();
    let keep = if after > 0.0 { (before / after).sqrt() } else { 0.0 };
    factors.iter().map(|factor| (factor * keep) as f32).collect()
}

impl Optimizer for Muon {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn slots(&self, param: &ParamSpec) -> Vec<SlotSpec> {
        let rows = SlotSpec::unsigned("row_sq", [param.shape[0], 1]).in_format(Format::F32);
        let momentum = SlotSpec::signed("momentum", param.shape);
        [momentum].into_iter().chain(self.row_norm.then_some(rows)).collect()
    }

    fn check(&self, param: &ParamSpec) -> Result<(), Error> {
        let why = if param.role != Role::MatrixHidden {
            format!("its role is `{}`, not `matrix_hidden`", param.role.name())
        } else if param.shape.iter().any(|side| *side < 2) {
            format!("its shape {:?} is no matrix", param.shape)
        } else {
            return Ok(());
        };
        Err(Error::Unfit {
            group: String::new(),
            rule: self.name(),
            param: param.name.clone(),
            why,
            hint: "give this group `role = \"matrix_hidden\"`, and end with a group of another rule, such as `rule = \"adamw\"`",
        })
    }

    fn workspace_bytes(&self, param: &ParamSpec) -> usize {
        Polar::workspace_bytes(param.shape)
    }

    fn step(&self, cx: &StepCx<'_>, param: Param<'_>, slots: &mut [Slot]) -> Result<(), Error> {
        check_length("value", param.shape, param.value.len())?;
        let (got, expected) = (slots.len(), 1 + usize::from(self.row_norm));
        if got != expected {
            return Err(Error::Slots { expected, got });
        }
        let (momentum, row_sq) = slots.split_at_mut(1);
        let u = self.average(cx, (param.index, param.shape, param.grad), momentum)?;
        let update = self.polar.orthogonal(cx.device, self.iterations, u)?;
        let rows = match row_sq {
            [slot] => {
                let running = slot.data_mut().as_f32_mut().expect("the rule asks for f32");
                check_length("row_sq", [param.shape[0], 1], running.len())?;
                row_factors(cx.device, &update, running)
            }
            _ => Vec::new(),
        };
        self.finish(cx, param, &update, &rows)
    }
}
