//! `eval --task compile`, as a person and as a script. Skipped by name where the system refuses the
//! sandbox, or where there is no compiler.

#![cfg(unix)]

mod common;

use std::fs;

use common::{Place, fails, object, stdout};
use serde_json::Value;
use smidgen_eval::Error;
use smidgen_eval::compile::CompileTask;
use smidgen_eval::sandbox::SandboxPolicy;

const HELD_OUT: &str = "pub fn double(x: u32) -> u32 {\n    2 * x\n}\n\nfn half(x: u32) -> u32 {\n    \
    x / 2\n}\n\nfn none() {\n}\n";

/// A trained run beside Rust text.
#[allow(clippy::print_stderr)]
fn trained() -> Option<Place> {
    match CompileTask::new([HELD_OUT].into_iter(), 1, 0, &SandboxPolicy::default()) {
        Ok(_) => {}
        Err(error @ (Error::Unavailable { .. } | Error::NoRustc { .. })) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    }
    let place = Place::new();
    place.train("run", 10, &["--json"]).assert().success();
    fs::write(place.path("held.rs"), HELD_OUT).unwrap();
    Some(place)
}

#[test]
fn a_script_gets_every_figure_and_options_count() {
    let Some(place) = trained() else { return };
    let eval = |more: &[&str]| -> Value {
        let args = ["eval", "run", "--task", "compile", "--file", "held.rs", "--json"];
        let mut report = object(place.smidgen(&[&args[..], more].concat()));
        assert!(report["seconds"].take().as_f64().unwrap() > 0.0);
        report
    };
    let plain = eval(&[]);
    assert_eq!((&plain["task"], &plain["samples"]), (&"compile".into(), &3.into()));
    assert_eq!((&plain["isolated"], &plain["step"]), (&true.into(), &10.into()));
    assert!(plain["rustc"].as_str().unwrap().starts_with("rustc "), "{plain}");
    let failed: u64 =
        plain["failures"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(failed + plain["compiled"].as_u64().unwrap(), 3);
    for default in [["--tokens", "128"], ["--temperature", "0.8"], ["--seed", "0"]] {
        assert_eq!(eval(&default), plain, "{default:?}");
    }
    assert_eq!(eval(&["--samples", "2"])["samples"], 2);
    assert_eq!(eval(&["--tokens", "1"])["failures"]["unfinished"], 3);
    for (key, value) in [("temperature", "0.5"), ("seed", "7")] {
        assert_eq!(eval(&[&format!("--{key}"), value])[key].to_string(), value);
    }
    // Where the system allows isolation, nothing goes without.
    assert_eq!(eval(&["--allow-unsandboxed"]), plain);
}

#[test]
fn a_person_sees_the_rate_first() {
    let Some(place) = trained() else { return };
    let said = stdout(place.smidgen(&["eval", "run", "--task", "compile", "--file", "held.rs"]));
    let words: Vec<&str> = said.split_whitespace().take(4).collect();
    assert_eq!(words[1..], ["of", "3", "compile:"], "{said}");
    assert!(said.contains("% with 95 % certainty), "), "{said}");
    assert!(said.contains("rustc 1.") && said.trim_end().ends_with("step 10"), "{said}");
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let Some(place) = trained() else { return };
    let eval = |more: &[&str]| place.smidgen(&[&["eval", "run"][..], more].concat());
    // The run's own text is no Rust.
    fails(eval(&["--task", "compile"]), 3, "no prompts for the compile rate: none of 0 held-out");
    let context = ["--task", "compile", "--file", "held.rs", "--context", "8"];
    fails(eval(&context), 2, "`--context` is an option of `--task ppl` and `--task bpb`");
    let samples = ["--task", "ppl", "--file", "held.rs", "--samples", "8"];
    fails(eval(&samples), 2, "`--samples` is an option of `--task compile`");
    fails(eval(&["--task", "ppl"]), 2, "--file <FILE>");
    fs::create_dir(place.path("folder")).unwrap();
    let other = place.smidgen(&["eval", "folder", "--task", "compile"]);
    fails(other, 2, "`--file`: expected Rust files");
}
