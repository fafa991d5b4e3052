//! The sum of a stream and what a block adds to it, with dropout.

use crate::kernels::dropout::{self, Dropout};
use crate::kernels::elementwise::{add_assign, copy_as};
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Format, Tape, Tensor, Var, error};

struct Add {
    dropout: Option<Dropout>,
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        if let Some(dropout) = &self.dropout {
            return dropout::forward(cx.device, &inputs[0], &inputs[1], dropout);
        }
        let mut out = copy_as(cx.device, &inputs[0], Format::F32)?;
        add_assign(cx.device, &mut out, &inputs[1]);
        Ok(out)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let dy = match &self.dropout {
            Some(dropout) => dropout::backward(cx.device(), &grad, dropout, cx.compute().format())?,
            None => grad.clone(),
        };
        cx.add_grad(1, dy)?;
        cx.add_grad(0, grad)
    }
}

impl Tape<'_> {
    /// `x + y` in f32, where dropout sets values of `y` to zero and scales the others up.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shapes differ, [`Error::Value`] for a rate that is not from 0 to below 1,
    /// [`Error::OutOfMemory`].
    pub fn add(&mut self, x: Var, y: Var, dropout: Option<Dropout>) -> Result<Var, Error> {
        if self.shape(y) != self.shape(x) {
            return Err(error::shape("add", &self.shape(x), &self.shape(y)));
        }
        if let Some(Dropout { rate, .. }) = dropout.filter(|d| !(0.0..1.0).contains(&d.rate)) {
            return Err(Error::Value {
                what: "add: dropout".into(),
                expected: "a rate from 0 to below 1".into(),
                got: rate.to_string(),
            });
        }
        self.apply(Box::new(Add { dropout }), &[x, y])
    }
}
