//! SIGKILL at random moments: a child process of this very test binary is killed and its run resumed.
//!
//! A program of its own: a child that is being spawned shares the open lock files of all threads
//! around it for a moment.

#[allow(dead_code)]
#[path = "../suite/common.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use smidgen_store::events::Curves;
use smidgen_store::{Disk, RunView};
use smidgen_train::{Changes, EMA};

use common::{Place, Watch, tensors};

const TEXT: &str = "SMIDGEN_TEST_TEXT";
const RUN: &str = "SMIDGEN_TEST_RUN";

/// Long enough to be hit in the middle: a checkpoint after every second of many steps, and everything
/// that a run has to remember. The validations improve to the end, so patience only watches.
const SETS: [&str; 8] = [
    "train.steps=60",
    "model.width=64",
    "train.grad_accum=2",
    "train.ema=0.9",
    "stop.patience=8",
    "stop.restore_best=false",
    "validate.sample_tokens=8",
    "track.tensorboard=true",
];
/// What depends on the clock, the machine and the moment.
const UNEQUAL: [&str; 5] = ["time", "tok_s", "wait", "bytes", "power_w"];

/// Not a test of its own: what the child does.
#[test]
#[ignore = "runs in a child process"]
fn child() {
    let (Ok(text), Ok(run)) = (std::env::var(TEXT), std::env::var(RUN)) else { return };
    let sets: Vec<String> = common::TINY.iter().chain(&SETS).map(|set| set.to_string()).collect();
    let config = smidgen_train::Config::read(Path::new(&text), &sets).unwrap();
    let run = Path::new(&run);
    let watch = Watch::new();
    if run.join("run.toml").exists() {
        watch.resume(run, &Changes::default(), Arc::new(Disk)).unwrap();
    } else {
        watch.train(&config, run, Arc::new(Disk)).unwrap();
    }
}

fn spawn(place: &Place, run: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env(TEXT, place.run("text"))
        .env(RUN, run)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The averaged weights of the last step.
fn average(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("ckpt/step-00000060").join(EMA)).unwrap()
}

/// The metrics, but for what no two runs share.
fn lines(run: &Path) -> Vec<Value> {
    let mut lines = RunView::open(run).unwrap().metrics().unwrap();
    for line in &mut lines {
        UNEQUAL.iter().for_each(|key| drop(line.as_object_mut().unwrap().remove(*key)));
    }
    lines
}

/// The curves that TensorBoard shows, but for what no two runs share.
fn curves(run: &Path) -> Curves {
    let mut curves = Curves::read(&run.join("events")).unwrap();
    let equal = |tag: &String| UNEQUAL.iter().all(|key| !tag.split('/').any(|part| part == *key));
    curves.scalars.retain(|tag, _| equal(tag));
    curves
}

/// Kills `rounds` runs, each up to three times, and holds the results against the undisturbed one.
fn kill_and_resume(rounds: u64) {
    let place = Place::new();
    let started = Instant::now();
    assert!(spawn(&place, &place.run("whole")).wait().unwrap().success());
    let whole = started.elapsed();
    let expected = tensors(&place.run("whole"), 60);
    let (average, lines) = (average(&place.run("whole")), lines(&place.run("whole")));
    let shown = curves(&place.run("whole"));
    assert_eq!(shown.scalars["train/loss"].len(), 60);
    let steps = lines.iter().filter(|line| line.get("tokens").is_some());
    assert!(steps.map(|line| line["step"].as_u64().unwrap()).eq(1..=60), "a step is missing");
    // Other moments every time; the message of a failure names the seed.
    let seed = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let rng = smidgen_codec::Rng::named(seed, "kill");
    for round in 0..rounds {
        let run = place.run(&format!("killed-{round}"));
        for blow in 0..3 {
            let mut child = spawn(&place, &run);
            let share = rng.uniform(round, blow, 0);
            std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * share));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(spawn(&place, &run).wait().unwrap().success(), "seed {seed}, round {round}");
        assert!(tensors(&run, 60) == expected, "seed {seed}, round {round}: other bits");
        assert!(self::average(&run) == average, "seed {seed}, round {round}: another average");
        let again = self::lines(&run);
        let unequal = lines.iter().zip(&again).find(|(a, b)| a != b);
        assert!(unequal.is_none(), "seed {seed}, round {round}: {unequal:?}");
        assert_eq!(lines.len(), again.len(), "seed {seed}, round {round}");
        assert!(curves(&run) == shown, "seed {seed}, round {round}: other curves");
    }
}

#[test]
fn killed_runs_resume_to_the_undisturbed_result() {
    kill_and_resume(3);
}

#[test]
#[ignore = "soak tier: fifty kills"]
fn soak_killed_runs_resume_to_the_undisturbed_result() {
    kill_and_resume(17);
}
