//! `eval` on a run, as a person and as a script.

mod common;

use std::fs;

use common::{Place, fails, object, stdout};
use serde_json::Value;

fn trained() -> Place {
    let place = Place::new();
    place.train("run", 30, &["--json"]).assert().success();
    fs::write(place.path("held.txt"), "3. The owl met the fox, and they ate 9 apples.\n".repeat(8))
        .unwrap();
    place
}

#[test]
fn every_option_changes_what_it_says() {
    let place = trained();
    let eval = |more: &[&str]| -> Value {
        let args = ["eval", "run", "--task", "bpb", "--file", "held.txt", "--json"];
        object(place.smidgen(&[&args[..], more].concat()))
    };
    let number = |report: &Value, key: &str| report[key].as_f64().unwrap();
    let plain = eval(&[]);
    assert_eq!(
        (&plain["task"], &plain["context"], &plain["stride"]),
        (&"bpb".into(), &32.into(), &16.into())
    );
    assert_eq!(plain["bytes"], 47 * 8);
    assert_eq!(plain["step"], 30);
    let nll = number(&plain, "mean_nll") * number(&plain, "tokens");
    assert!((number(&plain, "ppl").ln() - number(&plain, "mean_nll")).abs() < 1e-9);
    assert!((number(&plain, "bpb") - nll / (2f64.ln() * 376.0)).abs() < 1e-9);
    assert!(number(&plain, "bpb") < 6.0, "{plain}");

    // The same bits for any number of threads, and with the default written out.
    for same in [&["--threads", "1"][..], &["--stride", "16"], &["--context", "32"]] {
        assert_eq!(eval(same)["mean_nll"], plain["mean_nll"], "{same:?}");
    }
    for other in [["--stride", "32"], ["--context", "8"]] {
        let report = eval(&other);
        assert_ne!(report["mean_nll"], plain["mean_nll"], "{other:?}");
        assert_eq!(report["tokens"], plain["tokens"]);
    }
    let [f32, bf16] = ["f32", "bf16"].map(|format| eval(&["--compute", format]));
    assert_ne!(f32["mean_nll"], bf16["mean_nll"]);
    assert!((number(&f32, "mean_nll") / number(&bf16, "mean_nll") - 1.0).abs() < 0.01);
    assert!([&f32, &bf16].iter().any(|report| report["mean_nll"] == plain["mean_nll"]));
    let twice = eval(&["--file", "held.txt"]);
    assert_eq!(twice["tokens"].as_u64(), plain["tokens"].as_u64().map(|tokens| 2 * tokens));

    eval(&["--per-token", "tokens.jsonl"]);
    let lines = fs::read_to_string(place.path("tokens.jsonl")).unwrap();
    let nll: Vec<f64> =
        lines.lines().map(|line| number(&serde_json::from_str(line).unwrap(), "nll")).collect();
    assert_eq!(nll.len() as u64, plain["tokens"].as_u64().unwrap());
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    assert!((mean - number(&plain, "mean_nll")).abs() < 1e-5);
}

#[test]
fn a_person_sees_the_figure_asked_for_first() {
    let place = trained();
    let said = |task| stdout(place.smidgen(&["eval", "run", "--task", task, "--file", "held.txt"]));
    assert!(said("bpb").split_whitespace().nth(1) == Some("bits"));
    assert!(said("ppl").starts_with("perplexity "));
    assert!(said("ppl").contains("context 32, stride 16, "));
}

#[test]
fn wrong_input_is_named() {
    let place = trained();
    fs::write(place.path("empty.txt"), "").unwrap();
    fs::write(place.path("bytes.bin"), [0xff, 0xfe]).unwrap();
    let eval = |file, more: &[&str]| {
        place.smidgen(&[&["eval", "run", "--task", "ppl", "--file", file][..], more].concat())
    };
    for (command, code, text) in [
        (eval("held.txt", &["--context", "129"]), 2, "`--context`: expected 1 to 128, got 129"),
        (eval("held.txt", &["--stride", "0"]), 2, "`--stride`: expected 1 to 32"),
        (eval("none.txt", &[]), 3, "cannot read the text none.txt"),
        (eval("bytes.bin", &[]), 3, "cannot read the text bytes.bin"),
        (eval("empty.txt", &[]), 3, "expected a text to score, got none"),
        (place.smidgen(&["eval", "gone", "--task", "ppl", "--file", "held.txt"]), 3, "gone"),
    ] {
        fails(command, code, text);
    }
}
