//! `bench optim`: rule x state format x projection on one text, each configuration a run of its own
//! process, several seeds, one line of a log per run and one table of them all.

mod log;
mod matrix;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use self::log::{Line, read_log};
use self::matrix::{Entry, Scale};
use super::limits::Limits;
use crate::exit::Fault;
use crate::out;

/// Compare optimizers: bytes of state, memory, time and loss, each configuration a run of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  smidgen bench optim text.txt --out bench\n  \
    smidgen bench optim text.txt --out bench --only 'muon*' --seeds 1 --skip-done\n  \
    smidgen bench optim --table bench/optim.jsonl")]
pub(crate) struct Args {
    /// The text to learn: a file or a folder
    #[arg(required_unless_present = "table")]
    path: Option<PathBuf>,
    /// Where runs, log and table go
    #[arg(long, default_value = "bench-optim")]
    out: PathBuf,
    /// Every combination on a small model, or the named comparisons on one of ten millions
    #[arg(long, value_enum, default_value = "matrix")]
    scale: Scale,
    /// Seeds per configuration
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Steps of a run, instead of those of the scale
    #[arg(long)]
    steps: Option<u64>,
    /// Only configurations whose name matches; `*` is any run of characters
    #[arg(long)]
    only: Option<String>,
    /// Take over runs of an earlier call that are finished and the same
    #[arg(long)]
    skip_done: bool,
    /// Make the table from this log, and train nothing
    #[arg(long, conflicts_with_all = ["path", "only", "steps", "skip_done"])]
    table: Option<PathBuf>,
    /// Print the table as comma-separated values
    #[arg(long)]
    csv: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let lines = match (&args.table, &args.path) {
        (Some(log), _) => read_log(log)?,
        (None, Some(path)) => measure(args, path)?,
        (None, None) => unreachable!("one of both is required"),
    };
    let rows = table::rows(&lines);
    if args.csv { out::piece(table::csv(&rows)?) } else { table::show(&rows) }
}

/// Trains every configuration with every seed; the log has a line for each.
fn measure(args: &Args, path: &Path) -> Result<Vec<Line>> {
    let path = path.canonicalize().with_context(|| format!("`{}`", path.display()))?;
    let entries = matrix::entries(args.scale);
    let wanted = |entry: &&Entry| args.only.as_ref().is_none_or(|only| like(only, &entry.name));
    let entries: Vec<&Entry> = entries.iter().filter(wanted).collect();
    if entries.is_empty() {
        let only = args.only.as_deref().unwrap_or_default();
        return Err(Fault::usage(format!("`--only {only}` matches no configuration")).into());
    }
    fs::create_dir_all(&args.out).with_context(|| format!("`{}`", args.out.display()))?;
    let limits = Limits::of_child(smidgen_tensor::available_threads())?;
    let mut lines = Vec::new();
    let count = entries.len() as u64 * args.seeds;
    // Seed after seed, so that a change of the machine's speed meets every configuration.
    for seed in 0..args.seeds {
        for entry in &entries {
            out::note(format!("{} of {count}: {}, seed {seed}", lines.len() + 1, entry.name));
            let line = train(args, &path, entry, seed)?;
            lines.push(line.beside(&limits));
            log::write_log(&args.out.join("optim.jsonl"), &lines)?;
        }
    }
    fs::write(args.out.join("optim.csv"), table::csv(&table::rows(&lines))?)?;
    Ok(lines)
}

/// One run in a process of its own, so that its memory is its own.
fn train(args: &Args, path: &Path, entry: &Entry, seed: u64) -> Result<Line> {
    let folder = args.out.join(&entry.name);
    fs::create_dir_all(&folder)?;
    let config = folder.join("config.toml");
    fs::write(&config, entry.config(path, args.scale, args.steps))?;
    let run = folder.join(format!("seed-{seed}"));
    if run.exists() && !args.skip_done {
        fs::remove_dir_all(&run)?;
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.arg("train").arg(&config).arg("--out").arg(&run).arg("--json");
    command.args(["--set", &format!("seed={seed}")]);
    if args.skip_done {
        command.arg("--skip-done");
    }
    let output = command.stdin(Stdio::null()).output().context("cannot start a run")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // Two refusals belong to the product of the axes; whatever else goes wrong is a failure.
        let refused = |line: &&str| line.contains("cannot hold") || line.contains("cannot update");
        let refused = said.lines().find(refused).filter(|_| entry.may_be_refused);
        let refused = refused.with_context(|| format!("`{}`: {said}", entry.name))?;
        return Ok(Line::refused(entry, seed, refused));
    }
    Line::of_run(entry, seed, &run)
}

/// `*` matches any run of characters.
fn like(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && like(tail, &rest[at..]))
        }),
    }
}
