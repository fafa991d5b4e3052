//! Learning rates that are found, runs that are made longer, averages that are written with.

mod common;

use std::fs;

use common::{Place, fails, object, stdout};

#[test]
fn a_rate_is_found_and_drawn_and_nothing_else_is_left() {
    let place = Place::new();
    let try_out = |more: &[&str]| {
        let mut command = place.smidgen(&["lr-find", "text", "--steps", "30"]);
        command.args(common::small(10)).args(more);
        command
    };
    let curve = object(try_out(&["--json", "--out", "plots"]));
    assert_eq!(curve["points"].as_array().unwrap().len(), 30);
    assert!(curve["steepest"].as_f64().unwrap() > 1e-7, "{curve}");
    let picture = fs::read_to_string(place.path("plots/lr-find.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("learning rate"));
    let numbers = fs::read_to_string(place.path("plots/lr-find.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&numbers).unwrap(), curve);
    let text = stdout(try_out(&[]));
    assert!(
        text.contains("falls most steeply") && text.contains("smidgen train text --lr"),
        "{text}"
    );
    let mut left: Vec<_> =
        fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["plots", "text"]);
    fails(try_out(&["--low", "1", "--high", "0.1"]), 2, "`--low, --high`: expected positive rates");
    fails(place.smidgen(&["lr-find", "nowhere"]), 3, "nowhere");
}

#[test]
fn a_finished_run_is_made_longer() {
    let place = Place::new();
    place.train("run", 12, &["--lr", "2e-3", "--set", "train.ema=0.9"]).assert().success();
    let text = stdout(place.smidgen(&["lr-find", "run", "--steps", "10"]));
    assert!(text.contains("Going on from step 12"), "{text}");
    let resume = |more: &[&str]| {
        let mut command = place.smidgen(&["train", "--resume", "run", "--json"]);
        command.args(more);
        command
    };
    fails(resume(&["--set", "train.steps=20", "--override"]), 2, "hint: `--extend N`");
    let outcome = object(resume(&["--extend", "8"]));
    assert_eq!((&outcome["steps"], outcome["ema_bpb"].is_number()), (&20.into(), true));
    let written = |more: &[&str]| {
        let mut command =
            place.smidgen(&["generate", "run", "--prompt", "The", "--temperature", "0"]);
        command.args(["--max-tokens", "8", "--json"]).args(more);
        command
    };
    assert_eq!(object(written(&["--ema"]))["step"], object(written(&[]))["step"]);
    place.train("plain", 5, &[]).assert().success();
    fails(place.smidgen(&["generate", "plain", "--ema"]), 3, "has no averaged weights");
    fails(place.train("x", 5, &["--lr", "fast"]), 2, "expected a number or `auto`");
}
