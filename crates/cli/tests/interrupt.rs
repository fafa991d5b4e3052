//! Ctrl-C in the middle: saved, said, and nothing lost.

#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use common::{Place, newest, object, program, small};

const STEPS: u64 = 1500;

/// Starts a run, sends it a signal at its first step, and gives exit code and output.
fn interrupted(place: &Place, out: &str, signal: &str) -> (Option<i32>, String) {
    let mut command = Command::new(program());
    command.current_dir(place.path(".")).args(["train", "text", "--out", out, "--threads", "1"]);
    command.args(small(STEPS)).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it was piped"));
    let mut text = String::new();
    while !text.contains("step 1/") {
        assert!(lines.read_line(&mut text).expect("readable") > 0, "no first step: {text}");
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().expect("kill is everywhere");
    assert!(sent.success());
    lines.read_to_string(&mut text).expect("readable");
    (child.wait().expect("a child of ours").code(), text)
}

/// `smidgen train | head` once ended the run with exit code 0.
#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    let place = Place::new();
    let mut command = Command::new(program());
    command.current_dir(place.path(".")).args(["train", "text", "--out", "run", "--threads", "1"]);
    command.args(small(60)).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("a child of ours").code(), Some(0));
    let shown = object(place.smidgen(&["runs", "show", "run", "--json"]));
    assert_eq!((&shown["status"], &shown["steps"]), (&"finished".into(), &60.into()));
}

#[test]
fn an_interrupted_run_goes_on_to_the_undisturbed_result() {
    let place = Place::new();
    let whole = object(place.train("whole", STEPS, &["--json"]));
    for signal in ["-INT", "-TERM", "-HUP"] {
        let run = format!("cut{signal}");
        let (code, text) = interrupted(&place, &run, signal);
        assert_eq!(code, Some(130), "{text}");
        assert!(text.contains("Interrupted and saved at step"), "{text}");
        assert!(text.contains(&format!("train --resume {run}")), "{text}");
        let listing = object(place.smidgen(&["runs", "show", &run, "--json"]));
        assert_eq!(listing["status"], "stopped");
        assert!(listing["steps"].as_u64().unwrap() < STEPS);

        let done = object(place.smidgen(&["train", "--resume", &run, "--json"]));
        for key in ["steps", "tokens", "train_loss", "val_loss", "best_val_bpb", "best_step"] {
            assert_eq!(done[key], whole[key], "{key}");
        }
        for file in ["model.safetensors", "state.safetensors"] {
            let [ours, theirs] = [&run, "whole"].map(|run| newest(&place.path(run), file));
            assert!(fs::read(ours).unwrap() == fs::read(theirs).unwrap(), "{file} after {signal}");
        }
    }
}
