//! A model with new matrices, as a start for another run.

mod common;

use common::{Place, fails, object, stdout};

#[test]
fn matrices_are_replaced_and_the_model_is_a_start() {
    let place = Place::new();
    place.train("run", 20, &["--set", "train.compute=f32"]).assert().success();
    let report = object(place.smidgen(&["fire", "run", "--out", "new", "--json"]));
    let matrices = report["matrices"].as_array().unwrap();
    assert!(matrices.len() >= 7 && report["path"] == "new");
    for matrix in matrices {
        let [rows, cols] = [0, 1].map(|i| matrix["shape"][i].as_f64().unwrap());
        for sigma in matrix["sigma_after"].as_array().unwrap() {
            let sigma = sigma.as_f64().unwrap();
            assert!((sigma - (rows / cols).sqrt()).abs() < 1e-3, "{matrix}");
        }
        assert!(matrix["sfe"].as_f64().unwrap() > 0.0 && matrix["dfi_after"].as_f64() < Some(1e-6));
    }
    // The weights are on the disk: a second time nothing moves.
    let again = object(place.smidgen(&["fire", "new", "--json"]));
    assert_eq!(again["path"], serde_json::Value::Null);
    for matrix in again["matrices"].as_array().unwrap() {
        assert!(matrix["sfe"].as_f64().unwrap() < 1e-6, "{matrix}");
    }
    let prompt = ["--prompt", "The cat", "--temperature", "0", "--max-tokens", "20"];
    let text = |model: &str| stdout(place.smidgen(&[&["generate", model], &prompt[..]].concat()));
    assert_ne!(text("run"), text("new"));
    let sets = ["--set", "train.steps=2", "--set", "train.context=32", "--set", "train.batch=2"];
    let args = [&["train", "text", "--out", "second", "--init", "new"], &sets[..]].concat();
    place.smidgen(&args).assert().success();
}

#[test]
fn a_pattern_names_matrices_and_nothing_is_replaced() {
    let place = Place::new();
    place.train("run", 2, &[]).assert().success();
    let shown = stdout(place.smidgen(&["fire", "run", "--match", "*.0.attn.q.weight"]));
    assert!(shown.contains("singular values") && shown.contains("Nothing was written"), "{shown}");
    let wrong = ["fire", "run", "--match", "*.atn.q.weight"];
    fails(place.smidgen(&wrong), 2, "`*.atn.q.weight` matches no matrix");
    fails(place.smidgen(&["fire", "run", "--out", "text"]), 2, "expected a new or empty folder");
    fails(place.smidgen(&["fire", "nowhere"]), 3, "got nothing at nowhere");
}
