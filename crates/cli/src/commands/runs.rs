//! `runs`: the run directories, at a glance and one by one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;
use smidgen_store::{Bytes, RUN_TOML, RunView, config};
use smidgen_train::{Config, OUTCOME_JSON, Outcome, Status};

use super::train::{RUNS, outcome, shown};
use crate::exit::Fault;
use crate::out::{self, Table};

/// List and look at run directories.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    List(ListArgs),
    Show(ShowArgs),
}

/// All runs in a folder, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen runs list\n  smidgen runs list ~/runs --json")]
struct ListArgs {
    /// The folder of the runs
    #[arg(default_value = RUNS)]
    folder: PathBuf,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// One run: how it stands, its validations, its checkpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen runs show runs/notes")]
struct ShowArgs {
    /// The run directory
    run: PathBuf,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Finished,
    Running,
    /// Interrupted or killed: `train --resume` goes on.
    Stopped,
    /// Its files cannot be read.
    Damaged,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    run_dir: PathBuf,
    steps: u64,
    val_bpb: Option<f64>,
    status: State,
    size_bytes: u64,
    age_s: u64,
}

#[derive(Debug, Serialize)]
struct Listing {
    runs: Vec<Row>,
}

#[derive(Debug, Serialize)]
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
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.what {
        What::List(args) => list(&args),
        What::Show(args) => show(&args),
    }
}

fn list(args: &ListArgs) -> Result<()> {
    let mut runs = Vec::new();
    let default = args.folder == Path::new(RUNS);
    if args.folder.exists() || !default {
        let cannot = || Fault::unreadable(format!("cannot read {}", args.folder.display()));
        for entry in fs::read_dir(&args.folder).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            // Other folders may lie beside runs.
            runs.extend(RunView::open(&path).ok().map(|run| row(&run)));
        }
    }
    runs.sort_by(|a: &Row, b| (a.age_s, &a.name).cmp(&(b.age_s, &b.name)));
    if args.json {
        return out::json(&Listing { runs });
    }
    if runs.is_empty() {
        out::note(format_args!("no runs in {}", args.folder.display()));
        return Ok(());
    }
    let mut table = Table::new(&["name", "steps", "val bpb", "status", "size", "age"]);
    for row in runs {
        table.row([
            row.name,
            out::count(row.steps),
            bpb(row.val_bpb),
            name(row.status),
            Bytes(row.size_bytes).to_string(),
            age(row.age_s),
        ]);
    }
    out::line(table)
}

fn show(args: &ShowArgs) -> Result<()> {
    let run = RunView::open(&args.run)?;
    let metrics = run.metrics()?;
    let is_validation = |line: &Value| line.get("val_loss").is_some();
    let details = Details {
        row: row(&run),
        outcome: run.read_json(OUTCOME_JSON).ok(),
        checkpoints: run.steps()?,
        best_checkpoint: run.best()?,
        validations: metrics.into_iter().filter(is_validation).collect(),
        config: read_config(&run),
    };
    if args.json { out::json(&details) } else { show_text(&details) }
}

fn show_text(details: &Details) -> Result<()> {
    let Details { row, outcome: done, validations, checkpoints, best_checkpoint, .. } = details;
    match done {
        Some(done) => out::line(outcome(done))?,
        None => {
            out::line(format_args!("  {}: {}, step {}", row.name, name(row.status), row.steps))?
        }
    }
    if !validations.is_empty() {
        let mut table = Table::new(&["step", "val loss", "val bpb"]);
        for line in validations {
            let number = |key: &str, digits: usize| {
                line[key].as_f64().map_or("-".into(), |value| format!("{value:.digits$}"))
            };
            table.row([number("step", 0), number("val_loss", 3), number("val_bpb", 3)]);
        }
        out::line(format_args!("\n{table}"))?;
    }
    let best = best_checkpoint.map_or(String::new(), |step| format!(" (best: {step})"));
    let steps: Vec<String> = checkpoints.iter().rev().map(u64::to_string).collect();
    let steps = if steps.is_empty() { "none".into() } else { steps.join(", ") };
    out::line(format_args!("\n  checkpoints: {steps}{best}"))?;
    if row.status == State::Stopped {
        out::line(format_args!("\n  go on: smidgen train --resume {}", shown(&row.run_dir)))?;
    }
    Ok(())
}

fn row(run: &RunView) -> Row {
    let outcome: Option<Outcome> = run.read_json(OUTCOME_JSON).ok();
    let metrics = run.metrics();
    let damaged = metrics.is_err() || read_config(run).is_none();
    let metrics = metrics.unwrap_or_default();
    let last = |key: &str| metrics.iter().rev().find_map(|line| line[key].as_f64());
    let path = run.path();
    let status = match &outcome {
        _ if run.is_in_use() => State::Running,
        _ if damaged => State::Damaged,
        Some(outcome) if outcome.status == Status::Finished => State::Finished,
        _ => State::Stopped,
    };
    let named = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Row {
        name: named.unwrap_or_else(|| path.display().to_string()),
        run_dir: path.to_path_buf(),
        steps: outcome.as_ref().map_or(last("step").unwrap_or(0.0) as u64, |done| done.steps),
        val_bpb: outcome.as_ref().map_or(last("val_bpb"), |done| done.val_bpb),
        status,
        size_bytes: size(path),
        age_s: seconds_since_change(path),
    }
}

fn read_config(run: &RunView) -> Option<Config> {
    config::parse(&run.read_text(RUN_TOML).ok()?, &run.file(RUN_TOML)).ok()
}

/// Bytes of all files below; what cannot be read counts nothing.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

fn seconds_since_change(run: &Path) -> u64 {
    let names = [OUTCOME_JSON, smidgen_store::METRICS_JSONL, RUN_TOML];
    let changed = |name: &&str| fs::metadata(run.join(name)).ok()?.modified().ok();
    let newest = names.iter().filter_map(changed).max();
    let since = newest.and_then(|time| SystemTime::now().duration_since(time).ok());
    since.map_or(0, |since| since.as_secs())
}

fn name(state: State) -> String {
    format!("{state:?}").to_lowercase()
}

fn bpb(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.3}"))
}

/// The largest unit that fits: `5 min`, `3 h`, `12 d`.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_well() {
        assert_eq!([age(59), age(61), age(7200), age(90_000)], ["59 s", "1 min", "2 h", "1 d"]);
    }

    #[test]
    fn a_run_that_was_killed_early_is_stopped_and_a_broken_one_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("early", "seed = 1\n"), ("broken", "sed = 1\n")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(RUN_TOML), text).unwrap();
        }
        let open = |name| row(&RunView::open(&folder.path().join(name)).unwrap());
        assert_eq!(open("early").status, State::Stopped);
        assert_eq!(open("broken").status, State::Damaged);
        assert_eq!((open("early").steps, open("early").size_bytes), (0, 9));
    }
}
