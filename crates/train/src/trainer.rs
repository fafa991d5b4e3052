//! One step after another: losses, gradients, updates, and what has to be remembered of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smidgen_codec::{Rng, Stream};
use smidgen_optim::{
    Assignment, Clip, GradMode, GradPolicy, GroupConfig, Guard, OptimState, ParamSpec, Schedule,
    StepCx, Verdict, Weights, global_norm,
};
use smidgen_tensor::{Compute, Device, Format, HeldGrads, ParamId, Params, Tape};

use crate::ema::Ema;
use crate::shape::role;
use crate::sink::Streamed;
use crate::{Error, Metric, Objective, Patience, Thrift, Validation, Watched};

/// How much of the running mean of the loss a step keeps.
const MEAN_KEEPS: f64 = 0.98;

/// How an objective is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Of every random stream.
    pub seed: u64,
    /// The operand format.
    pub compute: Compute,
    /// What happens to gradients.
    pub policy: GradPolicy,
    /// The learning rate over the run.
    pub schedule: Schedule,
    /// Update rules by group.
    pub groups: Vec<GroupConfig>,
    /// Decay of the averaged weights, where they are kept.
    pub ema: Option<f64>,
    /// How weights are kept that [`Params::with_format`] keeps in bf16.
    pub weights: Weights,
}

/// Where a run stands; with weights and moments the whole of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Standing {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Updates done: what corrects the bias of averages.
    pub updates: u64,
    /// Steps of the schedule, where that is fixed.
    pub horizon: Option<u64>,
    /// The step at which the schedule began: that of the last lengthening.
    pub offset: u64,
    /// Updates that the averaged weights have taken in.
    pub ema_updates: u64,
    /// Steps whose gradients were not finite.
    pub guard: Guard,
    /// What is saved since memory was refused.
    pub thrift: Thrift,
    /// How often it was refused.
    pub pressures: u64,
    /// Steps after which matrices were replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fired: Vec<u64>,
    /// Steps that are passed over because their gradients spoil the parameters.
    pub passed_over: Vec<u64>,
    /// Running sum of losses and of their weights.
    pub loss_sum: f64,
    /// The weights' sum: the bias of the running mean.
    pub loss_weight: f64,
    /// The last validation, and its step.
    pub last: Option<Scored>,
    /// The best validation, and its step.
    pub best: Option<Scored>,
    /// How long the run has waited for an improvement.
    pub patience: Patience,
    /// What the alarms remember.
    pub watched: Watched,
    /// Seconds of the run.
    pub seconds: f64,
    /// Seconds of its steps alone.
    pub step_seconds: f64,
    /// Seconds of these that were spent waiting for data.
    pub wait_seconds: f64,
    /// Seconds spent writing metrics.
    pub tracking_seconds: f64,
    /// Seconds spent writing checkpoints.
    pub ckpt_seconds: f64,
    /// Where the objective is in its data.
    pub data: Value,
}

/// A validation at a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// Steps done.
    pub step: u64,
    /// What came out.
    pub score: Validation,
    /// What came out for the averaged weights, where they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<Validation>,
}

impl Standing {
    /// Running mean of the loss.
    pub fn mean_loss(&self) -> f64 {
        if self.loss_weight > 0.0 { self.loss_sum / self.loss_weight } else { 0.0 }
    }

    /// The step within the present schedule, and the steps of that. An open horizon is far away; the
    /// warm-up in which it is open does not depend on it.
    pub(crate) fn place_in_schedule(&self) -> (u64, u64) {
        let horizon = self.horizon.unwrap_or(u64::MAX);
        (self.step.saturating_sub(self.offset), horizon.saturating_sub(self.offset))
    }

    fn add_loss(&mut self, loss: f64) {
        self.loss_sum = MEAN_KEEPS * self.loss_sum + (1.0 - MEAN_KEEPS) * loss;
        self.loss_weight = MEAN_KEEPS * self.loss_weight + (1.0 - MEAN_KEEPS);
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The loss before the update.
    pub loss: f64,
    /// Global norm of the gradients, where it was computed.
    pub grad_norm: Option<f64>,
    /// The schedule's multiplier.
    pub multiplier: f64,
    /// What became of the gradients.
    pub verdict: Verdict,
}

/// What a validation came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// That of the weights.
    pub score: Validation,
    /// That of the averaged weights, where they are kept.
    pub ema: Option<Validation>,
    /// Whether the weights are the best so far.
    pub best: bool,
}

/// Trains an objective; owns parameters and optimizer state.
pub struct Trainer<'o> {
    pub(crate) device: Device,
    pub(crate) params: Params,
    pub(crate) optim: OptimState,
    pub(crate) objective: &'o mut dyn Objective,
    pub(crate) standing: Standing,
    pub(crate) recipe: Recipe,
    pub(crate) ema: Option<Ema>,
    /// Norms of the gradients of the last step that was watched, by parameter.
    pub(crate) norms: Vec<f64>,
    /// Whether the next step notes them.
    pub(crate) notes_norms: bool,
    /// Place of each parameter in the optimizer.
    pub(crate) places: Vec<Option<usize>>,
    /// Steps up to here were judged once; going over them again changes no counter.
    pub(crate) frontier: u64,
    /// What was saved since memory was refused, until somebody asks.
    pub(crate) relief: Vec<String>,
    /// Whether the present step has updated a parameter.
    updated: bool,
    /// Whether a bad gradient, or half a step, has gone into parameters or state.
    spoiled: bool,
}

impl<'o> Trainer<'o> {
    /// Allocates the state of `params`, which belong to the objective, and sets their first values.
    ///
    /// # Errors
    /// Those of policy, schedule and groups, and of the engine for want of memory.
    pub fn new(
        device: &Device,
        recipe: Recipe,
        objective: &'o mut dyn Objective,
        params: Params,
    ) -> Result<Trainer<'o>, Error> {
        recipe.policy.validate()?;
        recipe.schedule.validate()?;
        let trained = params.iter().filter(|(_, param)| param.trainable);
        let specs: Vec<ParamSpec> = trained
            .map(|(_, param)| {
                let is_wide = param.value.format() == Format::F32;
                let weights = if is_wide { Weights::F32 } else { recipe.weights };
                let (name, shape) = (param.name.clone(), param.value.shape());
                ParamSpec { weights, ..ParamSpec::new(name, shape, role(param.role)) }
            })
            .collect();
        let assignment = Assignment::resolve(&recipe.groups, &specs)?;
        recipe.policy.check_sums(&assignment)?;
        let optim = OptimState::allocate(assignment, device.pool())?;
        let mut free = 0..;
        let places = params
            .iter()
            .map(|(_, param)| if param.trainable { free.next() } else { None })
            .collect();
        let ema = recipe.ema.map(|decay| Ema::new(device, &params, decay)).transpose()?;
        let mut trainer = Trainer {
            device: device.clone(),
            params,
            optim,
            objective,
            standing: Standing::default(),
            recipe,
            ema,
            norms: Vec::new(),
            notes_norms: false,
            places,
            frontier: 0,
            relief: Vec::new(),
            updated: false,
            spoiled: false,
        };
        trainer.objective.init(&mut trainer.params, trainer.recipe.seed)?;
        Ok(trainer)
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Where the run stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Fixes the steps of the schedule.
    pub fn set_horizon(&mut self, steps: u64) {
        self.standing.horizon = Some(steps);
    }

    /// Targets of the steps done.
    pub fn targets(&self) -> u64 {
        self.standing.step.saturating_mul(self.objective.step_targets())
    }

    /// Does one step, and does it again in smaller pieces where memory is refused. After
    /// [`Verdict::Restore`] and [`Verdict::Abort`] the step is not counted as done, and the caller must
    /// go back to a good state before the next one.
    ///
    /// # Errors
    /// [`Error::FirstLoss`], those of the objective and the engine, and a refusal of memory where no
    /// smaller pieces are left.
    pub fn step(&mut self) -> Result<StepReport, Error> {
        let (at, steps) = self.standing.place_in_schedule();
        let schedule = self.recipe.schedule;
        let (multiplier, beta1) = (schedule.multiplier(at, steps), schedule.beta1(at, steps));
        self.step_at(Pace { multiplier, beta1 })
    }

    /// A step at a pace of the caller's own.
    pub(crate) fn step_at(&mut self, pace: Pace) -> Result<StepReport, Error> {
        let multiplier = pace.multiplier;
        let step = self.standing.step;
        self.norms.clear();
        if self.standing.passed_over.contains(&step) {
            self.standing.step += 1;
            let (loss, verdict) = (f64::NAN, Verdict::Skip);
            return Ok(StepReport { loss, grad_norm: None, multiplier, verdict });
        }
        let Some(tried) = self.try_step(pace)? else {
            let (loss, verdict) = (f64::NAN, Verdict::Restore);
            return Ok(StepReport { loss, grad_norm: None, multiplier, verdict });
        };
        self.spoiled = !tried.finite && tried.updated;
        let verdict = self.judge(&tried);
        if matches!(verdict, Verdict::Apply | Verdict::Skip) {
            self.standing.step += 1;
            self.frontier = self.frontier.max(self.standing.step);
        }
        if verdict == Verdict::Apply {
            self.standing.updates += 1;
            self.standing.add_loss(tried.loss);
            if let Some(ema) = &mut self.ema {
                self.standing.ema_updates += 1;
                ema.update(&self.device, &self.params, self.standing.ema_updates);
            }
        }
        let Tried { loss, grad_norm, .. } = tried;
        Ok(StepReport { loss, grad_norm, multiplier, verdict })
    }

    /// The step, in pieces small enough for the memory there is; nothing where parameters were updated
    /// before it was refused.
    fn try_step(&mut self, pace: Pace) -> Result<Option<Tried>, Error> {
        loop {
            self.updated = false;
            let tried = match self.recipe.policy.grad {
                GradMode::Held => self.held(pace),
                GradMode::Streamed => self.streamed(pace),
            };
            match tried {
                Err(error) if error.is_refusal() => {
                    self.spoiled = self.updated;
                    self.save_memory(error)?;
                    if self.spoiled {
                        return Ok(None);
                    }
                }
                tried => return tried.map(Some),
            }
        }
    }

    fn judge(&mut self, tried: &Tried) -> Verdict {
        if tried.finite && self.standing.step < self.frontier {
            // Gone over again after a restoration: judged before.
            return Verdict::Apply;
        }
        let verdict = self.standing.guard.judge(tried.finite, tried.updated);
        if !tried.finite {
            self.frontier = self.frontier.max(self.standing.step + 1);
        }
        verdict
    }

    /// All gradients first, then the verdict, then all updates.
    fn held(&mut self, pace: Pace) -> Result<Tried, Error> {
        let mut held = HeldGrads::new();
        let mut loss = 0.0;
        let parts = self.standing.thrift.batch_parts;
        for micro in 0..self.recipe.policy.grad_accum as usize * parts {
            let mut tape = Tape::training(&self.device, self.recipe.compute, &mut self.params);
            let share = self.objective.loss(&mut tape, self.standing.step, micro)?;
            loss += loss_value(&tape, share);
            if !loss.is_finite() {
                return Ok(Tried::bad(loss, false));
            }
            tape.backward(share, &mut held)?;
        }
        self.check_first_loss(loss)?;
        let ids: Vec<ParamId> = self.params.iter().map(|(id, _)| id).collect();
        let all: Vec<&[f32]> =
            ids.iter().filter_map(|id| held.get(*id)).map(|g| g.slice()).collect();
        let norm = global_norm(self.device.team(), &all);
        if !norm.is_finite() {
            return Ok(Tried::bad(loss, false));
        }
        let policy = self.recipe.policy;
        let common = if policy.clip == Clip::Global { policy.factor(norm) } else { 1.0 };
        let cx = step_cx(&self.device, &self.recipe, &self.standing, pace);
        self.updated = true;
        for id in ids {
            let (Some(grad), Some(place)) = (held.remove(id), self.places[id.index()]) else {
                continue;
            };
            let grad = grad.slice::<f32>();
            if self.notes_norms {
                note_norm(&mut self.norms, id, global_norm(self.device.team(), &[grad]));
            }
            let factor = match policy.clip {
                Clip::Tensor => policy.factor(global_norm(self.device.team(), &[grad])),
                Clip::Global | Clip::Off => common,
            };
            let cx = StepCx { grad_scale: factor as f32, ..cx };
            let value = &mut self.params.get_mut(id).value;
            self.optim.step(&cx, place, value.into(), grad)?;
        }
        Ok(Tried { loss, grad_norm: Some(norm), finite: true, updated: true })
    }

    /// Each update as soon as its gradient is there. Over several micro-batches, what is kept of a
    /// gradient until the last one is its projection, where its rule needs no more.
    fn streamed(&mut self, pace: Pace) -> Result<Tried, Error> {
        let (mut loss, mut squares, mut held) = (0.0, None, HeldGrads::new());
        let count = self.recipe.policy.grad_accum as usize;
        self.optim.forget_sums();
        for micro in 0..count {
            let mut tape = Tape::training(&self.device, self.recipe.compute, &mut self.params);
            let share = self.objective.loss(&mut tape, self.standing.step, micro)?;
            loss += loss_value(&tape, share);
            if !loss.is_finite() {
                return Ok(Tried::bad(loss, self.updated));
            }
            let is_last = micro + 1 == count;
            if self.standing.step == 0 && is_last {
                check_first(self.objective.first_loss(), loss)?;
            }
            let mut sink = Streamed {
                optim: &mut self.optim,
                cx: step_cx(&self.device, &self.recipe, &self.standing, pace),
                norms: self.notes_norms.then_some(&mut self.norms),
                places: &self.places,
                policy: self.recipe.policy,
                held: &mut held,
                is_last,
                squares: None,
                finite: true,
                updated: self.updated,
            };
            let went = tape.backward(share, &mut sink);
            self.updated = sink.updated;
            if !sink.finite {
                // The sink's own error, kept apart from those of the engine.
                return Ok(Tried::bad(loss, self.updated));
            }
            squares = sink.squares;
            went?;
        }
        Ok(Tried { loss, grad_norm: squares.map(f64::sqrt), finite: true, updated: true })
    }

    fn check_first_loss(&self, loss: f64) -> Result<(), Error> {
        if self.standing.step > 0 {
            return Ok(());
        }
        check_first(self.objective.first_loss(), loss)
    }

    /// Scores the parameters, and the averaged ones where they are kept, and enters the scores; in
    /// smaller pieces where memory is refused.
    ///
    /// # Errors
    /// Those of the objective, and a refusal of memory where no smaller pieces are left.
    pub fn validate(&mut self, by: Metric) -> Result<Scores, Error> {
        loop {
            match self.score(by) {
                Err(error) if error.is_refusal() => self.save_memory(error)?,
                scored => return scored,
            }
        }
    }

    /// Scores the parameters, and the averaged ones where they are kept, and enters the scores; the
    /// best so far is the best by a metric, and of equal ones that with the lower loss.
    ///
    /// # Errors
    /// Those of the objective.
    fn score(&mut self, by: Metric) -> Result<Scores, Error> {
        let compute = self.recipe.compute;
        let mut score = self.objective.validate(&self.device, compute, &self.params)?;
        score.compile = match self.objective.compile_rate(&self.device, compute, &self.params) {
            Err(error) if error.is_refusal() => {
                self.relief.push(format!("no compile rate: {}", error.first_line()));
                None
            }
            rate => rate?,
        };
        let ema = self.validate_ema()?;
        let scored = Scored { step: self.standing.step, score, ema };
        let best = self.standing.best.is_none_or(|best| by.prefers(&score, &best.score));
        self.standing.last = Some(scored);
        if best {
            self.standing.best = Some(scored);
        }
        Ok(Scores { score, ema, best })
    }

    fn validate_ema(&mut self) -> Result<Option<Validation>, Error> {
        let Some(ema) = self.ema.as_mut().filter(|_| self.standing.ema_updates > 0) else {
            return Ok(None);
        };
        ema.swap(&mut self.params);
        let score = self.objective.validate(&self.device, self.recipe.compute, &self.params);
        ema.swap(&mut self.params);
        score.map(Some)
    }

    /// Whether the last step left parameters or state that must not be kept.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    /// Back to the first values, keeping what was learnt about bad steps.
    pub(crate) fn begin_anew(&mut self) -> Result<(), Error> {
        let (guard, passed_over) = (self.standing.guard, self.standing.passed_over.clone());
        self.optim.clear();
        self.objective.init(&mut self.params, self.recipe.seed)?;
        let Standing { horizon, offset, thrift, pressures, .. } = self.standing;
        let known = Standing { guard, passed_over, horizon, offset, ..Standing::default() };
        self.standing = Standing { thrift, pressures, ..known };
        Ok(())
    }
}

/// What a schedule says about a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Of every group's rate.
    pub(crate) multiplier: f64,
    /// The decay of the first average, in the place of every group's own.
    pub(crate) beta1: Option<f64>,
}

/// What a step came to before anybody judged it.
struct Tried {
    loss: f64,
    grad_norm: Option<f64>,
    finite: bool,
    updated: bool,
}

impl Tried {
    fn bad(loss: f64, updated: bool) -> Tried {
        Tried { loss, grad_norm: None, finite: false, updated }
    }
}

/// Enters the norm of one parameter's gradient.
pub(crate) fn note_norm(norms: &mut Vec<f64>, id: ParamId, norm: f64) {
    if norms.len() <= id.index() {
        norms.resize(id.index() + 1, 0.0);
    }
    norms[id.index()] = norm;
}

fn loss_value(tape: &Tape<'_>, loss: smidgen_tensor::Var) -> f64 {
    let value = tape.value(loss).expect("a loss is the end of the tape and is held");
    f64::from(value.slice::<f32>()[0])
}

fn check_first(expected: Option<f64>, got: f64) -> Result<(), Error> {
    match expected {
        Some(expected) if (got - expected).abs() > 0.5 => Err(Error::FirstLoss { expected, got }),
        _ => Ok(()),
    }
}

fn step_cx<'a>(
    device: &'a Device,
    recipe: &Recipe,
    standing: &Standing,
    Pace { multiplier, beta1 }: Pace,
) -> StepCx<'a> {
    let rng = Rng::new(recipe.seed, Stream::Rounding);
    let cx = StepCx::new(device, standing.updates + 1, rng);
    StepCx { multiplier, beta1, ..cx }
}
