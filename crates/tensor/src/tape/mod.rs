//! The tape: what was computed, and the way back through it.
//!
//! Operations are few and coarse; each is an [`Op`] with a forward kernel and a hand-written backward.
//! The way back pops steps from the end, so a value lives no longer than its last reader. Three things
//! make memory small: *cheap* values (norms, activations) are dropped at the end of their block and made
//! again when the way back needs them; a block may be *recomputed* whole; and the gradient of a parameter
//! goes to the [`GradSink`] as soon as its last use has been differentiated.

mod back;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use smidgen_codec::Tag;

pub(crate) use back::Backward;

use crate::error::shape;
use crate::matmul::Engine;
use crate::{Compute, Device, Error, Format, GradSink, ParamId, Params, Tensor};

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Var(usize);

/// One operation: how a value came to be, and how a gradient goes back.
pub(crate) trait Op {
    /// The name in profiles and errors.
    fn name(&self) -> &'static str;

    /// The parameters it reads.
    fn params(&self) -> Vec<ParamId> {
        Vec::new()
    }

    /// Whether its value costs little to make again from its inputs.
    fn is_cheap(&self) -> bool {
        false
    }

    /// Whether it works in the memory of its first input, if nobody read it before; nobody does afterwards.
    fn is_in_place(&self) -> bool {
        false
    }

    /// Computes the value.
    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error>;

    /// Sends the gradient of the value to inputs and parameters.
    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error>;
}

/// What an operation sees on the way forward.
pub(crate) struct Forward<'a> {
    pub(crate) device: &'a Device,
    pub(crate) compute: Compute,
    pub(crate) params: &'a Params,
    /// Whether a backward pass will follow.
    pub(crate) records: bool,
}

impl<'a> Forward<'a> {
    pub(crate) fn engine(&self) -> Engine<'a> {
        self.device.engine(self.compute)
    }

    pub(crate) fn tensor(&self, shape: [usize; 2], format: Format) -> Result<Tensor, Error> {
        Tensor::uninit(self.device.pool(), Tag::Activations, shape, format)
    }
}

type Body<'p> = dyn Fn(&mut Tape<'p>, &[Var]) -> Result<Vec<Var>, Error> + 'p;

enum Step<'p> {
    Op {
        op: Box<dyn Op + 'p>,
        inputs: Vec<Var>,
        output: Var,
    },
    /// A block whose inside is made again on the way back.
    Block {
        body: Rc<Body<'p>>,
        inputs: Vec<Var>,
        outputs: Vec<Var>,
    },
}

#[derive(Default)]
struct Slot {
    value: Option<Tensor>,
    grad: Option<Tensor>,
    needs_grad: bool,
    /// The step that makes a cheap value again.
    maker: Option<usize>,
    /// Whether an operation has read the value and may want it again on the way back.
    read: bool,
}

enum ParamsRef<'p> {
    Shared(&'p Params),
    Exclusive(&'p mut Params),
}

impl ParamsRef<'_> {
    fn get(&self) -> &Params {
        match self {
            ParamsRef::Shared(params) => params,
            ParamsRef::Exclusive(params) => params,
        }
    }
}

/// What a block leaves behind on the way forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every value that is not cheap.
    Values,
    /// Only its inputs: the block is computed again on the way back.
    Inputs,
}

/// Values and the steps that made them.
pub struct Tape<'p> {
    device: Device,
    compute: Compute,
    params: ParamsRef<'p>,
    steps: Vec<Step<'p>>,
    slots: Vec<Slot>,
    /// How many times each parameter's gradient is still to come.
    uses: Vec<u32>,
    /// Parts of gradients whose parameter has further uses.
    partial: BTreeMap<ParamId, Tensor>,
    recording: bool,
    /// Inside a block that is made again; its uses are counted already.
    replaying: bool,
    /// The first value made inside the present block; older ones are needed when it is made again.
    block_start: usize,
    profile: BTreeMap<&'static str, Duration>,
}

impl<'p> Tape<'p> {
    /// A tape that can go back; `params` stay borrowed until it did.
    pub fn training(device: &Device, compute: Compute, params: &'p mut Params) -> Tape<'p> {
        Tape::new(device, compute, ParamsRef::Exclusive(params), true)
    }

    /// A tape that only goes forward.
    pub fn inference(device: &Device, compute: Compute, params: &'p Params) -> Tape<'p> {
        Tape::new(device, compute, ParamsRef::Shared(params), false)
    }

    fn new(device: &Device, compute: Compute, params: ParamsRef<'p>, recording: bool) -> Tape<'p> {
        let uses = vec![0; params.get().len()];
        Tape {
            device: device.clone(),
            compute,
            params,
            steps: Vec::new(),
            slots: Vec::new(),
            uses,
            partial: BTreeMap::new(),
            recording,
            replaying: false,
            block_start: 0,
            profile: BTreeMap::new(),
        }
    }

    /// Where the tape computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The operand format of its products.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The parameters it reads.
    pub fn params(&self) -> &Params {
        self.params.get()
    }

    /// Time spent per operation so far; names end in `-` on the way back.
    pub fn profile(&self) -> &BTreeMap<&'static str, Duration> {
        &self.profile
    }

    /// Puts a value on the tape; with `needs_grad` its gradient can be read after [`Tape::backward`]
    /// through [`Gradients`].
    pub fn input(&mut self, value: Tensor, needs_grad: bool) -> Var {
        self.slots.push(Slot {
            value: Some(value),
            needs_grad: needs_grad && self.recording,
            ..Slot::default()
        });
        Var(self.slots.len() - 1)
    }

    /// The value of a variable; `None` when it was cheap and dropped at the end of its block.
    pub fn value(&self, var: Var) -> Option<&Tensor> {
        self.slots[var.0].value.as_ref()
    }

    /// `[rows, cols]` of a variable that is still held.
    pub(crate) fn shape(&self, var: Var) -> [usize; 2] {
        self.slots[var.0]
            .value
            .as_ref()
            .expect("operations read values that are still held")
            .shape()
    }

    /// The number format of a variable that is still held.
    pub(crate) fn format(&self, var: Var) -> Format {
        self.slots[var.0]
            .value
            .as_ref()
            .expect("operations read values that are still held")
            .format()
    }

    pub(crate) fn apply(&mut self, mut op: Box<dyn Op + 'p>, inputs: &[Var]) -> Result<Var, Error> {
        let started = Instant::now();
        let values = inputs
            .iter()
            .enumerate()
            .map(|(i, var)| {
                let own = i == 0 && op.is_in_place() && var.0 >= self.block_start;
                let slot = &mut self.slots[var.0];
                let value = if own && !slot.read { slot.value.take() } else { slot.value.clone() };
                slot.read = true;
                value.expect("operations read values that are still held")
            })
            .collect();
        let cx = Forward {
            device: &self.device,
            compute: self.compute,
            params: self.params.get(),
            records: self.recording,
        };
        let value = op.forward(&cx, values)?;
        let params = op.params();
        let trains = params.iter().any(|id| self.params.get().get(*id).trainable);
        let needs_grad = trains || inputs.iter().any(|var| self.slots[var.0].needs_grad);
        *self.profile.entry(op.name()).or_default() += started.elapsed();
        let output = Var(self.slots.len());
        self.slots.push(Slot { value: Some(value), needs_grad, ..Slot::default() });
        if self.recording || self.counts_uses() {
            for id in params.into_iter().filter(|_| !self.replaying) {
                self.uses[id.0] += u32::from(self.params.get().get(id).trainable);
            }
        }
        if self.recording && needs_grad {
            if op.is_cheap() {
                self.slots[output.0].maker = Some(self.steps.len());
            }
            self.steps.push(Step::Op { op, inputs: inputs.to_vec(), output });
        }
        Ok(output)
    }

    /// Whether this tape will go back, even if the present block is not recorded.
    fn counts_uses(&self) -> bool {
        matches!(self.params, ParamsRef::Exclusive(_))
    }

    /// Runs a part of the model as one block. Its cheap values are dropped at its end, and with
    /// [`Keep::Inputs`] all values but its outputs; `body` must compute the same again when asked, and
    /// read no values from outside but `inputs`.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn block(
        &mut self,
        keep: Keep,
        inputs: &[Var],
        body: impl Fn(&mut Tape<'p>, &[Var]) -> Result<Vec<Var>, Error> + 'p,
    ) -> Result<Vec<Var>, Error> {
        let first = self.slots.len();
        if self.recording && keep == Keep::Values {
            let outputs = self.inside(&body, inputs)?;
            self.drop_values(first, &outputs, true);
            return Ok(outputs);
        }
        let was_recording = std::mem::replace(&mut self.recording, false);
        let outputs = self.inside(&body, inputs);
        self.recording = was_recording;
        let outputs = outputs?;
        self.drop_values(first, &outputs, false);
        // Even if none of it leaves the block: the uses of its parameters were counted.
        if self.recording && self.slots[first..].iter().any(|slot| slot.needs_grad) {
            self.steps.push(Step::Block {
                body: Rc::new(body),
                inputs: inputs.to_vec(),
                outputs: outputs.clone(),
            });
        }
        Ok(outputs)
    }

    /// Runs the body of a block; values from outside keep their memory.
    fn inside(&mut self, body: &Body<'p>, inputs: &[Var]) -> Result<Vec<Var>, Error> {
        let outer = std::mem::replace(&mut self.block_start, self.slots.len());
        let outputs = body(self, inputs);
        self.block_start = outer;
        outputs
    }

    fn drop_values(&mut self, first: usize, keep: &[Var], only_cheap: bool) {
        for (i, slot) in self.slots.iter_mut().enumerate().skip(first) {
            if (!only_cheap || slot.maker.is_some()) && !keep.contains(&Var(i)) {
                slot.value = None;
            }
        }
    }

    /// Goes back from a loss of shape `[1, 1]`; each parameter's gradient goes to `sink` when complete.
    ///
    /// # Errors
    /// [`Error::Shape`] for a loss of another shape; those of the operations and of the sink. Parameters
    /// already handed over stay as the sink left them.
    pub fn backward(mut self, loss: Var, sink: &mut dyn GradSink) -> Result<Gradients, Error> {
        if self.shape(loss) != [1, 1] {
            return Err(shape("loss", &[1, 1], &self.shape(loss)));
        }
        let mut seed = Tensor::uninit(self.device.pool(), Tag::Workspace, [1, 1], Format::F32)?;
        seed.slice_mut::<f32>()[0] = 1.0;
        self.slots[loss.0].grad = Some(seed);
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Op { mut op, inputs, output } => {
                    self.back(op.as_mut(), &inputs, output, sink)?
                }
                Step::Block { body, inputs, outputs } => {
                    self.replay(body.as_ref(), &inputs, &outputs)?
                }
            }
        }
        let grads = self.slots.into_iter().map(|slot| slot.grad).collect();
        Ok(Gradients { grads, profile: self.profile })
    }

    fn back(
        &mut self,
        op: &mut dyn Op,
        inputs: &[Var],
        output: Var,
        sink: &mut dyn GradSink,
    ) -> Result<(), Error> {
        let grad = self.slots[output.0].grad.take();
        let needed = self.slots[output.0].needs_grad;
        // Nothing depends on this value, but its parameters were counted.
        let Some(grad) = grad.filter(|_| needed) else {
            self.slots[output.0].value = None;
            return self.skip(op, sink);
        };
        let started = Instant::now();
        let name = back_name(op.name());
        let mut cx = Backward { tape: self, sink, inputs, output, spent: Duration::ZERO };
        op.backward(&mut cx, grad)?;
        let spent = cx.spent;
        *self.profile.entry(name).or_default() += started.elapsed().saturating_sub(spent);
        *self.profile.entry("sink").or_default() += spent;
        self.slots[output.0].value = None;
        Ok(())
    }

    /// Counts down the uses of an operation that got no gradient.
    fn skip(&mut self, op: &dyn Op, sink: &mut dyn GradSink) -> Result<(), Error> {
        for id in op.params() {
            if self.params.get().get(id).trainable {
                self.finish(id, None, sink)?;
            }
        }
        Ok(())
    }

    fn replay(&mut self, body: &Body<'p>, inputs: &[Var], outputs: &[Var]) -> Result<(), Error> {
        // Inputs that were cheap may be gone since.
        for var in inputs {
            self.materialize(*var)?;
        }
        self.replaying = true;
        let again = self.inside(body, inputs);
        self.replaying = false;
        for (old, new) in outputs.iter().zip(again?) {
            // An input handed through is itself again, and an output named twice moves once.
            if *old != new {
                if let Some(grad) = self.slots[old.0].grad.take() {
                    self.slots[new.0].grad = Some(grad);
                }
                self.slots[old.0].value = None;
            }
        }
        Ok(())
    }

    /// The value of a variable, made again if it was cheap.
    fn materialize(&mut self, var: Var) -> Result<Tensor, Error> {
        if let Some(value) = &self.slots[var.0].value {
            return Ok(value.clone());
        }
        let maker = self.slots[var.0].maker.expect("a dropped value is cheap");
        let Step::Op { inputs, .. } = &self.steps[maker] else {
            unreachable!("cheap values come from operations")
        };
        let inputs = inputs.clone();
        let values =
            inputs.into_iter().map(|var| self.materialize(var)).collect::<Result<_, _>>()?;
        let cx = Forward {
            device: &self.device,
            compute: self.compute,
            params: self.params.get(),
            records: true,
        };
        let Step::Op { op, .. } = &mut self.steps[maker] else { unreachable!("as above") };
        let value = op.forward(&cx, values)?;
        self.slots[var.0].value = Some(value.clone());
        Ok(value)
    }

    /// One use of a parameter has been differentiated; the last one hands the gradient over.
    fn finish(
        &mut self,
        id: ParamId,
        grad: Option<Tensor>,
        sink: &mut dyn GradSink,
    ) -> Result<(), Error> {
        self.uses[id.0] -= 1;
        let grad = grad.or_else(|| self.partial.remove(&id));
        match grad {
            Some(grad) if self.uses[id.0] > 0 => {
                self.partial.insert(id, grad);
            }
            Some(grad) => {
                let ParamsRef::Exclusive(params) = &mut self.params else {
                    unreachable!("only a training tape goes back")
                };
                sink.take(id, params.get_mut(id), grad)?;
            }
            None => {}
        }
        Ok(())
    }
}

/// Gradients of the tape's inputs, left over when the way back has ended.
pub struct Gradients {
    grads: Vec<Option<Tensor>>,
    profile: BTreeMap<&'static str, Duration>,
}

impl Gradients {
    /// The gradient of an input that asked for one.
    pub fn get(&self, var: Var) -> Option<&Tensor> {
        self.grads.get(var.0)?.as_ref()
    }

    /// Time per operation, both ways; `sink` is what the receiver of gradients took.
    pub fn profile(&self) -> &BTreeMap<&'static str, Duration> {
        &self.profile
    }
}

fn back_name(name: &'static str) -> &'static str {
    match name {
        "linear" => "linear-",
        "rms_norm" => "rms_norm-",
        "rope" => "rope-",
        "attention" => "attention-",
        "swiglu" => "swiglu-",
        "head_loss" => "head_loss-",
        "embedding" => "embedding-",
        "dot" => "dot-",
        "add" => "add-",
        "gelu" => "gelu-",
        "gated_add" => "gated_add-",
        "put_rows" => "put_rows-",
        _ => "other-",
    }
}
