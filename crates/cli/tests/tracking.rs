//! What is on record of a run: events beside metrics, logs, the same work not done twice, and two
//! processes at once.

mod common;

use std::fs;
use std::path::Path;

use common::{Place, fails, object, stdout};
use serde_json::Value;
use smidgen_store::RunView;
use smidgen_store::events::Curves;

/// One figure of `metrics.jsonl` with its steps.
fn recorded(run: &Path, key: &str) -> Vec<(u64, f32)> {
    let lines = RunView::open(run).unwrap().metrics().unwrap();
    let figure = |line: &Value| Some((line["step"].as_u64()?, line[key].as_f64()? as f32));
    lines.iter().filter_map(figure).collect()
}

#[test]
fn tensorboard_shows_every_step_once_also_after_a_resume() {
    let place = Place::new();
    place.train("plain", 12, &[]).assert().success();
    assert!(!place.path("plain/events").exists(), "off is absent");
    let more = ["--tensorboard", "--set", "train.ckpt_every=4", "--max-steps", "7"];
    place.train("run", 12, &more).assert().success();
    let resume = ["train", "--resume", "run", "--max-steps", "12"];
    place.smidgen(&resume).assert().success();
    let run = place.path("run");
    assert_eq!(fs::read_dir(run.join("events")).unwrap().count(), 2);
    let shown = Curves::read(&run.join("events")).unwrap();
    assert_eq!(shown.scalars["train/loss"], recorded(&run, "loss"));
    assert_eq!(shown.scalars["val/loss"], recorded(&run, "val_loss"));
    let steps: Vec<u64> = shown.scalars["train/loss"].iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<u64>>());
    assert!(shown.scalars.keys().any(|tag| tag.starts_with("lr/")), "{shown:?}");
    assert!(shown.scalars["bytes/total"].iter().all(|(_, bytes)| *bytes > 0.0), "{shown:?}");
    assert_eq!(shown.texts["samples/1"].len(), shown.scalars["val/loss"].len());
    let model =
        |run: &str| fs::read(common::newest(&place.path(run), "model.safetensors")).unwrap();
    assert!(model("run") == model("plain"), "what is written changes nothing of what is learnt");
}

#[test]
fn a_folder_of_events_that_cannot_be_written_ends_a_run_before_its_first_step() {
    let place = Place::new();
    place.train("run", 8, &["--max-steps", "4"]).assert().success();
    fs::write(place.path("run/events"), "in the way").unwrap();
    let before = fs::read(common::newest(&place.path("run"), "model.safetensors")).unwrap();
    let resume = ["train", "--resume", "run", "--max-steps", "8", "--tensorboard"];
    fails(place.smidgen(&resume), 1, "run/events");
    assert_eq!(RunView::open(&place.path("run")).unwrap().steps().unwrap()[0], 4);
    assert!(before == fs::read(common::newest(&place.path("run"), "model.safetensors")).unwrap());
    fs::remove_file(place.path("run/events")).unwrap();
    assert_eq!(object(place.smidgen(&[&resume[..], &["--json"]].concat()))["steps"], 8);
}

#[test]
fn the_same_work_is_not_done_twice() {
    let place = Place::new();
    let train = |out: &str, more: &[&str]| {
        place.train(out, 6, &[&["--json", "--skip-done"], more].concat())
    };
    let first = object(train("runs/a", &[]));
    assert!(first.get("skipped").is_none(), "{first}");
    let again = object(train("runs/b", &[]));
    assert_eq!((&again["skipped"], &again["run_dir"]), (&true.into(), &"runs/a".into()));
    assert_eq!(again["val_loss"], first["val_loss"]);
    assert!(!place.path("runs/b").exists());
    // Threads and events change nothing of what comes out.
    let idle = place.smidgen(&[
        "train",
        "text",
        "--out",
        "runs/b",
        "--threads",
        "2",
        "--skip-done",
        "--tensorboard",
    ]);
    let mut idle = idle;
    idle.args(common::small(6)).arg("--json");
    assert_eq!(object(idle)["skipped"], true);
    // The text lies elsewhere: its content counts.
    fs::rename(place.path("text"), place.path("moved")).unwrap();
    let mut moved = place.smidgen(&["train", "moved", "--out", "runs/b", "--skip-done", "--json"]);
    moved.args(["--threads", "1"]).args(common::small(6));
    assert_eq!(object(moved)["skipped"], true);
    fs::rename(place.path("moved"), place.path("text")).unwrap();

    for (out, more) in
        [("runs/c", ["--set", "train.max_norm=0.5"]), ("runs/d", ["--max-steps", "4"])]
    {
        let other = object(train(out, &more));
        assert!(other.get("skipped").is_none(), "{out} is other work");
    }
    fs::write(place.path("text/new.txt"), "One more page of text.\n".repeat(40)).unwrap();
    assert!(object(train("runs/e", &[])).get("skipped").is_none(), "the text changed");
}

#[test]
fn an_unfinished_or_changed_run_is_not_done() {
    let place = Place::new();
    place.train("runs/a", 6, &["--max-steps", "4"]).assert().success();
    let more = ["train", "--resume", "runs/a", "--max-steps", "6"];
    place.smidgen(&more).assert().success();
    // It was asked for four steps and did six: neither question has it for an answer.
    for limit in ["4", "6"] {
        let out = format!("runs/b{limit}");
        let args = ["--json", "--skip-done", "--max-steps", limit];
        assert!(object(place.train(&out, 6, &args)).get("skipped").is_none());
    }
}

#[test]
fn logs_have_levels_and_a_form_for_programs() {
    let place = Place::new();
    let said = |more: &[&str]| {
        let output = place.train("run", 2, &[&["--json"], more].concat()).output().unwrap();
        assert!(output.status.success());
        fs::remove_dir_all(place.path("run")).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!said(&[]).contains("INFO"));
    let text = said(&["--log-level", "info"]);
    for part in ["INFO scanned documents=", "INFO planned", "INFO checkpoint saved step=2"] {
        assert!(text.contains(part), "`{part}` in {text}");
    }
    assert!(!text.contains("TRACE"));
    assert!(said(&["-vvv"]).contains("TRACE step step=1"));

    let lines = said(&["--log-level", "info", "--log-format", "json"]);
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let planned = lines.iter().find(|line| line["message"] == "planned").expect("a plan");
    assert!(planned["level"] == "INFO" && planned["params"].is_number(), "{planned}");
    assert!(lines.iter().any(|line| line["note"].is_string()), "what people are told as well");
    fails(place.smidgen(&["runs", "list", "--log-level", "loud"]), 2, "loud");
}

#[test]
fn the_environment_names_command_and_commit_and_no_person() {
    let place = Place::new();
    fs::create_dir_all(place.path("text/.git/refs/heads")).unwrap();
    fs::write(place.path("text/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(place.path("text/.git/refs/heads/main"), "0123abcd\n").unwrap();
    place.train("run", 2, &[]).assert().success();
    let text = fs::read_to_string(place.path("run/env.json")).unwrap();
    let env: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(env["source_commit"], "0123abcd");
    assert_eq!(env["command"][1], "train");
    assert!(env["seed"].is_number() && env["cpu"].is_string());
}

/// Starts all, waits for all, and gives how many succeeded.
fn at_once(commands: Vec<assert_cmd::Command>) -> usize {
    std::thread::scope(|scope| {
        let running: Vec<_> = commands
            .into_iter()
            .map(|mut command| scope.spawn(move || command.output().unwrap()))
            .collect();
        let ended = running.into_iter().map(|one| one.join().unwrap());
        ended
            .filter(|output| {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(!said.contains("panicked") && !said.contains("bug in smidgen"), "{said}");
                output.status.success()
            })
            .count()
    })
}

#[test]
fn two_runs_into_one_folder_leave_one_whole_run() {
    let place = Place::new();
    let commands = (0..3).map(|_| place.train("runs/one", 6, &[])).collect();
    assert_eq!(at_once(commands), 1, "the others are told that the folder is taken");
    let row = &object(place.smidgen(&["runs", "list", "--json"]))["runs"][0];
    assert_eq!((&row["status"], &row["steps"]), (&"finished".into(), &6.into()));
    let losses = recorded(&place.path("runs/one"), "loss");
    assert_eq!(losses.len(), 6, "no line of another process: {losses:?}");
}

#[test]
fn runs_without_a_folder_find_one_each_at_the_same_time() {
    let place = Place::new();
    let automatic = || {
        let mut command = place.smidgen(&["train", "text", "--threads", "1"]);
        command.args(common::small(4));
        command
    };
    assert_eq!(at_once((0..3).map(|_| automatic()).collect()), 3);
    let listing = object(place.smidgen(&["runs", "list", "--sort", "name", "--json"]));
    let names: Vec<&str> = listing["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["text", "text-2", "text-3"]);
}

#[test]
fn a_run_that_goes_on_is_listed_and_never_cleaned() {
    let place = Place::new();
    std::thread::scope(|scope| {
        let mut run = place.train("runs/long", 60, &["--tensorboard"]);
        let running = scope.spawn(move || run.output().unwrap().status);
        while !running.is_finished() {
            let rows = object(place.smidgen(&["runs", "list", "--json"]));
            assert!(rows["runs"].as_array().unwrap().len() <= 1);
            let cleaned = object(place.smidgen(&["runs", "clean", "--yes", "--json"]));
            assert_eq!(cleaned["items"], Value::Array(vec![]), "nothing of a run in use");
        }
        assert!(running.join().unwrap().success());
    });
    let text = stdout(place.smidgen(&["runs", "show", "runs/long"]));
    assert!(text.contains("bits per byte"), "{text}");
    assert_eq!(recorded(&place.path("runs/long"), "loss").len(), 60);
}
