//! `silu(gate) * up` of rows `[gate | up]`.

use crate::kernels::gated;
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Tape, Tensor, Var};

struct SwiGlu;

impl Op for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        gated::forward(cx.device, &inputs[0], cx.compute.format())
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let gate_up = cx.input(0)?;
        let out = gated::backward(cx.device(), &gate_up, &grad)?;
        cx.add_grad(0, out)
    }
}

impl Tape<'_> {
    /// `[rows, 2 F] -> [rows, F]` in the operand format. Cheap: made again on the way back.
    ///
    /// # Errors
    /// [`Error::Shape`] for no columns or an odd number of them, [`Error::OutOfMemory`].
    pub fn swiglu(&mut self, gate_up: Var) -> Result<Var, Error> {
        gated::check(self.shape(gate_up))?;
        self.apply(Box::new(SwiGlu), &[gate_up])
    }
}
