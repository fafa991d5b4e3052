//! One training step after another on the same random tokens, with its time taken apart.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use smidgen_codec::{Rng, Stream};
use smidgen_model::{Decoder, Spec, TokenBatch};
use smidgen_optim::{
    Assignment, Clip, GradMode, GradPolicy, GroupConfig, OptimState, ParamSpec, Role, StepCx,
    global_norm,
};
use smidgen_tensor::{
    Compute, Device, Error, GradSink, HeldGrads, Keep, Param, ParamId, Params, Tape, Targets,
    Tensor,
};

use super::shape::Shape;

/// The rates of the PyTorch peer.
const LR: f64 = 3e-4;
const WEIGHT_DECAY: f64 = 0.1;

/// One step: its loss, its seconds in all and by operation.
pub(super) struct Timing {
    pub(super) loss: f64,
    pub(super) seconds: f64,
    pub(super) ops: BTreeMap<&'static str, f64>,
}

/// A model in training.
pub(super) struct Stepper {
    pub(super) device: Device,
    pub(super) params: Params,
    compute: Compute,
    decoder: Decoder,
    state: OptimState,
    policy: GradPolicy,
    batch: TokenBatch,
    targets: Targets,
    keep: Keep,
}

impl Stepper {
    /// Everything a step needs; `logits_bytes` of logits are alive at once, at most.
    pub(super) fn new(
        shape: &Shape,
        policy: GradPolicy,
        keep: Keep,
        logits_bytes: usize,
    ) -> Result<Stepper> {
        let device = shape.device();
        let (decoder, params) = shape.model(&device)?;
        let state = OptimState::allocate(assignment(&params)?, device.pool())?;
        let tokens = shape.tokens(shape.batch * shape.context);
        let targets = targets(&tokens, shape.context, logits_bytes);
        let batch = TokenBatch::whole(shape.batch, tokens)?;
        let compute = shape.mode.compute();
        Ok(Stepper { device, params, compute, decoder, state, policy, batch, targets, keep })
    }

    /// The shape of the model.
    pub(super) fn spec(&self) -> &Spec {
        self.decoder.spec()
    }

    /// Update `step`, counted from 1.
    pub(super) fn step(&mut self, step: u64) -> Result<Timing> {
        let started = Instant::now();
        let device = self.device.clone();
        let cx = StepCx::new(&device, step, Rng::new(0, Stream::Rounding));
        let mut tape = Tape::training(&device, self.compute, &mut self.params);
        let loss = self.decoder.loss(&mut tape, &self.batch, self.targets.clone(), self.keep)?;
        let value = tape.value(loss).map_or(f64::NAN, |loss| f64::from(loss.slice::<f32>()[0]));
        let mut held = HeldGrads::new();
        let gradients = match self.policy.grad {
            GradMode::Held => tape.backward(loss, &mut held)?,
            GradMode::Streamed => {
                tape.backward(loss, &mut Update { state: &mut self.state, cx })?
            }
        };
        let profile = gradients.profile().iter();
        let mut ops: BTreeMap<_, _> = profile.map(|(op, t)| (*op, t.as_secs_f64())).collect();
        drop(gradients);
        let updating = Instant::now();
        self.update_held(cx, held)?;
        *ops.entry("sink").or_default() += updating.elapsed().as_secs_f64();
        Ok(Timing { loss: value, seconds: started.elapsed().as_secs_f64(), ops })
    }

    /// Clips and uses held gradients; there are none when they were streamed.
    fn update_held(&mut self, cx: StepCx<'_>, mut held: HeldGrads) -> Result<()> {
        let mut grad_scale = 1.0;
        if self.policy.clip == Clip::Global {
            let grads = self.params.iter().filter_map(|(id, _)| held.get(id));
            let grads: Vec<&[f32]> = grads.map(|grad| grad.slice::<f32>()).collect();
            grad_scale = self.policy.factor(global_norm(cx.device.team(), &grads)) as f32;
        }
        let mut sink = Update { state: &mut self.state, cx: StepCx { grad_scale, ..cx } };
        for (id, param) in self.params.iter_mut() {
            if let Some(grad) = held.remove(id) {
                sink.take(id, param, grad)?;
            }
        }
        Ok(())
    }
}

/// Updates a parameter the moment its gradient is there, and lets the gradient go.
struct Update<'a> {
    state: &'a mut OptimState,
    cx: StepCx<'a>,
}

impl GradSink for Update<'_> {
    fn take(&mut self, id: ParamId, param: &mut Param, grad: Tensor) -> Result<(), Error> {
        self.state
            .step(&self.cx, id.index(), param.value.slice_mut::<f32>().into(), grad.slice())
            .map_err(|error| Error::Sink(Box::new(error)))
    }
}

/// AdamW with decay on every parameter, as the peer does.
fn assignment(params: &Params) -> Result<Assignment> {
    let group = GroupConfig { lr: LR, weight_decay: Some(WEIGHT_DECAY), ..GroupConfig::default() };
    // One group takes every parameter, so the roles do not matter.
    let specs = params.iter().map(|(_, param)| {
        ParamSpec::new(param.name.clone(), param.value.shape(), Role::MatrixHidden)
    });
    Ok(Assignment::resolve(&[group], &specs.collect::<Vec<_>>())?)
}

/// The next token of each row, the first one after the last, each with the same weight.
fn targets(tokens: &[u32], context: usize, chunk_bytes: usize) -> Targets {
    let rows = tokens.chunks_exact(context);
    let next = rows.flat_map(|row| row[1..].iter().chain(&row[..1]).copied()).collect();
    let weights = vec![1.0; tokens.len()].into();
    Targets { tokens: next, weights, scale: 1.0 / tokens.len() as f32, chunk_bytes }
}
