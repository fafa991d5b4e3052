//! Many runs: found by their figures, compared, shown when damaged, and cleaned without loss.

mod common;

use std::fs;
use std::path::Path;

use common::{Place, fails, object, stdout};
use serde_json::Value;

/// Two finished runs that differ in width, and one that ended before its first checkpoint.
fn three() -> Place {
    let place = Place::new();
    place.train("runs/small", 6, &[]).assert().success();
    let wide = ["--set", "model.width=128", "--set", "train.max_norm=0.5"];
    place.train("runs/wide", 9, &wide).assert().success();
    fs::create_dir(place.path("runs/early")).unwrap();
    fs::copy(place.path("runs/small/run.toml"), place.path("runs/early/run.toml")).unwrap();
    fs::create_dir(place.path("runs/other")).unwrap();
    fs::write(place.path("runs/other/notes.txt"), "no run").unwrap();
    place
}

fn names(place: &Place, more: &[&str]) -> Vec<String> {
    let listing = object(place.smidgen(&[&["runs", "list", "--json"], more].concat()));
    let rows = listing["runs"].as_array().unwrap().iter();
    rows.map(|row| row["name"].as_str().unwrap().to_string()).collect()
}

/// Every file below a folder, with its content.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(tree(&entry)),
            false => found.push((entry.display().to_string(), fs::read(&entry).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn runs_are_found_by_figures_and_keys_and_sorted() {
    let place = three();
    assert_eq!(names(&place, &["--sort", "steps"]), ["early", "small", "wide"]);
    assert_eq!(names(&place, &["--sort", "steps", "--reverse"]), ["wide", "small", "early"]);
    assert_eq!(names(&place, &["--filter", "status=stopped"]), ["early"]);
    assert_eq!(names(&place, &["--filter", "model.width=128"]), ["wide"]);
    assert_eq!(names(&place, &["--filter", "bpb<100", "--filter", "steps>=9"]), ["wide"]);
    assert_eq!(names(&place, &["--filter", "bpb>100"]), [""; 0]);
    // A run without the figure comes last, whichever way it has to be.
    assert_eq!(names(&place, &["--sort", "bpb"])[2], "early");
    fails(place.smidgen(&["runs", "list", "--sort", "bbp"]), 2, "figure or key `bbp`");
    fails(place.smidgen(&["runs", "list", "--filter", "step"]), 2, "expected a condition");
    let text = stdout(place.smidgen(&["runs", "list", "--filter", "name=wide"]));
    assert!(text.contains("tok/s") && text.contains("finished") && !text.contains("small"));
}

#[test]
fn a_comparison_names_what_differs_and_nothing_else() {
    let place = three();
    let command = ["runs", "compare", "runs/small", "runs/wide"];
    let found = object(place.smidgen(&[&command[..], &["--json"]].concat()));
    let config = found["config"].as_object().unwrap();
    assert_eq!(config["model.width"][1], "128");
    assert_eq!(config["train.max_norm"], serde_json::json!(["1.0", "0.5"]));
    assert!(!config.contains_key("seed") && !config.contains_key("train.batch"), "{config:?}");
    assert_eq!(found["environment"], serde_json::json!({}));
    assert_eq!((&found["runs"][0]["steps"], &found["runs"][1]["steps"]), (&6.into(), &9.into()));
    assert!(found["peak_ledger_bytes"][0].as_u64() < found["peak_ledger_bytes"][1].as_u64());
    let text = stdout(place.smidgen(&command));
    for part in
        ["outcome", "small", "wide", "model.width", "128", "val bpb", "environment: the same"]
    {
        assert!(text.contains(part), "`{part}` in {text}");
    }
    // An unfinished run has what is known of it.
    let early = stdout(place.smidgen(&["runs", "compare", "runs/small", "runs/early"]));
    assert!(early.contains("configuration: the same") && early.contains("stopped"), "{early}");
    fails(place.smidgen(&["runs", "compare", "runs/small"]), 2, "2 values required");
    fails(place.smidgen(&["runs", "compare", "runs/small", "runs/other"]), 3, "run.toml");
}

#[test]
fn cleaning_shows_first_and_takes_no_result() {
    let place = three();
    fs::write(place.path("runs/small/.tmp-run.toml-1"), "half").unwrap();
    let before = tree(&place.path("runs"));
    let found = object(place.smidgen(&["runs", "clean", "--json"]));
    assert_eq!((&found["removed"], found["items"].as_array().unwrap().len()), (&false.into(), 2));
    let text = stdout(place.smidgen(&["runs", "clean"]));
    assert!(text.contains("runs/early") && text.contains("--yes"), "{text}");
    assert!(before == tree(&place.path("runs")), "it was only to show");
    let text = place.smidgen(&["runs", "clean", "--older", "30d", "--yes"]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stderr).contains("nothing to clean"), "{text:?}");
    assert!(before == tree(&place.path("runs")), "nothing is that old");

    let done = object(place.smidgen(&["runs", "clean", "--yes", "--json"]));
    assert_eq!(done["items"].as_array().unwrap().len(), 2);
    let gone = |(path, _): &(String, Vec<u8>)| path.contains("early") || path.contains(".tmp-");
    let kept: Vec<_> = before.into_iter().filter(|file| !gone(file)).collect();
    assert!(kept == tree(&place.path("runs")), "results and other folders stay as they were");
    assert!(!place.path("runs/early").exists());
}

#[test]
fn a_damaged_run_is_shown_as_far_as_it_can_be_read() {
    let place = Place::new();
    place.train("run", 6, &[]).assert().success();
    for (file, text) in
        [("ckpt/best", "step-1\n"), ("outcome.json", "{\"steps\":"), ("run.toml", "x = 1\n")]
    {
        fs::write(place.path("run").join(file), text).unwrap();
        let details = object(place.smidgen(&["runs", "show", "run", "--json"]));
        let problems = details["problems"].as_array().unwrap();
        let named = |problem: &Value| problem.as_str().unwrap().contains(file);
        assert!(problems.iter().any(named), "{file}: {problems:?}");
        assert_eq!(details["checkpoints"][0], 6);
        let output = place.smidgen(&["runs", "show", "run"]).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(file));
    }
    assert_eq!(names(&place, &["."]), ["run"]);
    let listing = object(place.smidgen(&["runs", "list", ".", "--json"]));
    assert_eq!(listing["runs"][0]["status"], "damaged");
    assert_eq!(listing["runs"][0]["steps"], 6);
}
