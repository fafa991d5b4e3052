//! Phases that begin with isometric matrices, and gradients summed in subspaces.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use smidgen_codec::{Ledger, Rng, Tag};
use smidgen_optim::{Clip, GradMode, GradPolicy, GroupConfig, ProjectionKind, Rank};
use smidgen_store::{Disk, RunDir, RunView, Which};
use smidgen_tensor::{
    Compute, Device, LinearSpec, ParamId, Params, Role, Tape, Targets, Tensor, Var,
};
use smidgen_train::{
    Course, Error, Objective, Recipe, Silent, TrackConfig, Trainer, Validation, fit,
};

use crate::common::Place;
use crate::objective::{ROWS, Sides, course, recipe};

fn until(dir: &Path, course: &Course, last: u64) -> Vec<f32> {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let mut sides = Sides::new(&device, &mut params, &[]);
    let mut trainer = Trainer::new(&device, recipe(GradMode::Held), &mut sides, params).unwrap();
    let run = if dir.exists() {
        let run = RunDir::open(Arc::new(Disk), dir).unwrap();
        trainer.load(&run.checkpoint(Which::Last).unwrap()).unwrap();
        run
    } else {
        RunDir::create(Arc::new(Disk), dir, "").unwrap()
    };
    let course = Course { max_steps: Some(last), ..course.clone() };
    fit(&mut trainer, &course, &run, &mut Silent, &AtomicBool::new(false)).unwrap();
    trainer.params().iter().flat_map(|(_, param)| param.value.to_vec()).collect()
}

fn lines(dir: &Path, key: &str) -> Vec<Value> {
    let mut lines = RunView::open(dir).unwrap().metrics().unwrap();
    lines.retain(|line| line.get(key).is_some());
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("time")));
    lines
}

#[test]
fn a_phase_changes_the_weights_once_and_resumes_over_its_boundary() {
    let dir = tempfile::tempdir().unwrap();
    let phases = Course { fire_at: vec![0, 10], ..course(20) };
    let whole = until(&dir.path().join("whole"), &phases, 20);
    let plain = until(&dir.path().join("plain"), &course(20), 20);
    assert_ne!(whole, plain);
    let fires = lines(&dir.path().join("whole"), "fire");
    assert_eq!(
        fires.iter().map(|line| line["step"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(11)]
    );
    let report = &fires[1]["fire"][0];
    assert_eq!(report["name"], "hidden.weight");
    assert!(report["sfe"].as_f64().unwrap() > 1e-3 && report["dfi_after"].as_f64() < Some(1e-6));
    assert!(lines(&dir.path().join("plain"), "fire").is_empty());
    for stops in [[7, 20], [10, 20], [11, 20]] {
        let parts = dir.path().join(format!("parts{}", stops[0]));
        let last = stops.map(|stop| until(&parts, &phases, stop));
        assert!(last[1] == whole, "{stops:?}");
        assert_eq!(lines(&parts, "fire"), fires, "{stops:?}");
    }
    // The weights right after the boundary are those of the checkpoint, made isometric.
    let first = until(&dir.path().join("first"), &Course { fire_at: vec![10], ..course(20) }, 10);
    assert_eq!(first, until(&dir.path().join("ten"), &course(20), 10));
    let wrong = Course { fire_at: vec![5], fire_match: Some("hiden.*".into()), ..course(20) };
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let mut sides = Sides::new(&device, &mut params, &[]);
    let mut trainer = Trainer::new(&device, recipe(GradMode::Held), &mut sides, params).unwrap();
    let run = RunDir::create(Arc::new(Disk), &dir.path().join("wrong"), "").unwrap();
    let error = fit(&mut trainer, &wrong, &run, &mut Silent, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("the nearest name is `hidden.weight`"), "{error}");
}

#[test]
fn validations_measure_ranks_where_they_are_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let track = TrackConfig { plasticity: true, ..TrackConfig::default() };
    let with = until(&dir.path().join("with"), &Course { track, ..course(20) }, 20);
    assert_eq!(with, until(&dir.path().join("without"), &course(20), 20));
    assert!(lines(&dir.path().join("without"), "plasticity").is_empty());
    let found = lines(&dir.path().join("with"), "plasticity");
    assert_eq!(found.len(), 2);
    let ranks = &found[0]["plasticity"]["hidden.weight"];
    let [stable, effective] = ["stable_rank", "effective_rank"].map(|key| ranks[key].as_f64());
    assert!(stable >= Some(1.0) && stable <= effective && effective <= Some(4.0), "{ranks}");
}

/// The same points, cut into micro-batches.
struct Cut {
    sides: Sides,
    parts: usize,
}

impl Objective for Cut {
    fn name(&self) -> &'static str {
        "cut"
    }

    fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error> {
        self.sides.init(params, seed)
    }

    fn step_targets(&self) -> u64 {
        ROWS as u64
    }

    fn loss(&mut self, tape: &mut Tape<'_>, step: u64, micro: usize) -> Result<Var, Error> {
        let place = step * self.parts as u64 + micro as u64;
        self.sides.put(tape, place, 1.0 / (ROWS * self.parts) as f32)
    }

    fn validate(&mut self, d: &Device, c: Compute, params: &Params) -> Result<Validation, Error> {
        self.sides.validate(d, c, params)
    }

    fn validation_targets(&self) -> u64 {
        ROWS as u64
    }
}

fn summed(
    grad: GradMode,
    parts: usize,
    projection: Option<ProjectionKind>,
) -> Result<(Vec<f32>, usize), Error> {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let sides = Sides::new(&device, &mut params, &[]);
    let mut cut = Cut { sides, parts };
    let group = GroupConfig {
        lr: 0.01,
        projection,
        projector: projection.map(|_| "f32".into()),
        galore_rank: projection.map(|_| Rank::Count(2)),
        ..GroupConfig::default()
    };
    let policy =
        GradPolicy { grad, clip: Clip::Off, grad_accum: parts as u32, ..GradPolicy::default() };
    let recipe = Recipe { policy, groups: vec![group], ..recipe(grad) };
    let mut trainer = Trainer::new(&device, recipe, &mut cut, params)?;
    trainer.set_horizon(100);
    for _ in 0..30 {
        trainer.step()?;
    }
    let peak = device.ledger().peak_bytes(Tag::Grads);
    assert_eq!(device.ledger().live_bytes(Tag::Grads), 0);
    Ok((trainer.params().iter().flat_map(|(_, param)| param.value.to_vec()).collect(), peak))
}

/// One subspace is found in the first micro-batch, the other in the whole step: the weights end near
/// each other, and the gradients of matrices are never held.
#[test]
fn gradients_are_streamed_over_micro_batches_in_a_subspace() {
    let kind = Some(ProjectionKind::Galore);
    let (streamed, peak) = summed(GradMode::Streamed, 4, kind).unwrap();
    let (held, most) = summed(GradMode::Held, 4, kind).unwrap();
    assert!(peak <= most, "{peak} {most}");
    let far = streamed.iter().zip(&held).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let size = held.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!(far < 0.5 * size && far > 0.0, "{far} {size}");
    let one = |grad| summed(grad, 1, kind).unwrap().0;
    assert!(one(GradMode::Streamed) == one(GradMode::Held), "one micro-batch: the same to the bit");
    let refused = summed(GradMode::Streamed, 4, None).unwrap_err().to_string();
    assert!(refused.contains("excludes `grad_accum = 4`"), "{refused}");
}

/// Points whose classes are drawn anew in each phase: what was learned before is of no use, and
/// weights that grew for it are in the way.
struct Shifting {
    gate_up: LinearSpec,
    down: LinearSpec,
    head: ParamId,
}

const PHASE: u64 = 60;

impl Shifting {
    fn new(device: &Device, params: &mut Params) -> Shifting {
        let mut add = |name, role, shape| params.add(device, name, role, shape).unwrap();
        let hidden = Role::MatrixHidden;
        Shifting {
            gate_up: LinearSpec::new([
                add("gate.weight", hidden, [32, 16]),
                add("up.weight", hidden, [32, 16]),
            ]),
            down: LinearSpec::new([add("down.weight", hidden, [16, 32])]),
            head: add("head.weight", Role::Head, [8, 16]),
        }
    }
}

impl Objective for Shifting {
    fn name(&self) -> &'static str {
        "shifting"
    }

    fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error> {
        let rng = Rng::named(seed, "shifting");
        for (id, param) in params.iter_mut() {
            let std = 1.0 / (param.value.cols() as f32).sqrt();
            rng.fill_normal(id.index() as u64, 0, std, param.value.slice_mut());
        }
        Ok(())
    }

    fn step_targets(&self) -> u64 {
        64
    }

    fn loss(&mut self, tape: &mut Tape<'_>, step: u64, _micro: usize) -> Result<Var, Error> {
        let rng = Rng::named(5, "points");
        let points: Vec<f32> = (0..64 * 16).map(|i| rng.normal(0, 0, i) as f32).collect();
        let classes: Vec<u32> =
            (0..64).map(|i| rng.below(1 + step / PHASE, 1, i, 8) as u32).collect();
        let x = Tensor::from_f32(tape.device().pool(), Tag::Activations, [64, 16], &points)?;
        let x = tape.input(x, false);
        let gate_up = tape.linear(x, &self.gate_up, None)?;
        let act = tape.swiglu(gate_up)?;
        let hidden = tape.linear(act, &self.down, None)?;
        let (tokens, weights) = (classes.into(), vec![1.0; 64].into());
        let targets = Targets { tokens, weights, scale: 1.0 / 64.0, chunk_bytes: 1 << 16 };
        Ok(tape.head_loss(hidden, self.head, targets)?)
    }

    fn validate(&mut self, _: &Device, _: Compute, _: &Params) -> Result<Validation, Error> {
        Ok(Validation { loss: 0.0, bpb: None, targets: 1, compile: None })
    }

    fn validation_targets(&self) -> u64 {
        1
    }
}

/// Mean loss of the last three of twelve phases.
fn late_loss(dir: &Path, fires: bool, seed: u64) -> f64 {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let mut shifting = Shifting::new(&device, &mut params);
    let recipe = Recipe { seed, ..recipe(GradMode::Held) };
    let mut trainer = Trainer::new(&device, recipe, &mut shifting, params).unwrap();
    let run = RunDir::create(Arc::new(Disk), dir, "").unwrap();
    let fire_at = if fires { (1..12).map(|phase| phase * PHASE).collect() } else { Vec::new() };
    let all = 12 * PHASE;
    let course = Course { fire_at, val_every: all, ckpt_every: all, ..course(all) };
    fit(&mut trainer, &course, &run, &mut Silent, &AtomicBool::new(false)).unwrap();
    let losses = lines(dir, "loss");
    assert_eq!(losses.len() as u64, all);
    let late = losses.iter().skip(9 * PHASE as usize).map(|line| line["loss"].as_f64().unwrap());
    late.sum::<f64>() / (3 * PHASE) as f64
}

#[test]
fn a_fresh_start_recovers_faster_from_labels_that_change() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 1..=3 {
        let [fresh, worn] = [true, false]
            .map(|fires| late_loss(&dir.path().join(format!("{fires}{seed}")), fires, seed));
        assert!(fresh < 0.9 * worn, "seed {seed}: {fresh} {worn}");
    }
}

#[test]
fn dormant_units_of_a_language_model_are_counted_by_layer() {
    let place = Place::new();
    place.train("with", &["track.plasticity=true"]);
    place.train("without", &[]);
    let counted = |run: &str| {
        let mut lines = place.metrics(run);
        lines.retain(|line| line.get("dormant").is_some());
        lines
    };
    assert!(counted("without").is_empty());
    let lines = counted("with");
    assert_eq!(lines.len(), 2, "one for each validation");
    let shares = lines[0]["dormant"].as_object().unwrap();
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["layers.0", "layers.1"]);
    assert!(shares.values().all(|share| (0.0..=1.0).contains(&share.as_f64().unwrap())));
}
