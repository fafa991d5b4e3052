//! The state of a run: allocated in any format, counted, saved and loaded.

mod sums;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use smidgen_tensor::{Pool, Tensor};

use crate::{
    Assignment, Error, GroupConfig, Optimizer, Param, ParamSpec, Slot, StepCx, Values, Weights,
};

/// The slots of every parameter, and the rules that update them.
#[derive(Debug)]
pub struct OptimState {
    plan: Assignment,
    params: Vec<ParamState>,
    spent: Duration,
    /// The parameter that was updated last, and which one came after each in the step before.
    last: Option<usize>,
    after: Vec<Option<usize>>,
}

/// What the state of a group holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupCost {
    /// The group's name.
    pub group: String,
    /// Values of its parameters.
    pub values: usize,
    /// Bytes of its slots, as they lie in memory.
    pub state_bytes: usize,
}

#[derive(Debug)]
struct ParamState {
    slots: Vec<Slot>,
    /// The last update, so that a second one in the same step is found.
    step: u64,
    /// Projected gradients of the step under way.
    sum: Option<Tensor>,
}

/// A slot as it lies in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTensor<'a> {
    /// Slot and parameter: `exp_avg.layers.0.attn.q.weight`.
    pub name: String,
    /// The full name of the format.
    pub format: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The coded values.
    pub bytes: &'a [u8],
}

impl OptimState {
    /// Allocates the slots of `plan`, full of zeros, on the ledger under their tags.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the pool has no memory.
    pub fn allocate(plan: Assignment, pool: &Pool) -> Result<Self, Error> {
        let params = plan.params.iter().map(|(param, group)| {
            let group = &plan.groups[*group];
            let (rounding, paged) = (group.config.state_rounding, group.config.state_paged);
            let slots = group.slots(param);
            let slots =
                slots.map(|(spec, format)| Slot::zeroed(spec, &format, rounding, paged, pool));
            Ok(ParamState { slots: slots.collect::<Result<_, Error>>()?, step: 0, sum: None })
        });
        let params = params.collect::<Result<Vec<ParamState>, Error>>()?;
        let after = vec![None; params.len()];
        Ok(Self { plan, params, spent: Duration::ZERO, last: None, after })
    }

    /// Goes back to the state of zeros it began with.
    pub fn clear(&mut self) {
        for state in &mut self.params {
            state.slots.iter_mut().for_each(Slot::clear);
            (state.step, state.sum) = (0, None);
        }
    }

    /// Forgets what is known of parameter `index`: its weights were replaced.
    pub fn forget(&mut self, index: usize) {
        if let Some(state) = self.params.get_mut(index) {
            state.slots.iter_mut().for_each(Slot::clear);
            state.sum = None;
        }
    }

    /// Updates parameter `index` (its place in the assignment), once per step.
    ///
    /// # Errors
    /// [`Error::Twice`] for a second update in one step, [`Error::NoParam`], and what the rule says
    /// about lengths. [`Error::NotFinite`] comes after the update: the last good state must be
    /// loaded. Where gradients are held, [`all_finite`](crate::all_finite) can tell before.
    pub fn step(
        &mut self,
        cx: &StepCx<'_>,
        index: usize,
        value: Values<'_>,
        grad: &[f32],
    ) -> Result<(), Error> {
        self.update(cx, index, value, grad, |rule, cx, param, slots| rule.step(cx, param, slots))
    }

    /// One update, by whatever `step` asks of the rule.
    fn update(
        &mut self,
        cx: &StepCx<'_>,
        index: usize,
        value: Values<'_>,
        grad: &[f32],
        step: impl FnOnce(&dyn Optimizer, &StepCx<'_>, Param<'_>, &mut [Slot]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.fetch_next(index);
        let count = self.params.len();
        let state = self.params.get_mut(index).ok_or(Error::NoParam { index, count })?;
        let (spec, group) = &self.plan.params[index];
        if state.step >= cx.step {
            return Err(Error::Twice { param: spec.name.clone(), step: cx.step });
        }
        let group = &self.plan.groups[*group];
        let cx = StepCx { lr: group.config.lr * cx.multiplier, ..*cx };
        let (value, slots) = match (value, state.slots.split_last_mut()) {
            (Values::Bf16(high), Some((low, slots))) if spec.weights == Weights::Kahan => {
                let low = bytemuck::cast_slice_mut(low.data_mut().bytes_mut());
                (Values::Kahan { high, low }, slots)
            }
            (value, _) => (value, state.slots.as_mut_slice()),
        };
        let param = Param { index, shape: spec.shape, value, grad };
        let start = Instant::now();
        step(group.rule.as_ref(), &cx, param, slots)?;
        self.spent += start.elapsed();
        state.step = cx.step;
        state.slots.iter().for_each(|slot| slot.data().storage().let_go());
        Ok(())
    }

    /// Has paged state ready in time: that of the parameter whose update came after this one's in the
    /// step before. The order of updates is that of the way back, and the same in every step.
    fn fetch_next(&mut self, index: usize) {
        if let Some(after) = self.last.and_then(|last| self.after.get_mut(last)) {
            *after = Some(index);
        }
        self.last = Some(index);
        if let Some(next) = self.after.get(index).copied().flatten() {
            self.params[next].slots.iter().for_each(|slot| slot.data().storage().fetch());
        }
    }

    /// Time spent in rules since this state was made.
    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// What each group holds, in order.
    pub fn costs(&self) -> Vec<GroupCost> {
        let none = |group: &GroupConfig| GroupCost {
            group: group.name.clone(),
            values: 0,
            state_bytes: 0,
        };
        let mut costs: Vec<GroupCost> = self.groups().map(none).collect();
        for ((spec, group), state) in self.plan.params.iter().zip(&self.params) {
            costs[*group].values += spec.shape[0] * spec.shape[1];
            let bytes = |slot: &Slot| slot.data().bytes().len() + slot.data().header().len();
            costs[*group].state_bytes += state.slots.iter().map(bytes).sum::<usize>();
        }
        costs
    }

    /// The groups in order, complete.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &GroupConfig> {
        self.plan.groups()
    }

    /// The parameters in order, each with its group.
    pub fn params(&self) -> impl ExactSizeIterator<Item = (&ParamSpec, &GroupConfig)> {
        self.plan.params()
    }

    /// The slots of parameter `index`; none for a number that no parameter has.
    pub fn slots(&self, index: usize) -> &[Slot] {
        self.params.get(index).map_or(&[], |state| &state.slots)
    }

    /// Every slot, in the order of the parameters, without a copy.
    pub fn tensors(&self) -> impl Iterator<Item = StateTensor<'_>> {
        let params = self.plan.params.iter().zip(&self.params);
        params.flat_map(|((spec, _), state)| state.slots.iter().map(|slot| tensor(spec, slot)))
    }

    /// Loads saved slots. Every slot must be there, in the format and shape of this run.
    ///
    /// # Errors
    /// [`Error::MissingState`], [`Error::UnknownState`], [`Error::SavedFormat`],
    /// [`Error::SavedShape`], [`Error::SavedBytes`]; nothing is changed then.
    pub fn load<'a>(
        &mut self,
        saved: impl IntoIterator<Item = StateTensor<'a>>,
    ) -> Result<(), Error> {
        let mut saved: HashMap<String, StateTensor<'a>> =
            saved.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let take = |ours: StateTensor<'_>| match saved.remove(&ours.name) {
            Some(theirs) => fits(&ours, theirs),
            None => Err(Error::MissingState { tensor: ours.name }),
        };
        let found = self.tensors().map(take).collect::<Result<Vec<&[u8]>, Error>>()?;
        if let Some(tensor) = saved.into_keys().min() {
            return Err(Error::UnknownState { tensor });
        }
        let slots = self.params.iter_mut().flat_map(|state| &mut state.slots);
        for (slot, bytes) in slots.zip(found) {
            slot.data_mut().copy_from_parts(&[], bytes)?;
        }
        // A run that goes back to a checkpoint repeats steps.
        self.forget_sums();
        self.params.iter_mut().for_each(|state| state.step = 0);
        Ok(())
    }
}

/// The slots of the rule alone: the low part of weights is another's.
fn own_slots<'a>(spec: &ParamSpec, slots: &'a mut [Slot]) -> &'a mut [Slot] {
    let own = slots.len() - usize::from(spec.weights == Weights::Kahan);
    &mut slots[..own]
}

fn tensor<'a>(spec: &ParamSpec, slot: &'a Slot) -> StateTensor<'a> {
    let data = slot.data();
    StateTensor {
        name: format!("{}.{}", slot.spec().name, spec.name),
        format: data.format().full_name(),
        shape: data.shape(),
        bytes: data.bytes(),
    }
}

/// The bytes of `theirs` if they can stand in for `ours`.
fn fits<'a>(ours: &StateTensor<'_>, theirs: StateTensor<'a>) -> Result<&'a [u8], Error> {
    let tensor = theirs.name;
    if theirs.format != ours.format {
        let expected = ours.format.clone();
        return Err(Error::SavedFormat { tensor, expected, got: theirs.format });
    }
    if theirs.shape != ours.shape {
        return Err(Error::SavedShape { tensor, expected: ours.shape, got: theirs.shape });
    }
    let (expected, got) = (ours.bytes.len(), theirs.bytes.len());
    if expected != got {
        return Err(Error::SavedBytes { tensor, expected, got });
    }
    Ok(theirs.bytes)
}
