//! A run that leaves the house, and comes back.

mod common;

use std::fs;
use std::path::Path;

use common::{Place, fails, object, stdout};

/// What greedy decoding writes.
fn text(place: &Place, model: &str) -> String {
    let args =
        ["generate", model, "--prompt", "The cat", "--temperature", "0", "--max-tokens", "20"];
    stdout(place.smidgen(&args))
}

#[test]
fn exported_models_write_what_the_run_writes() {
    let place = Place::new();
    place.train("run", 20, &["--set", "train.compute=f32"]).assert().success();
    let export = |to: &str, out: &str| {
        object(place.smidgen(&["export", "run", "--to", to, "--out", out, "--json"]))
    };
    let (folder, gguf) = (export("safetensors", "folder"), export("gguf", "m.gguf"));
    assert_eq!([&folder["kind"], &gguf["kind"]], ["LlamaForCausalLM", "llama"]);
    assert_eq!((&gguf["type"], &gguf["step"]), (&"f32".into(), &20.into()));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/exchange.md");
    let page = fs::read_to_string(page).unwrap();
    for name in folder.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{name}`")), "`{name}`");
    }
    let ours = text(&place, "run");
    assert_eq!([text(&place, "folder"), text(&place, "m.gguf")], [ours.clone(), ours]);
    // And another run begins there.
    place.train("second", 2, &["--init", "m.gguf"]).assert().code(2);
    let sets = ["--set", "train.steps=2", "--set", "train.context=32", "--set", "train.batch=2"];
    let args = [&["train", "text", "--out", "second", "--init", "m.gguf"], &sets[..]].concat();
    place.smidgen(&args).assert().success();
}

#[test]
fn nothing_is_replaced() {
    let place = Place::new();
    place.train("run", 2, &[]).assert().success();
    fs::write(place.path("taken"), "mine").unwrap();
    let export = |to: &str, out: &str| place.smidgen(&["export", "run", "--to", to, "--out", out]);
    fails(export("gguf", "taken"), 2, "expected a new file or folder, got a file at taken");
    fails(export("safetensors", "taken"), 2, "got a file at taken");
    fails(export("safetensors", "text"), 2, "expected a new or empty folder");
    assert_eq!(fs::read_to_string(place.path("taken")).unwrap(), "mine");
    let q8 = ["export", "run", "--to", "safetensors", "--type", "q8_0", "--out", "x"];
    fails(place.smidgen(&q8), 2, "hint: `--to gguf` has it");
    fails(place.smidgen(&["export", "run", "--to", "ggfu", "--out", "x"]), 2, "'gguf'");
}

#[test]
fn what_is_no_model_says_so() {
    let place = Place::new();
    fails(place.smidgen(&["generate", "nowhere", "--prompt", "x"]), 3, "got nothing at nowhere");
    fails(place.smidgen(&["generate", "text", "--prompt", "x"]), 3, "`run.toml` and `config.json`");
    fs::write(place.path("notes.txt"), "Not a model at all, but long enough for a header.")
        .unwrap();
    let message = "expected a GGUF or llama2.c file";
    fails(place.smidgen(&["generate", "notes.txt", "--prompt", "x"]), 3, message);
}
