//! Streamed gradients: each parameter is updated the moment its gradient is complete.

use smidgen_optim::{Clip, GradPolicy, OptimState, StepCx, global_norm};
use smidgen_tensor::{Error, GradSink, Param, ParamId, Tensor};

use crate::trainer::note_norm;

/// Updates and drops; remembers what went wrong.
pub(crate) struct Streamed<'a> {
    pub(crate) optim: &'a mut OptimState,
    pub(crate) cx: StepCx<'a>,
    /// Place of each parameter in the optimizer, none for frozen ones.
    pub(crate) places: &'a [Option<usize>],
    pub(crate) policy: GradPolicy,
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
    fn take(&mut self, id: ParamId, param: &mut Param, grad: Tensor) -> Result<(), Error> {
        let Some(place) = self.places[id.index()] else { return Ok(()) };
        let grad = grad.slice::<f32>();
        let mut cx = self.cx;
        if let Some(norms) = &mut self.norms {
            note_norm(norms, id, global_norm(cx.device.team(), &[grad]));
        }
        if self.policy.clip == Clip::Tensor {
            let norm = global_norm(cx.device.team(), &[grad]);
            self.squares = Some(self.squares.unwrap_or(0.0) + norm * norm);
            if !norm.is_finite() {
                self.finite = false;
                return Err(Error::NotFinite { param: param.name.clone() });
            }
            cx.grad_scale *= self.policy.factor(norm) as f32;
        }
        self.updated = true;
        match self.optim.step(&cx, place, (&mut param.value).into(), grad) {
            Ok(()) => Ok(()),
            Err(smidgen_optim::Error::NotFinite { .. }) => {
                self.finite = false;
                Err(Error::NotFinite { param: param.name.clone() })
            }
            Err(error) => Err(Error::Sink(Box::new(error))),
        }
    }
}
