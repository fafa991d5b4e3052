//! `galore`, `galore2`, `adarank`: any rule, in the leading subspace of the gradient.
//!
//! For a matrix `[m, n]` with m <= n and an orthonormal basis B `[r, m]`: the gradient G becomes
//! R = B G `[r, n]`, the rule updates a matrix of that shape from zero, N, and
//! W = W + scale B^T N - lr wd W. With m > n the same on the other side: R = G B^T, W + scale N B.
//! So the rule's state is of R's shape, and besides it there are the basis and a few numbers. The
//! decay acts on the whole weights. Every `refresh` updates the basis is found anew: `galore` from
//! all singular vectors, `galore2` and `adarank` by random projection; `adaptive` doubles the period
//! where the first direction stands still. `adarank` uses only as many directions as hold the share
//! `energy`, never more than before; state is allocated for the largest rank.
//! Source: Zhao et al., GaLore (arXiv 2403.03507); Su et al., GaLore 2 (arXiv 2504.20437); Zhang et
//! al., Q-GaLore (arXiv 2407.08296); Refael et al., AdaRankGrad (arXiv 2410.17881). Differs: averages
//! are turned with the subspace by default (`moments`); projections multiply in f32. A rule that
//! scales by the shape of a matrix sees that of R.

use smidgen_codec::{Format, Tag};
use smidgen_tensor::{Blend, Compute, Operand, Role, Tensor, product};

use super::phase::{PHASE, Phase};
use super::refresh::basis;
use super::{Moments, ProjectionKind, Rank};
use crate::linalg::scratch;
use crate::{
    Error, Optimizer, Param, ParamSpec, Part, Slot, SlotSpec, StepCx, Subspace, Values, Weights,
    elementwise,
};

/// A rule in a subspace.
#[derive(Debug)]
pub(super) struct Projected {
    pub(super) inner: Box<dyn Optimizer>,
    pub(super) kind: ProjectionKind,
    pub(super) rank: Rank,
    pub(super) refresh: u64,
    pub(super) adaptive: bool,
    pub(super) scale: f32,
    pub(super) moments: Moments,
    /// Of the basis.
    pub(super) format: Format,
    /// The share that the rank must hold, where it may shrink.
    pub(super) energy: Option<f64>,
    pub(super) weight_decay: f64,
    /// Whether decay acts only where it points the way of the update.
    pub(super) is_cautious: bool,
    /// Whether a pattern names the parameters: then those of any role are projected.
    pub(super) is_named: bool,
    /// Roles that the group names.
    pub(super) roles: Vec<Role>,
}

/// How a matrix is projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Directions in the basis.
    pub(super) rank: usize,
    /// The smaller side.
    pub(super) side: usize,
    /// Whether that is the rows.
    pub(super) is_left: bool,
    shape: [usize; 2],
}

impl Plan {
    fn new(shape @ [rows, cols]: [usize; 2], rank: usize) -> Plan {
        Plan { rank, side: rows.min(cols), is_left: rows <= cols, shape }
    }

    /// The shape of the projected gradient.
    fn small(&self) -> [usize; 2] {
        let [rows, cols] = self.shape;
        if self.is_left { [self.rank, cols] } else { [rows, self.rank] }
    }

    /// The side of the projected gradient along which the directions lie.
    pub(super) fn axis(&self) -> usize {
        if self.is_left { 0 } else { 1 }
    }

    /// A gradient with the smaller side as its rows.
    pub(super) fn oriented<'a>(&self, grad: &'a [f32]) -> Result<Operand<'a>, Error> {
        let operand = Operand::slice(grad, self.shape)?;
        Ok(if self.is_left { operand } else { operand.transposed() })
    }

    /// An update from the subspace, times `scale`.
    fn lift(
        &self,
        cx: &StepCx<'_>,
        basis: &Tensor,
        small: &Tensor,
        scale: f32,
    ) -> Result<Tensor, Error> {
        let mut out = scratch(cx.device, self.shape)?;
        let (basis, small) = (Operand::of(basis), Operand::of(small));
        let (a, b) = if self.is_left { (basis.transposed(), small) } else { (small, basis) };
        product(cx.device, Compute::F32, a, b, Blend::scaled(scale), &mut out)?;
        Ok(out)
    }
}

impl Projected {
    /// How a parameter is projected; none for one that the rule updates whole.
    fn plan(&self, param: &ParamSpec) -> Option<Plan> {
        let side = param.shape[0].min(param.shape[1]);
        let is_meant =
            param.role == Role::MatrixHidden || self.is_named || self.roles.contains(&param.role);
        let rank = self.rank.of(side);
        (is_meant && side > 1 && rank < side).then(|| Plan::new(param.shape, rank))
    }

    /// The parameter that the rule sees.
    fn small(&self, param: &ParamSpec) -> ParamSpec {
        let plan = self.plan(param);
        let shape = plan.map_or(param.shape, |plan| plan.small());
        let weights = if plan.is_some() { Weights::F32 } else { param.weights };
        ParamSpec { shape, weights, ..param.clone() }
    }

    /// Room for the projected gradient of a parameter of this shape.
    fn sum(&self, cx: &StepCx<'_>, slots: &[Slot], shape: [usize; 2]) -> Result<Tensor, Error> {
        scratch(cx.device, Plan::new(shape, slots[1].data().shape()[0]).small())
    }

    /// Adds a lifted step to the whole parameter, and takes the decay off.
    fn apply(&self, cx: &StepCx<'_>, param: Param<'_>) -> Result<(), Error> {
        let cx = StepCx { grad_scale: 1.0, ..*cx };
        let decay = (cx.lr * self.weight_decay) as f32;
        if self.is_cautious {
            return elementwise(&cx, param, &mut [], |p, step, []| {
                let decay = if step * *p <= 0.0 { decay } else { 0.0 };
                *p += step - decay * *p;
            });
        }
        elementwise(&cx, param, &mut [], |p, step, []| *p += step - decay * *p)
    }
}

/// Phase, projector and the rule's own slots; none where the parameter is not projected.
fn parts(slots: &mut [Slot]) -> Option<(&mut Slot, &mut Slot, &mut [Slot])> {
    match slots {
        [phase, projector, inner @ ..] if phase.spec().name == PHASE => {
            Some((phase, projector, inner))
        }
        _ => None,
    }
}

fn not_projected() -> Error {
    Error::Slots { expected: 2, got: 0 }
}

fn check_length(what: &'static str, shape: [usize; 2], got: usize) -> Result<(), Error> {
    let expected = shape[0].saturating_mul(shape[1]);
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

impl Optimizer for Projected {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn slots(&self, param: &ParamSpec) -> Vec<SlotSpec> {
        let Some(plan) = self.plan(param) else { return self.inner.slots(param) };
        let own = [
            Phase::spec().in_format(Format::F32).tagged(Tag::Proj),
            SlotSpec::signed("projector", [plan.rank, plan.side])
                .in_format(self.format.clone())
                .tagged(Tag::Proj),
        ];
        own.into_iter().chain(self.inner.slots(&self.small(param))).collect()
    }

    fn check(&self, param: &ParamSpec) -> Result<(), Error> {
        let [rows, cols] = param.shape;
        match self.rank {
            Rank::Count(rank) if rank > rows.min(cols) && rows.min(cols) > 1 => Err(Error::Unfit {
                group: String::new(),
                rule: self.inner.name(),
                param: param.name.clone(),
                why: format!(
                    "`galore_rank = {rank}` is over the smaller side of {:?}",
                    param.shape
                ),
                hint: "a rank such as `galore_rank = 0.25` is a share of the smaller side",
            }),
            _ => self.inner.check(&self.small(param)),
        }
    }

    fn workspace_bytes(&self, param: &ParamSpec) -> usize {
        let Some(plan) = self.plan(param) else { return self.inner.workspace_bytes(param) };
        let values = |[rows, cols]: [usize; 2]| rows.saturating_mul(cols).saturating_mul(4);
        // The lifted step, its small one and the projected gradient, the directions and their panels.
        let lifted = values(param.shape).saturating_add(3 * values([plan.rank, plan.side]));
        let small = 2 * values(plan.small()) + self.inner.workspace_bytes(&self.small(param));
        // A refresh works on bands a little wider than the rank, along both sides.
        let bands = 2 * values([plan.rank + 16, param.shape[0] + param.shape[1]]);
        lifted.saturating_add(small).saturating_add(bands)
    }

    fn step(&self, cx: &StepCx<'_>, param: Param<'_>, slots: &mut [Slot]) -> Result<(), Error> {
        if parts(slots).is_none() {
            return self.inner.step(cx, param, slots);
        }
        check_length("value", param.shape, param.value.len())?;
        let Param { index, shape, grad, .. } = param;
        let mut small = self.sum(cx, slots, shape)?;
        self.accumulate(cx, Part { index, shape, grad, is_first: true }, slots, &mut small)?;
        self.step_sum(cx, param, slots, &small)
    }

    fn subspace(&self) -> Option<&dyn Subspace> {
        Some(self)
    }
}

impl Subspace for Projected {
    fn sum_shape(&self, param: &ParamSpec) -> Option<[usize; 2]> {
        self.plan(param).map(|plan| plan.small())
    }

    fn accumulate(
        &self,
        cx: &StepCx<'_>,
        part: Part<'_>,
        slots: &mut [Slot],
        sum: &mut Tensor,
    ) -> Result<bool, Error> {
        let (phase, projector, inner) = parts(slots).ok_or_else(not_projected)?;
        check_length("gradient", part.shape, part.grad.len())?;
        let plan = Plan::new(part.shape, projector.data().shape()[0]);
        let is_due = part.is_first && Phase::load(phase).is_due();
        if is_due {
            self.refresh(cx, part.index, &plan, part.grad, [phase, projector], inner)?;
        }
        let basis = basis(cx, projector)?;
        let (gradient, basis) = (Operand::slice(part.grad, part.shape)?, Operand::of(&basis));
        let (a, b) = if plan.is_left { (basis, gradient) } else { (gradient, basis.transposed()) };
        let blend = if part.is_first { Blend::SET } else { Blend::SET.onto(1.0) };
        product(cx.device, Compute::F32, a, b, blend, sum)?;
        Ok(is_due)
    }

    fn step_sum(
        &self,
        cx: &StepCx<'_>,
        param: Param<'_>,
        slots: &mut [Slot],
        sum: &Tensor,
    ) -> Result<(), Error> {
        let (phase, projector, inner) = parts(slots).ok_or_else(not_projected)?;
        check_length("value", param.shape, param.value.len())?;
        let plan = Plan::new(param.shape, projector.data().shape()[0]);
        let (index, shape) = (param.index, plan.small());
        let mut step = scratch(cx.device, shape)?;
        step.slice_mut::<f32>().fill(0.0);
        let value = Values::F32(step.slice_mut());
        self.inner.step(cx, Param { index, shape, value, grad: sum.slice() }, inner)?;
        let mut now = Phase::load(phase);
        now.age += 1;
        now.store(phase);
        let lifted = plan.lift(cx, &basis(cx, projector)?, &step, self.scale)?;
        drop(step);
        self.apply(cx, Param { grad: lifted.slice(), ..param })
    }
}
