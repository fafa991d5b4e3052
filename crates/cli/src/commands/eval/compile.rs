//! `eval --task compile`: how much of what a model writes compiles.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use smidgen_eval::compile::CompileReport;
use smidgen_eval::sandbox::{Limits, SandboxPolicy};
use smidgen_model::{Sampler, Sampling};
use smidgen_store::RunView;
use smidgen_train::{CompileOptions, compile_rate, held_out_texts, is_run};

use super::{Args, read};
use crate::commands::late::LateBar;
use crate::exit::Fault;
use crate::out;

/// Options of this task alone.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of the task compile")]
pub(super) struct CompileArgs {
    /// Functions to complete, one completion each [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    samples: Option<u32>,
    /// Tokens of a completion at most [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: Option<u32>,
    /// Divides the logits; 0 takes the most likely token [default: 0.8]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Chooses the functions and draws the tokens [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Compile even where the system cannot lock the compiler in
    #[arg(long)]
    allow_unsandboxed: bool,
}

impl CompileArgs {
    /// The first option of this task that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.samples.is_some(), "--samples"),
            (self.tokens.is_some(), "--tokens"),
            (self.temperature.is_some(), "--temperature"),
            (self.seed.is_some(), "--seed"),
            (self.allow_unsandboxed, "--allow-unsandboxed"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }

    fn options(&self) -> CompileOptions {
        let policy =
            SandboxPolicy { limits: Limits::default(), allow_unsandboxed: self.allow_unsandboxed };
        CompileOptions {
            samples: self.samples.unwrap_or(50) as usize,
            tokens: self.tokens.unwrap_or(128) as usize,
            temperature: self.temperature.unwrap_or(0.8),
            seed: self.seed.unwrap_or(0),
            policy,
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    task: &'static str,
    samples: usize,
    parsed: usize,
    compiled: usize,
    rate: f64,
    low: f64,
    high: f64,
    failures: BTreeMap<String, usize>,
    rustc: String,
    isolated: bool,
    tokens: usize,
    temperature: f32,
    seed: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    model: PathBuf,
    files: Vec<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<()> {
    let options = args.compile.options();
    let CompileOptions { samples, tokens, temperature, seed, .. } = options;
    // Options are judged before a model is loaded.
    Sampler::new(Sampling { temperature, seed, ..Sampling::default() })?;
    let texts = texts(&args)?;
    let (device, mut model) = args.from.open()?;
    model.compute = args.compute(&model);
    let started = Instant::now();
    let bar = LateBar::new("  {pos}/{len} completions, {eta} left", Some(samples as u64));
    let report = compile_rate(&device, &model, &texts, &options, &mut |done| bar.at(done))?;
    drop(bar);
    let CompileReport { samples, parsed, compiled, rate, low, high, failures, rustc, isolated } =
        report;
    let report = Report {
        task: "compile",
        samples,
        parsed,
        compiled,
        rate,
        low,
        high,
        failures,
        rustc,
        isolated,
        tokens,
        temperature,
        seed,
        seconds: started.elapsed().as_secs_f64(),
        step: model.step,
        model: args.from.model,
        files: args.files,
    };
    if args.json { out::json(&report) } else { show(&report) }
}

/// The named files, or what the run holds out.
fn texts(args: &Args) -> Result<Vec<String>> {
    if !args.files.is_empty() {
        return args.files.iter().map(read).collect();
    }
    let model = &args.from.model;
    if !is_run(model) {
        let text = format!(
            "`--file`: expected Rust files whose functions are completed, got none\n  \
            hint: only a run has held-out text of its own, and `{}` is none",
            model.display()
        );
        return Err(Fault::usage(text).into());
    }
    Ok(held_out_texts(&RunView::open(model)?)?)
}

fn show(report: &Report) -> Result<()> {
    let Report { samples, parsed, compiled, rate, low, high, rustc, .. } = report;
    let percent = |share: &f64| format!("{:.1}", share * 100.0);
    out::line(format_args!(
        "{compiled} of {samples} compile: {} % ({} to {} % with 95 % certainty), {parsed} parse",
        percent(rate),
        percent(low),
        percent(high)
    ))?;
    let mut failures: Vec<_> = report.failures.iter().collect();
    failures.sort_by_key(|(class, count)| (std::cmp::Reverse(**count), *class));
    let failures: Vec<String> =
        failures.into_iter().map(|(class, count)| format!("{class} {count}")).collect();
    if !failures.is_empty() {
        out::line(format_args!("first errors: {}", failures.join(", ")))?;
    }
    let step = report.step.map_or(String::new(), |step| format!("; step {step}"));
    let isolated = if report.isolated { "" } else { ", not isolated" };
    out::line(format_args!("{rustc}{isolated}; {:.1} s{step}", report.seconds))
}
