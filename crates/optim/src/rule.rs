//! What an update rule is, and what it is given.

use smidgen_codec::{Format, Packed, Rng, Rounding, Sign, Tag};
use smidgen_tensor::{Buffer, Device, Pool, Tensor};

use crate::{Error, ParamSpec, StateRounding, Values};

/// An update rule: arithmetic over a parameter, its gradient and some slots of state.
///
/// A rule owns hyper-parameters, never state; the state of all parameters is in
/// [`OptimState`](crate::OptimState).
pub trait Optimizer: Send + Sync + std::fmt::Debug {
    /// The name in configs.
    fn name(&self) -> &'static str;

    /// The state that this parameter needs.
    fn slots(&self, param: &ParamSpec) -> Vec<SlotSpec>;

    /// Whether the rule can update this parameter at all.
    ///
    /// # Errors
    /// [`Error::Unfit`] names the parameter and the reason.
    fn check(&self, _param: &ParamSpec) -> Result<(), Error> {
        Ok(())
    }

    /// Bytes of workspace at once in an update of this parameter, at most; none for rules that update each
    /// value by itself.
    fn workspace_bytes(&self, _param: &ParamSpec) -> usize {
        0
    }

    /// Updates one parameter and its slots, once. `slots` are those of [`Optimizer::slots`].
    ///
    /// # Errors
    /// [`Error::Slots`] or [`Error::Length`] when slots or buffers are not the parameter's;
    /// [`Error::NotFinite`] when a gradient was not finite, found after the update.
    fn step(&self, cx: &StepCx<'_>, param: Param<'_>, slots: &mut [Slot]) -> Result<(), Error>;

    /// The same rule where it can go by sums of projected gradients.
    fn subspace(&self) -> Option<&dyn Subspace> {
        None
    }
}

/// A rule whose update needs no more of a gradient than its projection: gradients of micro-batches
/// are summed there, and none is ever held whole.
pub trait Subspace {
    /// The shape of a parameter's sum; none where the rule needs whole gradients of it.
    fn sum_shape(&self, param: &ParamSpec) -> Option<[usize; 2]>;

    /// Adds a micro-batch's gradient to `sum`. The subspace stays the same until the update; where
    /// it is due, the first gradient gives a new one. Whether slots were changed.
    ///
    /// # Errors
    /// As for [`Optimizer::step`].
    fn accumulate(
        &self,
        cx: &StepCx<'_>,
        part: Part<'_>,
        slots: &mut [Slot],
        sum: &mut Tensor,
    ) -> Result<bool, Error>;

    /// The update from a sum. `param.grad` is not read.
    ///
    /// # Errors
    /// As for [`Optimizer::step`].
    fn step_sum(
        &self,
        cx: &StepCx<'_>,
        param: Param<'_>,
        slots: &mut [Slot],
        sum: &Tensor,
    ) -> Result<(), Error>;
}

/// The gradient of one micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The parameter's number.
    pub index: usize,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// `rows * cols` values.
    pub grad: &'a [f32],
    /// Whether it is the first of a step.
    pub is_first: bool,
}

/// What is the same for every parameter of a step.
#[derive(Clone, Copy)]
pub struct StepCx<'a> {
    /// Who computes, and where workspace comes from.
    pub device: &'a Device,
    /// Which update this is, from 1. Skipped steps do not count: it corrects the bias of averages.
    pub step: u64,
    /// The schedule's multiplier of this step.
    pub multiplier: f64,
    /// The scheduled rate; [`OptimState`](crate::OptimState) sets it for each parameter, to its
    /// group's base rate times `multiplier`.
    pub lr: f64,
    /// The decay of the first average, where the schedule says it; it takes the place of the rule's.
    pub beta1: Option<f64>,
    /// Gradients are multiplied by this before use: the factor of clipping and normalisation.
    pub grad_scale: f32,
    /// Random numbers for the rounding of state.
    pub rng: Rng,
}

impl<'a> StepCx<'a> {
    /// Update `step` with the multiplier, the rate and the gradient scale at 1.
    pub fn new(device: &'a Device, step: u64, rng: Rng) -> Self {
        Self { device, step, multiplier: 1.0, lr: 1.0, beta1: None, grad_scale: 1.0, rng }
    }

    /// How place `number` of parameter `param` is rounded at this step. Slots count from 0.
    pub(crate) fn stochastic(&self, param: usize, number: u8) -> Rounding {
        let tensor = (param as u64) << 8 | u64::from(number);
        Rounding::Stochastic { key: self.rng.key(self.step, tensor), first_index: 0 }
    }
}

/// One parameter in an update.
#[derive(Debug)]
pub struct Param<'a> {
    /// Its number in the model; part of the random numbers' place.
    pub index: usize,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The weights, `rows * cols` values.
    pub value: Values<'a>,
    /// The gradient, to be multiplied by [`StepCx::grad_scale`].
    pub grad: &'a [f32],
}

/// A slot of state that a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// The name in checkpoints, before the parameter's: `exp_avg`.
    pub name: &'static str,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Whether values may be negative: a dynamic format has a map for each.
    pub sign: Sign,
    /// The format, where it is not for the group to say.
    pub format: Option<Format>,
    /// What its bytes are counted as.
    pub tag: Tag,
}

impl SlotSpec {
    /// A slot for values of both signs.
    pub fn signed(name: &'static str, shape: [usize; 2]) -> Self {
        Self { name, shape, sign: Sign::Signed, format: None, tag: Tag::State }
    }

    /// A slot for values that are never negative, of which no positive one may become zero.
    pub fn unsigned(name: &'static str, shape: [usize; 2]) -> Self {
        Self { sign: Sign::Unsigned, ..Self::signed(name, shape) }
    }

    /// The same slot in this format, whatever the group says.
    pub fn in_format(self, format: Format) -> Self {
        Self { format: Some(format), ..self }
    }

    /// The same slot with its bytes counted under `tag`.
    pub fn tagged(self, tag: Tag) -> Self {
        Self { tag, ..self }
    }
}

/// Bytes of a slot from which on it is worth a place in a file.
const LEAST_PAGED_BYTES: usize = 64 << 10;

/// Whether a slot of so many bytes lies in a file where its group is paged.
pub(crate) fn pages(bytes: usize) -> bool {
    bytes >= LEAST_PAGED_BYTES
}

/// The state of one slot of one parameter, in any format.
#[derive(Debug)]
pub struct Slot {
    spec: SlotSpec,
    data: Packed<Buffer>,
    rounding: StateRounding,
}

impl Slot {
    /// A slot full of zeros, on the ledger under its tag; in the file of the pool where it is paged and
    /// large enough.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the pool has no memory.
    pub fn zeroed(
        spec: SlotSpec,
        format: &Format,
        rounding: StateRounding,
        is_paged: bool,
        pool: &Pool,
    ) -> Result<Self, Error> {
        let layout = format.layout(spec.shape);
        let bytes = match is_paged && pages(layout.code_bytes()) {
            true => pool.paged(spec.tag, layout.code_bytes())?,
            false => pool.zeroed(spec.tag, layout.code_bytes())?,
        };
        let header = vec![0; layout.header_bytes];
        let data = Packed::from_parts(format.clone(), spec.shape, header, bytes)?;
        let mut slot = Self { spec, data, rounding };
        slot.clear();
        Ok(slot)
    }

    /// Sets every value to zero.
    pub(crate) fn clear(&mut self) {
        let layout = self.data.layout();
        // Bytes of zero need not stand for values of zero.
        let unit = layout.chunk_unit().max(1);
        let zeros = vec![0.0; layout.values().min(4096usize.next_multiple_of(unit))];
        for mut chunk in self.data.chunks_mut(4096usize.next_multiple_of(unit)) {
            let values = chunk.values();
            chunk.encode(0, &zeros[..values], Rounding::Nearest);
        }
    }

    /// What the rule asked for.
    pub fn spec(&self) -> &SlotSpec {
        &self.spec
    }

    /// The values in their format.
    pub fn data(&self) -> &Packed<Buffer> {
        &self.data
    }

    /// The values in their format, for rules that need all of them at once.
    pub fn data_mut(&mut self) -> &mut Packed<Buffer> {
        &mut self.data
    }

    /// How new values are rounded: slot `number` of parameter `param` at this step.
    pub fn rounding(&self, cx: &StepCx<'_>, param: usize, number: usize) -> Rounding {
        match self.rounding {
            StateRounding::Nearest => Rounding::Nearest,
            StateRounding::Stochastic => cx.stochastic(param, number as u8),
        }
    }
}
