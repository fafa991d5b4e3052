//! Early stopping, the result of a run, alarms and roll-backs, by objectives that do what a test says.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;
use smidgen_codec::Ledger;
use smidgen_optim::{GradMode, GroupConfig};
use smidgen_store::{Disk, RunDir, RunView, Which};
use smidgen_tensor::{Compute, Device, Params, Role, Tape, Var};
use smidgen_train::{
    AlarmConfig, CompileRate, Course, Error, Event, MODEL, Metric, Objective, Outcome, Recipe,
    STATE, Sample, Samples, Standing, StopConfig, Trainer, Validation, fit,
};

use crate::objective::{ROWS, Sides, course, recipe};

/// What happens in a run besides its training.
#[derive(Clone, Default)]
struct Script {
    /// Losses of the validations, one for every ten steps; the last one stays.
    losses: Vec<f64>,
    /// Steps (from 0) whose loss, and so their gradient, is 400 times as large.
    loud: Vec<u64>,
    /// Entropy of the samples.
    entropy: Option<f64>,
    /// A block that the loss does not know.
    has_dead_block: bool,
    /// Completions of ten that compile, one for every ten steps.
    compiled: Vec<u32>,
}

struct Scripted {
    sides: Sides,
    script: Script,
    step: u64,
}

impl Scripted {
    fn of<T: Copy>(&self, values: &[T]) -> Option<T> {
        values.get((self.step / 10).saturating_sub(1) as usize).or(values.last()).copied()
    }
}

impl Objective for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error> {
        self.sides.init(params, seed)
    }

    fn step_targets(&self) -> u64 {
        ROWS as u64
    }

    fn loss(&mut self, tape: &mut Tape<'_>, step: u64, _micro: usize) -> Result<Var, Error> {
        self.step = step + 1;
        let factor = if self.script.loud.contains(&step) { 400.0 } else { 1.0 };
        self.sides.put(tape, step, factor / ROWS as f32)
    }

    fn validate(&mut self, d: &Device, c: Compute, params: &Params) -> Result<Validation, Error> {
        let score = self.sides.validate(d, c, params)?;
        let loss = self.of(&self.script.losses).unwrap_or(score.loss);
        Ok(Validation { loss, ..score })
    }

    fn compile_rate(
        &mut self,
        _: &Device,
        _: Compute,
        _: &Params,
    ) -> Result<Option<CompileRate>, Error> {
        let rate =
            |compiled| CompileRate { samples: 10, parsed: 10, compiled, low: 0.0, high: 1.0 };
        Ok(self.of(&self.script.compiled).map(rate))
    }

    fn validation_targets(&self) -> u64 {
        ROWS as u64
    }

    fn samples(&mut self, _: &Device, _: Compute, _: &Params) -> Result<Option<Samples>, Error> {
        let texts = vec![Sample { prompt: "a".into(), text: self.step.to_string() }];
        Ok(self.script.entropy.map(|entropy| Samples { texts, entropy: Some(entropy) }))
    }

    fn resume(&mut self, step: u64, _: &Value) -> Result<(), Error> {
        self.step = step;
        Ok(())
    }
}

struct Ran {
    outcome: Result<Outcome, Error>,
    standing: Standing,
    weights: Vec<u8>,
    notices: Vec<String>,
}

/// Trains in `dir`, or goes on there, until the end or until a step.
fn run(dir: &Path, script: &Script, course: &Course, ema: Option<f64>, until: u64) -> Ran {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let sides = Sides::new(&device, &mut params, &[]);
    if script.has_dead_block {
        params.add(&device, "layers.7.up.weight", Role::MatrixHidden, [4, 4]).unwrap();
    }
    let mut scripted = Scripted { sides, script: script.clone(), step: 0 };
    let recipe = Recipe { ema, ..recipe(GradMode::Held) };
    let mut trainer = Trainer::new(&device, recipe, &mut scripted, params).unwrap();
    let run = match dir.exists() {
        false => RunDir::create(Arc::new(Disk), dir, "").unwrap(),
        true => RunDir::open(Arc::new(Disk), dir).unwrap(),
    };
    if let Some((checkpoint, _)) = run.newest_valid().unwrap() {
        trainer.load(&checkpoint).unwrap();
    }
    let (stop, mut notices) = (AtomicBool::new(until == 0), Vec::new());
    let mut progress = |event: Event<'_>| match event {
        Event::Notice(text) => notices.push(text.to_string()),
        Event::Step(step) if step.step >= until => stop.store(true, Relaxed),
        _ => {}
    };
    let outcome = fit(&mut trainer, course, &run, &mut progress, &stop);
    let weights = trainer.params().iter().flat_map(|(_, p)| p.value.as_bytes().to_vec()).collect();
    Ran { outcome, standing: trainer.standing().clone(), weights, notices }
}

/// A run to its end, and the same run interrupted at some steps: they must be equal in everything.
fn run_both_ways(name: &Path, script: &Script, course: &Course, ema: Option<f64>) -> Ran {
    let whole = run(name, script, course, ema, u64::MAX);
    let parts = name.with_extension("parts");
    for until in [7, 23, 38] {
        let part = run(&parts, script, course, ema, until);
        part.outcome.unwrap();
    }
    let last = run(&parts, script, course, ema, u64::MAX);
    assert!(whole.weights == last.weights, "other weights after a resume");
    let (a, b) = (whole.standing.clone(), last.standing);
    assert_eq!((a.step, a.updates, a.best, a.last), (b.step, b.updates, b.best, b.last));
    assert_eq!((&a.patience, &a.watched), (&b.patience, &b.watched));
    assert_eq!((a.passed_over, a.ema_updates), (b.passed_over, b.ema_updates));
    assert_eq!(lines(name), lines(&parts), "other metrics after a resume");
    whole
}

/// The metrics without what the clock and the memory say.
fn lines(dir: &Path) -> Vec<Value> {
    let mut lines = RunView::open(dir).unwrap().metrics().unwrap();
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for key in ["time", "tok_s", "wait", "bytes", "power_w"] {
            line.remove(key);
        }
    }
    lines
}

fn events(dir: &Path, event: &str) -> Vec<(u64, String)> {
    let lines = lines(dir);
    let ours = lines.iter().filter(|line| line["event"] == event);
    ours.map(|line| (line["step"].as_u64().unwrap(), line["text"].as_str().unwrap().to_string()))
        .collect()
}

fn stopping(steps: u64, stop: StopConfig) -> Course {
    Course { stop: Some(stop), ..course(steps) }
}

#[test]
fn a_run_stops_when_its_validations_no_longer_improve() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let script = Script { losses: vec![3.0, 2.0, 2.0, 1.99995, 1.0], ..Script::default() };
    let stop = StopConfig { patience: 2, ..StopConfig::default() };
    let ran = run_both_ways(&path, &script, &stopping(200, stop), None);
    let outcome = ran.outcome.unwrap();
    // 20 is the best that counts; 30 and 40 do not improve on it by 1e-4, though 40 is lower.
    assert_eq!((outcome.steps, outcome.stopped_early), (40, true));
    assert_eq!((outcome.best_step, outcome.result_step), (Some(40), 40));
    let told = events(&path, "stop");
    assert_eq!((told.len(), told[0].0), (1, 40));
    assert!(told[0].1.contains("the validation loss has not improved for 2"), "{told:?}");
    // Without a section nothing stops, and the training is the same as far as it goes.
    let free = dir.path().join("free");
    let all = run(&free, &script, &course(40), None, u64::MAX);
    assert_eq!(all.outcome.unwrap().steps, 40);
    assert!(all.weights == ran.weights);
    assert!(!run(&free, &script, &course(40), None, u64::MAX).outcome.unwrap().stopped_early);
}

#[test]
fn the_best_checkpoint_is_the_result_where_it_is_to_be_restored() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script { losses: vec![3.0, 2.0, 2.5], ..Script::default() };
    for (name, restore_best) in [("best", true), ("last", false)] {
        let path = dir.path().join(name);
        let stop = StopConfig { patience: 3, restore_best, ..StopConfig::default() };
        let ran = run_both_ways(&path, &script, &stopping(200, stop), Some(0.9));
        let outcome = ran.outcome.unwrap();
        let result = if restore_best { 20 } else { 50 };
        assert_eq!((outcome.steps, outcome.best_step), (50, Some(20)));
        assert_eq!(outcome.result_step, result);
        assert_eq!(outcome.val_loss, Some(if restore_best { 2.0 } else { 2.5 }));
        let view = RunView::open(&path).unwrap();
        let checkpoint = view.checkpoint(Which::Step(result)).unwrap();
        let names = ["hidden.weight", "head.weight"];
        let saved = names.map(|name| checkpoint.tensor(MODEL, name).unwrap().data.to_vec());
        assert!(saved.concat() == ran.weights, "the weights in hand are not those of {result}");
        // The course itself stays where it ended.
        assert_eq!((view.latest().unwrap(), view.best().unwrap()), (Some(50), Some(20)));
    }
}

#[test]
fn stopping_and_the_best_go_by_the_metric() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let compiled = vec![1, 5, 5, 4, 5, 6];
    let losses = vec![6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
    let script = Script { losses, compiled, ..Script::default() };
    let stop = StopConfig { metric: Metric::Compile, patience: 3, ..StopConfig::default() };
    let outcome = run_both_ways(&path, &script, &stopping(200, stop), None).outcome.unwrap();
    // Of equal rates that with the lower loss is the best, but no improvement.
    assert_eq!((outcome.steps, outcome.best_step), (50, Some(50)));
    assert_eq!(outcome.compile.unwrap().compiled, 5);
    let line = lines(&path).into_iter().find(|line| line.get("compile").is_some()).unwrap();
    assert_eq!(line["compile"]["rate"], 0.1);
}

#[test]
fn a_spike_is_told_and_trained_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let script = Script { loud: vec![31, 32, 45], ..Script::default() };
    let ran = run_both_ways(&path, &script, &course(60), None);
    let outcome = ran.outcome.unwrap();
    // The second one in a row is the same crossing.
    assert_eq!((outcome.alarms["spike"], outcome.rollbacks), (2, 0));
    let told = events(&path, "alarm");
    let spikes = told.iter().filter(|(_, text)| text.contains("running mean"));
    assert_eq!(spikes.map(|(step, _)| *step).collect::<Vec<_>>(), [32, 46], "{told:?}");
    assert!(ran.notices.iter().any(|text| text.contains("times its running mean")));
    let off = AlarmConfig { spike: 0.0, grad_norm: 0.0, gap: 0.0, dead: 0, ..Default::default() };
    let quiet = Course { alarm: off, ..course(60) };
    let silent = run(&dir.path().join("silent"), &script, &quiet, None, u64::MAX);
    assert!(silent.weights == ran.weights, "alarms change the training");
    assert!(silent.outcome.unwrap().alarms.is_empty());
}

#[test]
fn a_spike_sends_the_run_back_past_the_batches_that_may_have_caused_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let script = Script { loud: vec![31], ..Script::default() };
    let alarm = AlarmConfig { rollback: 2, ..AlarmConfig::default() };
    let ran = run_both_ways(&path, &script, &Course { alarm, ..course(60) }, None);
    let outcome = ran.outcome.unwrap();
    assert_eq!((outcome.steps, outcome.rollbacks, outcome.alarms["spike"]), (60, 1, 1));
    assert_eq!((ran.standing.passed_over, ran.standing.updates), (vec![30, 31], 58));
    let told = events(&path, "rollback");
    assert_eq!((told.len(), told[0].0), (1, 31));
    assert!(told[0].1.contains("went back to step 30"), "{told:?}");
    let lines = lines(&path);
    let steps = lines.iter().filter(|line| line.get("tokens").is_some());
    let skipped: Vec<_> = steps.clone().filter(|line| line["skipped"] == true).collect();
    assert_eq!((steps.count(), skipped.len()), (60, 2));
}

#[test]
fn a_run_goes_back_so_often_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let script = Script { loud: vec![31, 41, 51], ..Script::default() };
    let alarm = AlarmConfig { rollback: 2, ..AlarmConfig::default() };
    let ran = run(&path, &script, &Course { alarm, ..course(60) }, None, u64::MAX);
    let Err(Error::Spikes { step: 52, rollbacks: 2, saved }) = ran.outcome else {
        panic!("{:?}", ran.outcome)
    };
    let checkpoint = RunView::open(&path).unwrap().checkpoint(Which::Last).unwrap();
    assert!(checkpoint.step() >= saved && checkpoint.tensors(STATE).is_ok());
}

#[test]
fn a_gradient_without_measure_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let script = Script { loud: vec![31], ..Script::default() };
    let alarm = AlarmConfig { spike: 0.0, ..AlarmConfig::default() };
    let ran = run_both_ways(&path, &script, &Course { alarm, ..course(60) }, None);
    assert_eq!(ran.outcome.unwrap().alarms["grad_norm"], 1);
    let told = events(&path, "alarm");
    assert!(told.iter().any(|(step, text)| *step == 32 && text.contains("the gradient norm")));
}

#[test]
fn a_block_without_a_gradient_is_told_after_some_validations() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let script = Script { has_dead_block: true, ..Script::default() };
    for grad in ["alive", "dead"] {
        let script = if grad == "dead" { script.clone() } else { Script::default() };
        let path = path.join(grad);
        let ran = run_both_ways(&path, &script, &course(60), None);
        let told = events(&path, "alarm");
        let dead = told.iter().filter(|(_, text)| text.contains("no gradient reaches layers.7,"));
        let steps: Vec<u64> = dead.map(|(step, _)| *step).collect();
        assert_eq!(steps, if grad == "dead" { vec![30] } else { vec![] }, "{told:?}");
        drop(ran);
    }
}

#[test]
fn collapsed_predictions_and_learning_by_heart_are_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let losses = vec![0.1, 9.0, 9.0, 0.1, 9.0];
    let script = Script { losses, entropy: Some(0.001), ..Script::default() };
    let ran = run_both_ways(&path, &script, &course(60), None);
    let alarms = ran.outcome.unwrap().alarms;
    assert_eq!((alarms["entropy"], alarms["gap"]), (1, 2));
    let kinds: Vec<Value> =
        lines(&path).iter().filter(|l| l["event"] == "alarm").map(|l| l["kind"].clone()).collect();
    assert_eq!(kinds, ["entropy", "gap", "gap"]);
    let samples = lines(&path).into_iter().filter(|line| line.get("samples").is_some());
    let first = samples.clone().next().unwrap();
    assert_eq!(samples.count(), 6);
    assert_eq!((&first["samples"][0]["text"], &first["entropy"]), (&"10".into(), &0.001.into()));
}

#[test]
fn the_average_of_the_weights_changes_nothing_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::default();
    let plain = run_both_ways(&dir.path().join("plain"), &script, &course(60), None);
    let with = run_both_ways(&dir.path().join("with"), &script, &course(60), Some(0.9));
    assert!(plain.weights == with.weights);
    let outcome = with.outcome.unwrap();
    assert_ne!(outcome.ema_loss, outcome.val_loss);
    assert_eq!(plain.outcome.unwrap().ema_loss, None);
    let file = |name: &str| {
        std::fs::read(dir.path().join(name).join("ckpt/step-00000060/ema.safetensors")).ok()
    };
    assert!(file("plain").is_none());
    assert!(file("with").unwrap() == file("with.parts").unwrap());
    let ema_lines = lines(&dir.path().join("with"));
    assert_eq!(ema_lines.iter().filter(|line| line.get("ema_loss").is_some()).count(), 6);
}

#[test]
fn a_step_line_says_what_it_cost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    run(&path, &Script::default(), &course(20), None, u64::MAX).outcome.unwrap();
    let lines = RunView::open(&path).unwrap().metrics().unwrap();
    let line = lines.iter().find(|line| line["step"] == 7).unwrap();
    let lr = GroupConfig { lr: 0.03, ..GroupConfig::default() };
    assert_eq!(line["lr"], serde_json::json!({ lr.name: lr.lr }));
    let bytes = line["bytes"].as_object().unwrap();
    let of = |tag: &str| bytes[tag].as_u64().unwrap();
    assert_eq!((of("weights"), of("grads"), of("state")), (192, 192, 384));
    assert!(of("total") >= 768 && !bytes.contains_key("kv"), "{bytes:?}");
    assert!(line["time"].as_f64().unwrap() > 0.0 && line["wait"].as_f64().unwrap() >= 0.0);
    assert!(line["grad_norm"].as_f64().unwrap() > 0.0 && line["tok_s"].as_f64().unwrap() > 0.0);
}
