//! A value's dot product with fixed weights: the plainest loss.
//!
//! `loss = sum_i w_i x_i`, so the gradient of `x` is `w`. It turns any value into a loss: tests hold every
//! backward to it, and a loss made outside the tape (distillation, a policy) comes in as its gradient.

use std::sync::Arc;

use crate::kernels::elementwise::{copy_as, dot, scale};
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Format, Tape, Tensor, Var, error};

struct Dot {
    weights: Arc<Tensor>,
}

impl Op for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        let mut loss = cx.tensor([1, 1], Format::F32)?;
        loss.slice_mut::<f32>()[0] = dot(cx.device, &inputs[0], &self.weights) as f32;
        Ok(loss)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let format = cx.input(0)?.format();
        let mut dx = copy_as(cx.device(), &self.weights, format)?;
        scale(cx.device(), &mut dx, grad.slice::<f32>()[0]);
        cx.add_grad(0, dx)
    }
}

impl Tape<'_> {
    /// `sum(weights * x)` over all values: `[1, 1]` in f32. `weights` has the shape of `x`, in any format.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shapes differ, [`Error::OutOfMemory`].
    pub fn dot(&mut self, x: Var, weights: &Arc<Tensor>) -> Result<Var, Error> {
        let shape = self.shape(x);
        if weights.shape() != shape {
            return Err(error::shape("dot: weights", &shape, &weights.shape()));
        }
        self.apply(Box::new(Dot { weights: weights.clone() }), &[x])
    }
}
