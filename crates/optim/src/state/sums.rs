//! Sums of projected gradients over the micro-batches of a step.
//!
//! Where a rule works in a subspace, the projection of each micro-batch's gradient is added up and
//! the gradient is dropped: a step over many micro-batches holds the sum, r/m of the parameter.

use std::time::Instant;

use smidgen_codec::Tag;
use smidgen_tensor::{Format, Pool, Tensor};

use super::OptimState;
use crate::{Assignment, Error, ParamSpec, Part, Role, StepCx, Values};

impl Assignment {
    /// The first matrix inside a block whose gradient is needed whole.
    pub fn whole_matrix(&self) -> Option<&str> {
        let mut params = self.params.iter();
        let whole = |(spec, group): &&(ParamSpec, usize)| {
            spec.role == Role::MatrixHidden && self.sum_shape(spec, *group).is_none()
        };
        params.find(whole).map(|(spec, _)| spec.name.as_str())
    }

    /// Bytes of what is kept of gradients over the micro-batches of a step: projections, and whole
    /// gradients where a rule needs them.
    pub fn sum_bytes(&self) -> usize {
        let values = |(spec, group): &(ParamSpec, usize)| {
            let [rows, cols] = self.sum_shape(spec, *group).unwrap_or(spec.shape);
            rows.saturating_mul(cols)
        };
        4 * self.params.iter().map(values).sum::<usize>()
    }

    fn sum_shape(&self, spec: &ParamSpec, group: usize) -> Option<[usize; 2]> {
        self.groups[group].rule.subspace()?.sum_shape(spec)
    }
}

impl OptimState {
    /// The shape in which gradients of parameter `index` are summed; none where its rule needs them
    /// whole.
    pub fn sum_shape(&self, index: usize) -> Option<[usize; 2]> {
        let (spec, group) = self.plan.params.get(index)?;
        self.plan.sum_shape(spec, *group)
    }

    /// Adds the gradient of one micro-batch, its projection alone. Whether that changed the state of
    /// the parameter: a new subspace is found in the first gradient of the step in which it is due.
    ///
    /// # Errors
    /// [`Error::Unsummed`] where gradients are needed whole, [`Error::Length`], [`Error::NotFinite`]
    /// for a gradient in which a subspace was to be found, [`Error::Tensor`] for want of memory.
    pub fn accumulate(
        &mut self,
        cx: &StepCx<'_>,
        index: usize,
        grad: &[f32],
    ) -> Result<bool, Error> {
        let shape = self.sum_shape(index).ok_or_else(|| self.unsummed(index))?;
        let start = Instant::now();
        let state = &mut self.params[index];
        let is_first = state.sum.is_none();
        let mut sum = match state.sum.take() {
            Some(sum) => sum,
            None => room(cx.device.pool(), shape)?,
        };
        let (spec, group) = &self.plan.params[index];
        let rule = self.plan.groups[*group].rule.subspace().expect("it has the shape of a sum");
        let part = Part { index, shape: spec.shape, grad, is_first };
        let slots = super::own_slots(spec, &mut state.slots);
        let changed = rule.accumulate(cx, part, slots, &mut sum)?;
        state.sum = Some(sum);
        self.spent += start.elapsed();
        Ok(changed)
    }

    /// What was added up for parameter `index` since its last update.
    pub fn sum(&self, index: usize) -> Option<&[f32]> {
        Some(self.params.get(index)?.sum.as_ref()?.slice())
    }

    /// Updates parameter `index` from the sum of its gradients, once per step, and forgets the sum.
    ///
    /// # Errors
    /// As for [`OptimState::step`], and [`Error::Unsummed`] where nothing was added up.
    pub fn step_accumulated(
        &mut self,
        cx: &StepCx<'_>,
        index: usize,
        value: Values<'_>,
    ) -> Result<(), Error> {
        let sum = self.params.get_mut(index).and_then(|state| state.sum.take());
        let sum = sum.ok_or_else(|| self.unsummed(index))?;
        self.update(cx, index, value, &[], |rule, cx, param, slots| {
            let rule = rule.subspace().expect("a rule that summed works in a subspace");
            rule.step_sum(cx, param, slots, &sum)
        })
    }

    /// Drops what was added up: the step is given up.
    pub fn forget_sums(&mut self) {
        self.params.iter_mut().for_each(|state| state.sum = None);
    }

    fn unsummed(&self, index: usize) -> Error {
        match self.plan.params.get(index) {
            Some((spec, _)) => Error::Unsummed { param: spec.name.clone() },
            None => Error::NoParam { index, count: self.params.len() },
        }
    }
}

fn room(pool: &Pool, shape: [usize; 2]) -> Result<Tensor, Error> {
    Ok(Tensor::uninit(pool, Tag::Grads, shape, Format::F32)?)
}
