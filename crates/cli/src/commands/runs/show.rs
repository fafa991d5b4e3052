//! `runs show`: one run, as far as its files can be read.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use smidgen_store::RunView;
use smidgen_train::{Config, Outcome};

use super::super::train::{outcome, shown};
use super::row::{Row, Seen, State};
use crate::out::{self, Table};

/// One run: how it stands, its validations, its checkpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen runs show runs/notes")]
pub(super) struct Args {
    /// The run directory
    run: PathBuf,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    row: Row,
    outcome: Option<Outcome>,
    /// Steps that have a checkpoint, newest first.
    checkpoints: Vec<u64>,
    best_checkpoint: Option<u64>,
    /// The lines of `metrics.jsonl` that are validations.
    validations: Vec<Value>,
    config: Option<Config>,
    /// What could not be read, and why.
    problems: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let run = RunView::open(&args.run)?;
    let Seen { row, outcome, config, mut problems } = Seen::read(&run);
    let mut note = |error: smidgen_store::Error| problems.push(error.to_string());
    let checkpoints = run.steps().map_err(&mut note).unwrap_or_default();
    let best_checkpoint = run.best().map_err(&mut note).unwrap_or_default();
    let is_validation = |line: &Value| line.get("val_loss").is_some();
    let metrics = run.metrics().map_err(&mut note).unwrap_or_default();
    let validations = metrics.into_iter().filter(is_validation).collect();
    problems.dedup();
    let details =
        Details { row, outcome, checkpoints, best_checkpoint, validations, config, problems };
    if args.json { out::json(&details) } else { text(&details) }
}

fn text(details: &Details) -> Result<()> {
    let Details { row, outcome: done, validations, checkpoints, best_checkpoint, .. } = details;
    match done {
        Some(done) => out::line(outcome(done))?,
        None => {
            let status = row.status.name();
            out::line(format_args!("  {}: {status}, step {}", row.name, row.steps))?;
        }
    }
    if !validations.is_empty() {
        let mut table = Table::new(&["step", "val loss", "val bpb"]);
        for line in validations {
            let number = |key: &str, digits| out::decimals(line[key].as_f64(), digits);
            table.row([number("step", 0), number("val_loss", 3), number("val_bpb", 3)]);
        }
        out::line(format_args!("\n{table}"))?;
    }
    let best = best_checkpoint.map_or(String::new(), |step| format!(" (best: {step})"));
    let steps: Vec<String> = checkpoints.iter().rev().map(u64::to_string).collect();
    let steps = if steps.is_empty() { "none".into() } else { steps.join(", ") };
    out::line(format_args!("\n  checkpoints: {steps}{best}"))?;
    for problem in &details.problems {
        out::note(format_args!("note: {problem}"));
    }
    if row.status == State::Stopped {
        out::line(format_args!("\n  go on: smidgen train --resume {}", shown(&row.run_dir)))?;
    }
    Ok(())
}
