//! Bad input: a message that names the thing, the right code, and nothing left behind.

mod common;

use std::fs::{self, File};

use common::{Place, fails, newest};

#[test]
fn sources_that_cannot_be_trained_on() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    fs::create_dir(place.path("pictures")).unwrap();
    fs::write(place.path("pictures/a.png"), [0u8, 1, 2, 3].repeat(1000)).unwrap();
    fs::create_dir(place.path("short")).unwrap();
    fs::write(place.path("short/a.txt"), "too little\n").unwrap();
    fs::write(place.path("latin.txt"), b"caf\xe9 ".repeat(2000)).unwrap();
    fs::write(place.path("bad.jsonl"), "{\"text\": 3}\n").unwrap();
    for (source, message) in [
        ("missing", "`missing` does not exist"),
        ("empty", "no text to train on"),
        ("pictures", "1 binary"),
        ("short", "too little text"),
        ("latin.txt", "not UTF-8"),
        ("bad.jsonl", "bad.jsonl:1"),
    ] {
        fails(place.smidgen(&["train", source, "--out", "run"]), 3, message);
        assert!(!place.path("run").exists(), "{source} left something behind");
    }
}

#[test]
fn configurations_that_cannot_be() {
    let place = Place::new();
    for (set, code, message) in [
        ("train.steps=abc", 2, "`train.steps`: expected a whole number"),
        ("train.steps=-1", 2, "`train.steps`"),
        ("nothing", 2, "expected key=value"),
        ("model.heads=7", 2, "`model.heads`: expected a divisor of `model.width` = 64, got 7"),
        ("train.context=99999999", 2, "`train.context`: expected 1 to 1048576, got 99999999"),
        ("train.grad=streaming", 2, "`train.grad`"),
        ("train.clip=global", 2, "excludes `clip = \"global\"`"),
        ("data.val_ratio=1.5", 2, "val_ratio`: expected a share between 0 and 1"),
        ("memory=1KiB", 4, "which the smallest plan needs, got 1 KiB"),
        ("optim.rest.lr=1e-3", 2, "`optim`: expected `train.lr` for the automatic groups"),
    ] {
        let mut sets = vec!["--set", set];
        if set == "train.clip=global" {
            sets.extend(["--set", "train.grad=streamed"]);
        }
        fails(place.train("run", 4, &sets), code, message);
        assert!(!place.path("run").exists(), "{set} left something behind");
    }
    fails(place.train("run", 4, &["--max-minutes", "-1"]), 2, "`train.max_minutes`");
    fails(place.train("run", 4, &["--memory", "2G"]), 2, "expected bytes such as");
}

#[test]
fn a_configuration_file_is_named_with_its_line() {
    let place = Place::new();
    let write = |text: &str| fs::write(place.path("run.toml"), text).unwrap();
    let train = || place.smidgen(&["train", "run.toml", "--dry-run"]);
    write("seed = 1\n[train]\nstpes = 3\n");
    fails(train(), 2, "unknown key `train.stpes` in run.toml line 3, did you mean `train.steps`?");
    write("seed = \n");
    fails(train(), 2, "run.toml line 1");
    write("seed = 1\n");
    fails(train(), 2, "`data.path`");
}

#[test]
fn folders_that_cannot_take_a_run() {
    let place = Place::new();
    fails(place.train("text", 4, &[]), 2, "new or empty folder");
    fs::write(place.path("file"), "").unwrap();
    fails(
        place.train("file", 4, &[]),
        2,
        "`--out`: expected a new or empty folder, but file is a file",
    );
    fails(place.train("file/run", 4, &[]), 2, "but file is a file");
    fails(place.train("file/run", 4, &["--dry-run"]), 2, "but file is a file");
    place.train("run", 4, &[]).assert().success();
    fails(place.train("run", 4, &[]), 2, "--resume");
    let lock = File::open(place.path("run/run.lock")).unwrap();
    lock.lock().unwrap();
    fails(place.smidgen(&["train", "--resume", "run"]), 1, "in use by another process");
    drop(lock);
    place.smidgen(&["train", "--resume", "run"]).assert().success();
    fails(place.smidgen(&["train", "--resume", "text"]), 3, "run directory");
    fails(place.smidgen(&["train", "text", "--resume", "run"]), 2, "cannot be used with");
}

#[test]
fn damaged_runs_are_refused_by_name() {
    let place = Place::new();
    place.train("run", 4, &["--set", "train.keep=1"]).assert().success();
    let run = place.path("run");
    let generate = || place.smidgen(&["generate", "run", "--prompt", "The", "--max-tokens", "3"]);
    generate().assert().success();
    let damage = |file: &std::path::Path, change: fn(&mut Vec<u8>), message: &str| {
        let sound = fs::read(file).unwrap();
        let mut bytes = sound.clone();
        change(&mut bytes);
        fs::write(file, bytes).unwrap();
        fails(generate(), 3, message);
        fs::write(file, sound).unwrap();
    };
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let foreign = |bytes: &mut Vec<u8>| *bytes = b"{}".to_vec();
    let tokenizer = run.join("tokenizer.json");
    for change in [flip, cut, foreign] {
        damage(&newest(&run, "model.safetensors"), change, "model.safetensors");
        damage(&newest(&run, "manifest.json"), change, "manifest.json");
        damage(&tokenizer, change, "tokenizer.json");
    }
    generate().assert().success();
}

#[test]
fn options_of_generate_are_judged_before_a_model_is_loaded() {
    let place = Place::new();
    fails(place.smidgen(&["generate", "nothing"]), 3, "got nothing at nothing");
    fails(place.smidgen(&["generate", "text"]), 3, "got a folder without `run.toml`");
    fails(place.smidgen(&["generate", "text", "--temperature", "-1"]), 2, "`temperature`");
    fails(place.smidgen(&["generate", "text", "--top-p", "0"]), 2, "`top_p`");
    fails(place.smidgen(&["generate", "text", "--ckpt", "worst"]), 2, "got `worst`");
    place.train("run", 4, &[]).assert().success();
    let args = ["generate", "run", "--prompt-file", "missing.txt"];
    fails(place.smidgen(&args), 3, "cannot read the prompt missing.txt");
    fails(place.smidgen(&["generate", "run", "--ckpt", "77"]), 3, "no checkpoint of step 77");
}

#[test]
fn benches_refuse_impossible_sizes() {
    let place = Place::new();
    let bench = |args: &[&str]| {
        let mut command = place.smidgen(&["bench", "step", "--no-limits"]);
        command.args(args);
        command
    };
    fails(bench(&["--heads", "5"]), 2, "`heads`: expected a divisor of `width` = 384, got 5");
    fails(bench(&["--vocab", "0"]), 2, "`vocab`");
    fails(bench(&["--batch", "0"]), 2, "`batch`");
    fails(bench(&["--steps", "3"]), 2, "`steps`: expected more than 3");
    fails(bench(&["--grad", "streamed", "--clip", "global"]), 2, "excludes `clip = \"global\"`");
}

/// A megabyte of prompt once kept a small model busy without a word.
#[test]
fn a_prompt_far_beyond_the_model_is_refused() {
    let place = Place::new();
    place.train("run", 4, &[]).assert().success();
    fs::write(place.path("long.txt"), "The owl met the hen. ".repeat(20_000)).unwrap();
    let generate = place.smidgen(&["generate", "run", "--prompt-file", "long.txt"]);
    fails(generate, 2, "`--prompt`: expected at most 16384 tokens");
}
