//! The main job, small: train, generate, resume, look.

mod common;

use std::fs;

use common::{Place, object, stdout};
use serde_json::Value;

/// The names that scripts rely on.
const OUTCOME_KEYS: [&str; 11] = [
    "steps",
    "tokens",
    "seconds",
    "train_loss",
    "val_loss",
    "val_bpb",
    "best_val_bpb",
    "best_step",
    "tokens_per_s",
    "peak_rss_mib",
    "run_dir",
];

#[test]
fn train_generate_resume_and_list() {
    let place = Place::new();
    let outcome = object(place.train("runs/small", 20, &["--json"]));
    for key in OUTCOME_KEYS {
        assert!(!outcome[key].is_null(), "`{key}` in {outcome}");
    }
    assert_eq!((&outcome["steps"], &outcome["tokens"]), (&Value::from(20), &Value::from(20 * 64)));
    assert_eq!(outcome["run_dir"], "runs/small");
    for file in ["run.toml", "env.json", "metrics.jsonl", "ledger.json", "ckpt/latest"] {
        assert!(place.path("runs/small").join(file).is_file(), "{file}");
    }

    let again = object(place.smidgen(&["train", "--resume", "runs/small", "--json"]));
    assert_eq!(again, outcome);

    let listing = object(place.smidgen(&["runs", "list", "--json"]));
    let row = &listing["runs"][0];
    assert_eq!((&row["name"], &row["status"]), (&"small".into(), &"finished".into()));
    assert_eq!((&row["steps"], &row["val_bpb"]), (&outcome["steps"], &outcome["val_bpb"]));
    let text = stdout(place.smidgen(&["runs", "list"]));
    assert!(text.contains("small") && text.contains("finished"), "{text}");
    let details = object(place.smidgen(&["runs", "show", "runs/small", "--json"]));
    assert_eq!(details["outcome"], outcome);
    assert_eq!(details["checkpoints"][0], 20);
    let text = stdout(place.smidgen(&["runs", "show", "runs/small"]));
    assert!(text.contains("bits per byte") && text.contains("checkpoints:"), "{text}");
}

#[test]
fn generation_is_reproducible_and_its_options_count() {
    let place = Place::new();
    place.train("run", 30, &[]).assert().success();
    let text = |more: &[&str]| {
        let mut command =
            place.smidgen(&["generate", "run", "--prompt", "The cat", "--max-tokens", "24"]);
        command.args(more);
        stdout(command)
    };
    assert_eq!(text(&["--seed", "5"]), text(&["--seed", "5"]));
    assert_ne!(text(&["--seed", "5", "--top-p", "1"]), text(&["--seed", "6", "--top-p", "1"]));
    assert_eq!(text(&["--temperature", "0", "--seed", "5"]), text(&["--temperature", "0"]));
    assert_eq!(text(&["--top-k", "1"]), text(&["--temperature", "0"]));
    assert_eq!(text(&["--threads", "1"]), text(&["--threads", "2"]));
    assert_eq!(text(&["--ckpt", "last", "--seed", "1"]), text(&["--ckpt", "30", "--seed", "1"]));
    assert_eq!(text(&["--ckpt", "best"]), text(&[]));
    let whole = text(&["--temperature", "0"]);
    let stop = whole.trim().chars().nth(1).expect("more than a character").to_string();
    let cut = text(&["--temperature", "0", "--stop", &stop]);
    assert_eq!(cut.trim_end_matches('\n'), whole.split(&stop).next().unwrap());
}

#[test]
fn a_prompt_comes_from_a_file_or_a_pipe_as_well() {
    let place = Place::new();
    place.train("run", 10, &[]).assert().success();
    let base = ["generate", "run", "--max-tokens", "8", "--json"];
    let named = object(place.smidgen(&[&base[..], &["--prompt", "The owl"]].concat()));
    fs::write(place.path("prompt.txt"), "The owl").unwrap();
    let file = object(place.smidgen(&[&base[..], &["--prompt-file", "prompt.txt"]].concat()));
    let mut pipe = place.smidgen(&base);
    pipe.write_stdin("The owl");
    let mut dash = place.smidgen(&[&base[..], &["--prompt", "-"]].concat());
    dash.write_stdin("The owl");
    let text = |report: &Value| report["text"].as_str().expect("a text").to_string();
    for other in [file, object(pipe), object(dash)] {
        assert_eq!(text(&other), text(&named));
        assert_eq!(other["prompt_tokens"], named["prompt_tokens"]);
    }
    assert!(named["tokens"].as_u64().unwrap() <= 8 && named["tokens_per_s"].is_number());
    let hyphen = object(place.smidgen(&[&base[..], &["--prompt", "--help"]].concat()));
    assert!(hyphen["prompt_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn a_dry_run_writes_nothing_and_plans_what_is_done() {
    let place = Place::new();
    let before = fs::read_dir(place.path(".")).unwrap().count();
    let plan = object(place.train("run", 20, &["--dry-run", "--json"]));
    assert_eq!(fs::read_dir(place.path(".")).unwrap().count(), before);
    assert_eq!((&plan["steps"], &plan["step_tokens"]), (&Value::from(20), &Value::from(64)));
    let text = stdout(place.train("run", 20, &["--dry-run"]));
    for part in ["took", "txt", "split:", "parameters", "weights", "together", "minutes"] {
        assert!(text.contains(part), "`{part}` in {text}");
    }
    // The ledger holds what the plan said, exactly where it is a matter of counting.
    place.train("run", 20, &[]).assert().success();
    let ledger: Value =
        serde_json::from_str(&fs::read_to_string(place.path("run/ledger.json")).unwrap()).unwrap();
    for tag in ["weights", "state"] {
        assert_eq!(ledger[tag]["peak"], plan["by_tag"][tag], "{tag}");
    }
}

#[test]
fn a_person_reads_the_whole_story_and_what_to_type_next() {
    let place = Place::new();
    let text = stdout(place.train("run", 10, &[]));
    let story = [
        "took",
        "Tokenizer:",
        "plan",
        "step 1/10",
        "validation loss",
        "Sample after",
        "bits per byte",
        "Next:",
        "generate run --prompt",
        "report run",
    ];
    let mut rest = text.as_str();
    for part in story {
        let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("`{part}` in {text}"));
        rest = after;
    }
    assert!(!text.contains("--resume"), "only after an interruption: {text}");
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "plain lines: {text}");
}

#[test]
fn with_json_all_text_goes_to_standard_error() {
    let place = Place::new();
    let output = place.train("run", 4, &["--json"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("plan") && said.contains("Next:"), "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
}

#[test]
fn limits_of_the_command_line_end_a_run_and_stand_in_its_file() {
    let place = Place::new();
    let outcome = object(place.train("run", 50, &["--max-steps", "7", "--json"]));
    assert_eq!(outcome["steps"], 7);
    let written = fs::read_to_string(place.path("run/run.toml")).unwrap();
    assert!(written.contains("max_steps = 7") && written.contains("threads = 1"), "{written}");
    let more = ["train", "--resume", "run", "--max-steps", "9", "--json"];
    assert_eq!(object(place.smidgen(&more))["steps"], 9);
}

#[test]
fn a_changed_configuration_is_shown_and_needs_a_word() {
    let place = Place::new();
    place.train("run", 50, &["--max-steps", "6"]).assert().success();
    let base = ["train", "--resume", "run", "--max-steps", "8", "--set", "train.max_norm=0.5"];
    common::fails(place.smidgen(&base), 2, "`train.max_norm`: 1.0 -> 0.5");
    let forced = [&base[..], &["--override", "--json"]].concat();
    assert_eq!(object(place.smidgen(&forced))["steps"], 8);
}

#[test]
fn a_folder_without_runs_is_no_failure() {
    let place = Place::new();
    assert_eq!(object(place.smidgen(&["runs", "list", "--json"]))["runs"], Value::Array(vec![]));
    common::fails(place.smidgen(&["runs", "list", "nowhere"]), 3, "cannot read nowhere");
}
