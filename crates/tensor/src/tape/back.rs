//! What an operation sees on the way back.

use std::time::{Duration, Instant};

use smidgen_codec::Tag;

use super::{Tape, Var};
use crate::error::shape;
use crate::kernels::elementwise::{add_assign, scale};
use crate::matmul::Engine;
use crate::{Compute, Device, Error, Format, GradSink, Param, ParamId, Tensor};

/// What an operation sees on the way back.
pub(crate) struct Backward<'t, 'p> {
    pub(super) tape: &'t mut Tape<'p>,
    pub(super) sink: &'t mut dyn GradSink,
    pub(super) inputs: &'t [Var],
    pub(super) output: Var,
    /// Time the receiver of gradients took inside this operation.
    pub(super) spent: Duration,
}

impl Backward<'_, '_> {
    pub(crate) fn device(&self) -> &Device {
        &self.tape.device
    }

    pub(crate) fn compute(&self) -> Compute {
        self.tape.compute
    }

    pub(crate) fn engine(&self) -> Engine<'_> {
        self.tape.device.engine(self.tape.compute)
    }

    pub(crate) fn param(&self, id: ParamId) -> &Param {
        self.tape.params.get().get(id)
    }

    pub(crate) fn tensor(&self, shape: [usize; 2], format: Format) -> Result<Tensor, Error> {
        Tensor::uninit(self.tape.device.pool(), Tag::Activations, shape, format)
    }

    /// The value of an input.
    pub(crate) fn input(&mut self, index: usize) -> Result<Tensor, Error> {
        self.tape.materialize(self.inputs[index])
    }

    /// The value that was computed.
    pub(crate) fn output(&mut self) -> Result<Tensor, Error> {
        self.tape.materialize(self.output)
    }

    /// Whether anybody wants the gradient of an input.
    pub(crate) fn wants(&self, index: usize) -> bool {
        self.inputs.get(index).is_some_and(|var| self.tape.slots[var.0].needs_grad)
    }

    /// Takes the gradient that has gathered at an input, for an operation that adds to it in place.
    pub(crate) fn take_grad(&mut self, index: usize) -> Option<Tensor> {
        let slot = &mut self.tape.slots[self.inputs[index].0].grad;
        let mut grad = slot.take()?;
        if grad.is_sole_owner() {
            return Some(grad);
        }
        *slot = Some(grad);
        None
    }

    /// Adds a gradient to an input.
    pub(crate) fn add_grad(&mut self, index: usize, grad: Tensor) -> Result<(), Error> {
        if !self.wants(index) {
            return Ok(());
        }
        let var = self.inputs[index];
        let grad = match self.tape.slots[var.0].grad.take() {
            Some(mut sum) => {
                // The wider of the two formats holds the sum.
                let (mut sum, grad) = if sum.is_sole_owner() && sum.format() >= grad.format() {
                    (sum, grad)
                } else {
                    (grad, sum)
                };
                if !sum.is_sole_owner() || sum.format() < grad.format() {
                    sum =
                        crate::kernels::elementwise::copy_as(&self.tape.device, &sum, Format::F32)?;
                }
                add_assign(&self.tape.device, &mut sum, &grad);
                sum
            }
            None => grad,
        };
        self.tape.slots[var.0].grad = Some(grad);
        Ok(())
    }

    /// Whether a parameter learns.
    pub(crate) fn trains(&self, id: ParamId) -> bool {
        self.param(id).trainable
    }

    /// What gathered so far of a parameter's gradient.
    pub(crate) fn param_grad_started(&mut self, id: ParamId) -> Result<Option<Tensor>, Error> {
        if let Some(grad) = self.tape.partial.remove(&id) {
            return Ok(Some(grad));
        }
        let Some(mut grad) = self.sink.start(id) else {
            return Ok(None);
        };
        // Kernels write into it unchecked, and the sink may be anybody's.
        let param = self.param(id);
        if grad.shape() != param.value.shape() {
            return Err(shape(param.name.clone(), &param.value.shape(), &grad.shape()));
        }
        if grad.format() != Format::F32 || !grad.is_sole_owner() {
            return Err(Error::Value {
                what: param.name.clone(),
                expected: "a started gradient in f32 that nobody else holds".into(),
                got: format!("a shared one or one in {}", grad.format().name()),
            });
        }
        Ok(Some(grad))
    }

    /// The memory for a parameter's gradient: what gathered so far (`true`: add to it) or new memory
    /// with arbitrary content.
    pub(crate) fn param_grad(&mut self, id: ParamId) -> Result<(Tensor, bool), Error> {
        if let Some(grad) = self.param_grad_started(id)? {
            return Ok((grad, true));
        }
        let shape = self.param(id).value.shape();
        Ok((Tensor::uninit(self.tape.device.pool(), Tag::Grads, shape, Format::F32)?, false))
    }

    /// Gives the memory back with this use's gradient in it.
    pub(crate) fn finish_param(&mut self, id: ParamId, grad: Tensor) -> Result<(), Error> {
        let started = Instant::now();
        let done = self.tape.finish(id, Some(grad), self.sink);
        self.spent += started.elapsed();
        done
    }

    /// Multiplies a tensor by a number.
    pub(crate) fn scale(&self, tensor: &mut Tensor, factor: f32) {
        scale(&self.tape.device, tensor, factor);
    }
}
