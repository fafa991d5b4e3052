//! Streamed gradients: each parameter is updated the moment its gradient is complete, or, over several
//! micro-batches, that of the last one.

use smidgen_optim::{Clip, GradPolicy, OptimState, StepCx, global_norm};
use smidgen_tensor::{Error, GradSink, HeldGrads, Param, ParamId, Tensor};

use crate::trainer::note_norm;

/// Updates and drops; remembers what went wrong.
pub(crate) struct Streamed<'a> {
    pub(crate) optim: &'a mut OptimState,
    pub(crate) cx: StepCx<'a>,
    /// Place of each parameter in the optimizer, none for frozen ones.
    pub(crate) places: &'a [Option<usize>],
    pub(crate) policy: GradPolicy,
    /// Whole gradients of the micro-batches so far.
    pub(crate) held: &'a mut HeldGrads,
    /// Whether this is the micro-batch after which parameters are updated.
    pub(crate) is_last: bool,
    /// Where norms are noted, when they are.
    pub(crate) norms: Option<&'a mut Vec<f64>>,
    /// Sum of squares, where norms are computed.
    pub(crate) squares: Option<f64>,
    /// Whether every gradient so far was finite.
    pub(crate) finite: bool,
    /// Whether a parameter was updated, by whatever.
    pub(crate) updated: bool,
}

impl GradSink for Streamed<'_> {
    fn start(&mut self, id: ParamId) -> Option<Tensor> {
        self.held.remove(id)
    }

    fn take(&mut self, id: ParamId, param: &mut Param, grad: Tensor) -> Result<(), Error> {
        let Some(place) = self.places[id.index()] else { return Ok(()) };
        let sums = self.policy.grad_accum > 1 && self.optim.sum_shape(place).is_some();
        if sums {
            let changed = self.optim.accumulate(&self.cx, place, grad.slice());
            self.updated |= self.told(param, changed)?;
        }
        if !self.is_last {
            return if sums { Ok(()) } else { self.held.take(id, param, grad) };
        }
        let cx = self.scaled(id, place, param, &grad, sums)?;
        self.updated = true;
        let value = (&mut param.value).into();
        let done = match sums {
            true => self.optim.step_accumulated(&cx, place, value),
            false => self.optim.step(&cx, place, value, grad.slice()),
        };
        self.told(param, done)
    }
}

impl<'a> Streamed<'a> {
    /// The step's context with the factor of clipping. Of a sum of projected gradients, the norm is
    /// that of the sum: the whole gradient was never there.
    fn scaled(
        &mut self,
        id: ParamId,
        place: usize,
        param: &Param,
        grad: &Tensor,
        sums: bool,
    ) -> Result<StepCx<'a>, Error> {
        let mut cx = self.cx;
        if self.norms.is_none() && self.policy.clip != Clip::Tensor {
            return Ok(cx);
        }
        let sum = self.optim.sum(place).filter(|_| sums);
        let norm = global_norm(cx.device.team(), &[sum.unwrap_or(grad.slice())]);
        if let Some(norms) = &mut self.norms {
            note_norm(norms, id, norm);
        }
        if self.policy.clip == Clip::Tensor {
            self.squares = Some(self.squares.unwrap_or(0.0) + norm * norm);
            if !norm.is_finite() {
                self.finite = false;
                return Err(Error::NotFinite { param: param.name.clone() });
            }
            cx.grad_scale *= self.policy.factor(norm) as f32;
        }
        Ok(cx)
    }

    /// What the optimizer said, as the engine passes it on.
    fn told<T>(
        &mut self,
        param: &Param,
        said: Result<T, smidgen_optim::Error>,
    ) -> Result<T, Error> {
        said.map_err(|error| match error {
            smidgen_optim::Error::NotFinite { .. } => {
                self.finite = false;
                Error::NotFinite { param: param.name.clone() }
            }
            error => Error::Sink(Box::new(error)),
        })
    }
}
