//! The measurements run, and their objects have the promised names.

mod common;

use common::{Place, object, stdout};
use serde_json::Value;

const TINY: [&str; 16] = [
    "--vocab",
    "64",
    "--width",
    "32",
    "--layers",
    "1",
    "--heads",
    "2",
    "--ffn",
    "48",
    "--context",
    "16",
    "--batch",
    "2",
    "--threads",
    "2",
];

fn bench(what: &str, more: &[&str]) -> assert_cmd::Command {
    let mut command = Place::new().smidgen(&["bench", what]);
    command.current_dir("/").args(TINY).args(more);
    command
}

#[test]
fn a_step_is_taken_apart_in_every_mode() {
    let modes: [&[&str]; 4] = [
        &["--mode", "f32"],
        &["--mode", "bf16"],
        &["--mode", "bf16", "--clip", "global"],
        &["--mode", "f32", "--grad", "held", "--recompute"],
    ];
    for mode in modes {
        let report =
            object(bench("step", &[mode, &["--no-limits", "--steps", "5", "--json"]].concat()));
        for key in ["tokens_per_s", "step_ms", "peak_rss_mib"] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{key} in {report}");
        }
        for part in ["forward", "head", "backward", "optimizer"] {
            assert!(report["split_ms"][part].as_f64().unwrap() > 0.0, "{part} in {report}");
        }
        assert_eq!((&report["mode"], &report["threads"]), (&mode[1].into(), &2.into()));
        assert!((report["loss_first"].as_f64().unwrap() - 64f64.ln()).abs() < 0.5);
        assert!(report["loss_last"].as_f64() < report["loss_first"].as_f64());
    }
}

#[test]
fn streamed_gradients_take_fewer_bytes_and_give_the_same_losses() {
    let run =
        |grad| object(bench("step", &["--grad", grad, "--no-limits", "--steps", "6", "--json"]));
    let (streamed, held) = (run("streamed"), run("held"));
    assert_eq!(streamed["loss_last"], held["loss_last"]);
    let grads = |report: &Value| report["bytes"]["grads"].as_u64().unwrap();
    let weights = held["bytes"]["weights"].as_u64().unwrap();
    assert!(grads(&held) >= weights && grads(&streamed) < weights / 2);
}

#[test]
fn figures_stand_beside_the_limits_of_the_machine() {
    let report = object(bench("step", &["--steps", "4", "--json"]));
    assert!(report["limits"]["f32_ops_per_s"]["all"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["limits"]["copy_bytes_per_s"]["one"].as_f64().unwrap() > 0.0, "{report}");
    let text = stdout(bench("step", &["--no-limits", "--steps", "4", "--profile"]));
    assert!(text.contains("tokens/s") && text.contains("head_loss"), "{text}");
}

#[test]
fn decoding_and_products_have_rates() {
    let report = object(bench("decode", &["--tokens", "3", "--no-limits", "--json"]));
    for key in ["prefill_tokens_per_s", "decode_tokens_per_s"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key} in {report}");
    }
    let place = Place::new();
    let sizes = ["--rows", "64", "--cols", "64", "--depth", "64", "--threads", "1", "--json"];
    let report = object(place.smidgen(&[&["bench", "matmul"][..], &sizes].concat()));
    assert_eq!(report["products"].as_array().unwrap().len(), 2);
    assert!(report["products"][1]["ops_per_s"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn optimizers_are_compared_by_runs_that_are_not_done_twice() {
    let place = Place::new();
    let compare = |more: &[&str]| {
        let mut command =
            place.smidgen(&["bench", "optim", "text", "--seeds", "1", "--steps", "3"]);
        command.args(["--only", "adamw-*int8-dynamic", "--csv"]).args(more);
        stdout(command)
    };
    let table = compare(&[]);
    assert!(table.lines().nth(1).unwrap().starts_with("adamw-int8-dynamic,adamw,"), "{table}");
    assert_eq!(std::fs::read_to_string(place.path("bench-optim/optim.csv")).unwrap(), table);
    let done = place.path("bench-optim/adamw-int8-dynamic/seed-0/outcome.json");
    let first = std::fs::read(&done).unwrap();
    // The machine's limits are measured again, and stand in a later column.
    let known = |table: &str| table.lines().nth(1).unwrap().split(',').take(11).collect::<String>();
    assert_eq!(known(&compare(&["--skip-done"])), known(&table), "the same run, not another one");
    assert_eq!(std::fs::read(&done).unwrap(), first);
    let log = place.path("bench-optim/optim.jsonl");
    let mut again = place.smidgen(&["bench", "optim", "--csv", "--table"]);
    again.arg(&log);
    assert_eq!(known(&stdout(again)), known(&table));
    let mut none = place.smidgen(&["bench", "optim", "text", "--only", "nothing"]);
    none.assert().code(2);
}

#[test]
fn the_published_tables_are_what_their_logs_say() {
    let results = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/results");
    let place = Place::new();
    for name in ["optim-named", "optim-seeds", "optim-matrix"] {
        let mut command = place.smidgen(&["bench", "optim", "--csv", "--table"]);
        command.arg(results.join(format!("raw/{name}.jsonl")));
        let table = std::fs::read_to_string(results.join(format!("{name}.csv"))).unwrap();
        assert_eq!(stdout(command), table, "`cargo xtask tables` makes {name}.csv");
    }
}

#[test]
fn formats_are_measured_by_name() {
    let place = Place::new();
    let said = stdout(place.smidgen(&["bench", "formats", "int8/256", "nf4", "--json"]));
    let said: Value = serde_json::from_str(&said).unwrap();
    let [int8, nf4] = said.as_array().unwrap().as_slice() else { panic!("{said}") };
    assert_eq!((&int8["format"], &nf4["format"]), (&"int8/256".into(), &"nf4/64".into()));
    assert!(int8["bits_per_value"].as_f64().unwrap() > 8.0);
    assert!(nf4["speed"]["rates"][2].as_f64().unwrap() > 0.0);
    place.smidgen(&["bench", "formats", "nf5"]).assert().failure();
}
