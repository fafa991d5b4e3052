//! `x Phi(x)`, value by value.

use crate::kernels::gelu;
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Tape, Tensor, Var};

struct Gelu;

impl Op for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        gelu::forward(cx.device, &inputs[0], cx.compute.format())
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let x = cx.input(0)?;
        let dx = gelu::backward(cx.device(), &x, &grad)?;
        cx.add_grad(0, dx)
    }
}

impl Tape<'_> {
    /// The exact GELU of every value, in the operand format. Cheap: made again on the way back.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn gelu(&mut self, x: Var) -> Result<Var, Error> {
        self.apply(Box::new(Gelu), &[x])
    }
}
