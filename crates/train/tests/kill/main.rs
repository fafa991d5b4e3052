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

use smidgen_store::Disk;
use smidgen_train::Changes;

use common::{Place, Watch, tensors};

const TEXT: &str = "SMIDGEN_TEST_TEXT";
const RUN: &str = "SMIDGEN_TEST_RUN";

/// Long enough to be hit in the middle: a checkpoint after every second of many steps.
const SETS: [&str; 2] = ["train.steps=60", "model.width=64"];

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

/// Kills `rounds` runs, each up to three times, and holds the results against the undisturbed one.
fn kill_and_resume(rounds: u64) {
    let place = Place::new();
    let started = Instant::now();
    assert!(spawn(&place, &place.run("whole")).wait().unwrap().success());
    let whole = started.elapsed();
    let expected = tensors(&place.run("whole"), 60);
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
    }
}

#[test]
fn killed_runs_resume_to_the_undisturbed_result() {
    kill_and_resume(3);
}

#[test]
#[ignore = "soak tier: twenty runs are killed"]
fn soak_killed_runs_resume_to_the_undisturbed_result() {
    kill_and_resume(20);
}
