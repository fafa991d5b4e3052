//! The range test: what it finds, and that it leaves nothing behind.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use smidgen_codec::{Ledger, Tag};
use smidgen_optim::{Clip, GradPolicy, GroupConfig, Schedule};
use smidgen_store::{Disk, RunDir, RunView, config};
use smidgen_tensor::{Compute, Device, LinearSpec, ParamId, Params, Role, Tape, Tensor, Var};
use smidgen_train::{
    CURSOR, Changes, Config, Context, EMA, Error, Event, MODEL, Objective, RangeTest, Recipe,
    STATE, Silent, Trainer, Validation, lr_find, lr_find_run, lr_find_source,
};

use crate::common::{Place, Watch, tensors};

/// `lambda w^2` with the gradient of half of it, so that descent at a rate over `2 / lambda` diverges.
struct Quadratic {
    w: ParamId,
    lambda: f32,
}

impl Objective for Quadratic {
    fn name(&self) -> &'static str {
        "quadratic"
    }

    fn init(&self, params: &mut Params, _seed: u64) -> Result<(), Error> {
        params.get_mut(self.w).value.slice_mut::<f32>().fill(1.0);
        Ok(())
    }

    fn step_targets(&self) -> u64 {
        1
    }

    fn loss(&mut self, tape: &mut Tape<'_>, _step: u64, _micro: usize) -> Result<Var, Error> {
        let pool = tape.device().pool().clone();
        let one = Tensor::from_f32(&pool, Tag::Activations, [1, 1], &[1.0])?;
        let x = tape.input(one, false);
        let w = tape.linear(x, &LinearSpec::new([self.w]), None)?;
        let value = tape.value(w).expect("the value is used again").slice::<f32>()[0];
        let slope = Tensor::from_f32(&pool, Tag::Activations, [1, 1], &[self.lambda * value])?;
        Ok(tape.dot(w, &Arc::new(slope))?)
    }

    fn validate(&mut self, _: &Device, _: Compute, params: &Params) -> Result<Validation, Error> {
        let w = f64::from(params.get(self.w).value.slice::<f32>()[0]);
        Ok(Validation { loss: w * w, bpb: None, targets: 1, compile: None })
    }

    fn validation_targets(&self) -> u64 {
        1
    }
}

/// With an eps far over every gradient and without averages, AdamW is plain descent at `lr / eps`.
const EPS: f64 = 1e12;

fn recipe() -> Recipe {
    let (betas, eps) = (Some([0.0, 0.0]), Some(EPS));
    let group = GroupConfig { lr: 7.0, betas, eps, weight_decay: Some(0.0), ..Default::default() };
    Recipe {
        seed: 1,
        compute: Compute::F32,
        policy: GradPolicy { clip: Clip::Off, ..GradPolicy::default() },
        schedule: Schedule::Constant { warmup_steps: 0 },
        groups: vec![group],
        ema: Some(0.9),
        weights: smidgen_optim::Weights::F32,
    }
}

/// Everything that a checkpoint of the trainer holds.
fn fingerprint(trainer: &mut Trainer<'_>) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(Arc::new(Disk), &dir.path().join("run"), "").unwrap();
    trainer.save(&run, false, 1, serde_json::Value::Null).unwrap();
    let folder = run.step_folder(trainer.standing().step);
    [MODEL, STATE, EMA, CURSOR].map(|file| std::fs::read(folder.join(file)).unwrap()).to_vec()
}

#[test]
fn a_quadratic_diverges_over_two_through_its_curvature_and_everything_is_put_back() {
    for lambda in [0.5f32, 4.0] {
        let device = Device::cpu(Ledger::new(), 1);
        let mut params = Params::new();
        let w = params.add(&device, "w", Role::MatrixHidden, [1, 1]).unwrap();
        let mut quadratic = Quadratic { w, lambda };
        let mut trainer = Trainer::new(&device, recipe(), &mut quadratic, params).unwrap();
        for _ in 0..3 {
            trainer.step().unwrap();
        }
        let before = fingerprint(&mut trainer);
        let limit = 2.0 / f64::from(lambda) * EPS;
        let test = RangeTest { low: limit * 1e-3, high: limit * 1e2, steps: 100 };
        let stop = AtomicBool::new(false);
        let curve = lr_find(&mut trainer, &test, &mut Silent, &stop).unwrap();
        assert!(before == fingerprint(&mut trainer), "something was left behind");
        assert!(curve.diverged && curve.points.len() < 100, "{} points", curve.points.len());
        // Up to the limit each step shrinks the loss of the one before, over it each one grows.
        let raw = |i: usize| (curve.points[i].lr, curve.points[i].loss);
        for i in 1..curve.points.len() {
            let ((lr, before), (_, after)) = (raw(i - 1), raw(i));
            assert_eq!(after > before, lr > limit, "{lr:e} of {limit:e}: {before:e} {after:e}");
        }
        assert!(curve.steepest.unwrap() < limit);
        assert!(curve.suggestion().unwrap() < limit);
        let end = curve.points.last().unwrap().lr;
        assert!(end > limit && end < 10.0 * limit, "{end:e} of {limit:e}");
    }
}

#[test]
fn a_rate_of_the_test_does_not_depend_on_the_groups_own() {
    let curves = [7.0, 0.001].map(|lr| {
        let device = Device::cpu(Ledger::new(), 1);
        let mut params = Params::new();
        let w = params.add(&device, "w", Role::MatrixHidden, [1, 1]).unwrap();
        let mut quadratic = Quadratic { w, lambda: 1.0 };
        let mut recipe = recipe();
        recipe.groups[0].lr = lr;
        let mut trainer = Trainer::new(&device, recipe, &mut quadratic, params).unwrap();
        let test = RangeTest { low: 1e9, high: 1e13, steps: 50 };
        lr_find(&mut trainer, &test, &mut Silent, &AtomicBool::new(false)).unwrap()
    });
    for (a, b) in curves[0].points.iter().zip(&curves[1].points) {
        assert!((a.loss - b.loss).abs() <= 1e-4 * a.loss.abs(), "{a:?} {b:?}");
    }
}

fn listing(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_run_is_only_read() {
    let place = Place::new();
    place.until("run", &["train.ema=0.9"], 3);
    let before = listing(&place.run("run"));
    let stop = AtomicBool::new(false);
    let mut resumed = 0;
    let mut progress = |event: Event<'_>| {
        if let Event::Resumed { step } = event {
            resumed = step;
        }
    };
    let test = RangeTest { steps: 20, ..RangeTest::default() };
    let cx = Context::new(&mut progress, &stop);
    let curve = lr_find_run(&place.run("run"), &test, cx).unwrap();
    assert_eq!((resumed, curve.points.len()), (3, 20));
    assert!(before == listing(&place.run("run")));
    place.train("whole", &["train.ema=0.9"]);
    place.resume("run");
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("run"), 8));
}

#[test]
fn a_source_is_tried_in_a_folder_of_its_own() {
    let place = Place::new();
    let stop = AtomicBool::new(false);
    let curve = lr_find_source(
        &place.config(&[]),
        &place.run("scratch"),
        &RangeTest::default(),
        Context::new(&mut Silent, &stop),
    );
    let curve = curve.unwrap();
    let found = curve.suggestion().unwrap();
    // What a model of this size bears, within the noise of batches of 64 tokens.
    assert!((1e-4..3e-1).contains(&found), "{found:e}");
    assert!(curve.points.iter().all(|point| point.loss.is_finite()));
}

#[test]
fn an_automatic_rate_is_found_once_and_goes_through_one_cycle() {
    let place = Place::new();
    let sets = ["train.lr=auto"];
    place.train("whole", &sets);
    let stopped = place.until("run", &sets, 3);
    assert_eq!(stopped.steps, 3);
    let view = RunView::open(&place.run("run")).unwrap();
    let read = |name: &str| view.read_text(name).unwrap();
    let resolved: Config = config::parse(&read("run.toml"), "run.toml".as_ref()).unwrap();
    assert_eq!(resolved.train.lr, None);
    assert!(matches!(resolved.schedule, Some(Schedule::OneCycle(_))));
    assert_ne!(resolved.optim[0].lr, 0.0);
    let mut tried = 0;
    let mut progress = |event: Event<'_>| tried += u32::from(matches!(event, Event::Range { .. }));
    let stop = AtomicBool::new(false);
    let cx = Context::new(&mut progress, &stop);
    smidgen_train::resume(&place.run("run"), &Changes::default(), cx).unwrap();
    assert_eq!(tried, 0, "a resumed run looks for its rate again");
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("run"), 8));
    // A number in its place is that number.
    place.train("number", &["train.lr=2e-3"]);
    let text = RunView::open(&place.run("number")).unwrap().read_text("run.toml").unwrap();
    assert!(text.contains("lr = 0.002") && !text.contains("one-cycle"), "{text}");
}

#[test]
fn a_run_that_has_begun_finds_no_rate() {
    let place = Place::new();
    place.until("run", &[], 3);
    let sets = vec!["train.lr=auto".to_string()];
    let changes = Changes { sets, override_config: true, extend: None };
    let error = Watch::new().resume(&place.run("run"), &changes, Arc::new(Disk)).unwrap_err();
    assert!(error.to_string().contains("a number for a run that has begun"), "{error}");
    place.resume("run");
}
