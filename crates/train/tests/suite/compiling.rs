//! The compile rate at validations. Skipped by name where the system refuses the sandbox, or where
//! there is no compiler.

use std::sync::Arc;

use smidgen_codec::Ledger;
use smidgen_eval::Error as Refused;
use smidgen_eval::compile::CompileTask;
use smidgen_eval::sandbox::SandboxPolicy;
use smidgen_store::{Disk, RunView, Which};
use smidgen_tensor::Device;
use smidgen_train::{CompileOptions, Error, Weights, compile_rate, held_out_texts, open_model};

use crate::common::{Place, Watch, tensors};

const SETS: [&str; 3] =
    ["validate.compile_samples=3", "validate.compile_tokens=12", "stop.metric=compile"];

/// A place whose text is Rust, or nothing where nothing can be compiled: who runs the tests is told.
#[allow(clippy::print_stderr)]
fn rust() -> Option<Place> {
    let function = "pub fn double(a: u32) -> u32 {\n    2 * a\n}\n";
    let policy = SandboxPolicy::default();
    match CompileTask::new([function].into_iter(), 1, 0, &policy) {
        Ok(_) => {}
        Err(error @ (Refused::Unavailable { .. } | Refused::NoRustc { .. })) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    }
    let place = Place::new();
    for i in 0..12 {
        let text = place.run("text").join(format!("{i}.txt"));
        std::fs::remove_file(text).unwrap();
        let function = |j: u32| {
            format!(
                "/// The sum of {j}.\npub fn sum_{i}_{j}(a: u32, b: u32) -> u32 {{\n    a + b * {j}\n}}\n\n"
            )
        };
        let text: String = (0..12).map(function).collect();
        std::fs::write(place.run("text").join(format!("{i}.rs")), text).unwrap();
    }
    Some(place)
}

#[test]
fn completions_are_compiled_at_every_validation_and_change_nothing() {
    let Some(place) = rust() else { return };
    let outcome = place.train("run", &SETS);
    let rate = outcome.compile.unwrap();
    assert!(rate.samples == 3 && rate.low <= rate.rate() && rate.rate() <= rate.high, "{rate:?}");
    let lines = place.metrics("run");
    let lines: Vec<_> = lines.iter().filter_map(|line| line.get("compile")).collect();
    assert_eq!((lines.len(), &lines[0]["samples"]), (2, &3.into()));
    assert!(lines[0]["rate"].is_number() && lines[0]["high"].is_number(), "{lines:?}");
    place.train("without", &[]);
    assert!(tensors(&place.run("run"), 8) == tensors(&place.run("without"), 8));
    place.until("parts", &SETS, 3);
    assert_eq!(place.resume("parts").compile, Some(rate));
}

#[test]
fn the_rate_of_a_finished_run_is_that_of_its_last_validation() {
    let Some(place) = rust() else { return };
    let outcome = place.train("run", &SETS);
    let run = RunView::open(&place.run("run")).unwrap();
    let device = Device::cpu(Ledger::new(), 1);
    let model = open_model(&run, Which::Step(8), Weights::Trained, &device).unwrap();
    let config = place.config(&SETS);
    let options = CompileOptions {
        samples: 3,
        tokens: 12,
        temperature: config.validate.temperature as f32,
        seed: 7,
        policy: SandboxPolicy::default(),
    };
    let texts = held_out_texts(&run).unwrap();
    let mut written = 0;
    let report = compile_rate(&device, &model, &texts, &options, &mut |n| written = n).unwrap();
    assert_eq!(written, 3);
    let last = outcome.compile.unwrap();
    assert_eq!(
        (report.samples, report.parsed, report.compiled),
        (3, last.parsed as usize, last.compiled as usize)
    );
    assert_eq!(report.failures.values().sum::<usize>() + report.compiled, 3);
    let fewer = CompileOptions { samples: 2, ..options };
    assert_eq!(compile_rate(&device, &model, &texts, &fewer, &mut |_| {}).unwrap().samples, 2);
}

#[test]
fn text_without_functions_is_refused_by_name() {
    if rust().is_none() {
        return;
    }
    let place = Place::new();
    let config = place.config(&SETS);
    let error = Watch::new().train(&config, &place.run("run"), Arc::new(Disk)).unwrap_err();
    assert!(matches!(error, Error::Eval(_)), "{error}");
    assert!(error.to_string().starts_with("no prompts for the compile rate"), "{error}");
}

#[test]
fn a_metric_that_is_not_measured_is_refused() {
    let place = Place::new();
    let config = place.config(&["stop.metric=compile"]);
    let error = Watch::new().train(&config, &place.run("run"), Arc::new(Disk)).unwrap_err();
    assert!(error.to_string().starts_with("`stop.metric`: expected `validate.compile"), "{error}");
}
