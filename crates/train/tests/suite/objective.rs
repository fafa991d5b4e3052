//! Something that is no language model, through the same loop; and gradients that are not finite.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use smidgen_codec::{Ledger, Rng, Tag};
use smidgen_optim::{Clip, GradMode, GradPolicy, GroupConfig, Schedule};
use smidgen_store::{Disk, RunDir, RunView, Which};
use smidgen_tensor::{
    Compute, Device, LinearSpec, ParamId, Params, Role, Tape, Targets, Tensor, Var,
};
use smidgen_train::{
    Course, Error, Event, Objective, Outcome, Recipe, Standing, Trainer, Validation, fit,
};

/// Which of two classes a point of the plane belongs to: the sign of x - y.
pub(crate) struct Sides {
    hidden: ParamId,
    head: ParamId,
    /// Steps whose gradient is not finite, though their loss is.
    bad: Vec<u64>,
}

pub(crate) const ROWS: usize = 16;

impl Sides {
    pub(crate) fn new(device: &Device, params: &mut Params, bad: &[u64]) -> Sides {
        let mut add = |name, role, shape| params.add(device, name, role, shape).unwrap();
        Sides {
            hidden: add("hidden.weight", Role::MatrixHidden, [8, 4]),
            head: add("head.weight", Role::Head, [2, 8]),
            bad: bad.to_vec(),
        }
    }

    fn batch(&self, step: u64) -> (Vec<f32>, Vec<u32>) {
        let rng = Rng::named(3, "sides");
        let number = |i: usize| rng.normal(step, 0, i as u64) as f32;
        let points = (0..ROWS * 4).map(number).collect::<Vec<_>>();
        let classes = points.chunks(4).map(|p| u32::from(p[0] > p[1])).collect();
        (points, classes)
    }

    pub(crate) fn put(&self, tape: &mut Tape<'_>, step: u64, scale: f32) -> Result<Var, Error> {
        let (mut points, mut classes) = self.batch(step);
        let mut weights = vec![1.0f32; ROWS];
        if self.bad.contains(&step) {
            // Equal rows in two halves that cancel in the loss, and overflow in the gradient.
            points.iter_mut().for_each(|x| *x = 100.0);
            classes.iter_mut().enumerate().for_each(|(i, class)| *class = i as u32 % 2);
            weights.iter_mut().enumerate().for_each(|(i, w)| *w = [3e38, -3e38][i * 2 / ROWS]);
        }
        let x = Tensor::from_f32(tape.device().pool(), Tag::Activations, [ROWS, 4], &points)?;
        let x = tape.input(x, false);
        let hidden = tape.linear(x, &LinearSpec::new([self.hidden]), None)?;
        let (tokens, weights) = (classes.into(), weights.into());
        let targets = Targets { tokens, weights, scale, chunk_bytes: 1 << 16 };
        Ok(tape.head_loss(hidden, self.head, targets)?)
    }
}

impl Objective for Sides {
    fn name(&self) -> &'static str {
        "sides"
    }

    fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error> {
        let rng = Rng::named(seed, "sides");
        for (id, param) in params.iter_mut() {
            rng.fill_normal(id.index() as u64, 0, 0.3, param.value.slice_mut());
        }
        Ok(())
    }

    fn step_targets(&self) -> u64 {
        ROWS as u64
    }

    fn loss(&mut self, tape: &mut Tape<'_>, step: u64, _micro: usize) -> Result<Var, Error> {
        self.put(tape, step, 1.0 / ROWS as f32)
    }

    fn validate(&mut self, d: &Device, c: Compute, params: &Params) -> Result<Validation, Error> {
        let mut tape = Tape::inference(d, c, params);
        let loss = self.put(&mut tape, 1 << 40, 1.0 / ROWS as f32)?;
        let loss = tape.value(loss).unwrap().slice::<f32>()[0].into();
        Ok(Validation { loss, bpb: None, targets: ROWS as u64, compile: None })
    }

    fn validation_targets(&self) -> u64 {
        ROWS as u64
    }
}

pub(crate) fn recipe(grad: GradMode) -> Recipe {
    Recipe {
        seed: 1,
        compute: Compute::F32,
        policy: GradPolicy { grad, clip: Clip::Off, ..GradPolicy::default() },
        schedule: Schedule::Constant { warmup_steps: 0 },
        groups: vec![GroupConfig { lr: 0.03, weight_decay: Some(0.0), ..GroupConfig::default() }],
        ema: None,
        weights: smidgen_optim::Weights::F32,
    }
}

pub(crate) fn course(steps: u64) -> Course {
    Course { ckpt_every: 5, keep: 2, ..Course::of(steps, 10, serde_json::Value::Null) }
}

struct Ran {
    outcome: Result<Outcome, Error>,
    standing: Standing,
    weights: Vec<f32>,
    notices: Vec<String>,
}

fn run(dir: &Path, grad: GradMode, bad: &[u64], steps: u64) -> Ran {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let mut sides = Sides::new(&device, &mut params, bad);
    let mut trainer = Trainer::new(&device, recipe(grad), &mut sides, params).unwrap();
    let run = RunDir::create(Arc::new(Disk), dir, "").unwrap();
    let mut notices = Vec::new();
    let mut progress = |event: Event<'_>| {
        if let Event::Notice(text) = event {
            notices.push(text.to_string());
        }
    };
    let stop = AtomicBool::new(false);
    let outcome = fit(&mut trainer, &course(steps), &run, &mut progress, &stop);
    let weights = trainer.params().iter().flat_map(|(_, p)| p.value.to_vec()).collect();
    Ran { outcome, standing: trainer.standing().clone(), weights, notices }
}

#[test]
fn another_objective_trains_through_the_same_loop() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(&dir.path().join("run"), GradMode::Held, &[], 200);
    let outcome = ran.outcome.unwrap();
    assert!(outcome.val_loss.unwrap() < 0.2, "{outcome:?}");
    assert_eq!((outcome.val_bpb, outcome.tokens), (None, 200 * ROWS as u64));
    let env: serde_json::Value =
        smidgen_store::read_json(&dir.path().join("run/env.json")).unwrap();
    assert_eq!((&env["objective"], &env["threads"]), (&"sides".into(), &1.into()), "{env}");
    let streamed = run(&dir.path().join("streamed"), GradMode::Streamed, &[], 200);
    assert!(streamed.weights == ran.weights, "held and streamed differ without a clip");
}

#[test]
fn a_bad_gradient_is_skipped_and_counted_where_gradients_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(&dir.path().join("run"), GradMode::Held, &[3, 7, 8], 12);
    assert_eq!(ran.outcome.unwrap().steps, 12);
    let guard = ran.standing.guard;
    assert_eq!((guard.skipped, guard.restored, guard.in_a_row), (3, 0, 0));
    assert_eq!(ran.standing.updates, 9);
    assert!(ran.weights.iter().all(|w| w.is_finite()));
}

#[test]
fn a_bad_gradient_restores_the_last_checkpoint_where_gradients_are_streamed() {
    let dir = tempfile::tempdir().unwrap();
    let bad = [2, 7, 8];
    let streamed = run(&dir.path().join("streamed"), GradMode::Streamed, &bad, 12);
    assert_eq!(streamed.outcome.unwrap().steps, 12);
    let guard = streamed.standing.guard;
    assert_eq!((guard.skipped, guard.restored), (3, 3));
    assert_eq!(streamed.notices.len(), 3);
    assert!(streamed.notices[0].ends_with("went back to step 0"), "{:?}", streamed.notices);
    assert!(streamed.notices[1].ends_with("went back to step 5"), "{:?}", streamed.notices);
    // Passing over a step is what skipping it is.
    let held = run(&dir.path().join("held"), GradMode::Held, &bad, 12);
    assert!(held.weights == streamed.weights);
    let lines = RunView::open(&dir.path().join("streamed")).unwrap().metrics().unwrap();
    let steps: Vec<_> = lines.iter().filter(|line| line.get("tokens").is_some()).collect();
    assert_eq!(steps.len(), 12, "steps gone over again leave one line each");
}

#[test]
fn ten_bad_gradients_in_a_row_end_the_run_with_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    for (name, grad) in [("held", GradMode::Held), ("streamed", GradMode::Streamed)] {
        let path = dir.path().join(name);
        let bad: Vec<u64> = (6..40).collect();
        let error = run(&path, grad, &bad, 100).outcome.unwrap_err();
        let Error::NotFinite { in_a_row: 10, step: 16, saved: at } = error else {
            panic!("{name}: {error}")
        };
        let checkpoint = RunView::open(&path).unwrap().checkpoint(Which::Last).unwrap();
        assert_eq!((checkpoint.step(), at), (15, 15), "{name}");
        let weights = checkpoint.tensor("model.safetensors", "head.weight").unwrap().data;
        let finite = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap()).is_finite();
        assert!(weights.chunks(4).all(finite), "{name}");
    }
}
