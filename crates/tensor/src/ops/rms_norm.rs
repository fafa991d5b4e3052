//! RMS norm over whole rows, or over each head inside a range of columns.

use std::ops::Range;

use crate::kernels::norm::{self, Groups};
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Format, ParamId, Tape, Tensor, Var, error};

struct RmsNorm {
    weight: ParamId,
    groups: Groups,
    /// A norm of whole rows is cheap to make again; a head norm feeds an operation that works in place.
    cheap: bool,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn params(&self) -> Vec<ParamId> {
        vec![self.weight]
    }

    fn is_cheap(&self) -> bool {
        self.cheap
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        let weight = cx.params.get(self.weight).value.slice::<f32>();
        norm::forward(cx.device, &inputs[0], weight, &self.groups, cx.compute.format())
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let x = cx.input(0)?;
        let (mut dx, add) = match cx.take_grad(0) {
            Some(dx) if dx.format() == Format::F32 || dx.format() == x.format() => (dx, true),
            Some(dx) => {
                cx.add_grad(0, dx)?;
                (cx.tensor(x.shape(), x.format())?, false)
            }
            None => (cx.tensor(x.shape(), x.format())?, false),
        };
        let weight = cx.param(self.weight).value.clone();
        let sums =
            norm::backward(cx.device(), &x, weight.slice(), &self.groups, &grad, &mut dx, add)?;
        // The update below needs the weight to itself.
        drop(weight);
        cx.add_grad(0, dx)?;
        if !cx.trains(self.weight) {
            return Ok(());
        }
        let (mut dw, started) = cx.param_grad(self.weight)?;
        for (to, from) in dw.slice_mut::<f32>().iter_mut().zip(sums) {
            *to = if started { *to + from } else { from };
        }
        cx.finish_param(self.weight, dw)
    }
}

impl Tape<'_> {
    /// `x / rms(x) * weight` over whole rows, in the operand format. Cheap: made again on the way back.
    ///
    /// # Errors
    /// [`Error::Shape`] when the weight is not `[1, cols]`, [`Error::OutOfMemory`].
    pub fn rms_norm(&mut self, x: Var, weight: ParamId, eps: f32) -> Result<Var, Error> {
        let cols = self.shape(x)[1];
        self.norm(x, weight, eps, 0..cols, cols, true)
    }

    /// The same over each group of `weight` columns inside `range`; other columns are copied.
    ///
    /// # Errors
    /// [`Error::Shape`] when the weight is no row, [`Error::Value`] when the range is not whole groups inside
    /// `x`, [`Error::OutOfMemory`].
    pub fn rms_norm_heads(
        &mut self,
        x: Var,
        weight: ParamId,
        eps: f32,
        range: Range<usize>,
    ) -> Result<Var, Error> {
        let width = self.params().get(weight).value.cols();
        self.norm(x, weight, eps, range, width, false)
    }

    fn norm(
        &mut self,
        x: Var,
        weight: ParamId,
        eps: f32,
        range: Range<usize>,
        width: usize,
        cheap: bool,
    ) -> Result<Var, Error> {
        let param = self.params().get(weight);
        if param.value.shape() != [1, width] {
            return Err(error::shape(param.name.clone(), &[1, width], &param.value.shape()));
        }
        norm::check(param, &range, self.shape(x)[1])?;
        self.apply(Box::new(RmsNorm { weight, groups: Groups { range, eps }, cheap }), &[x])
    }
}
