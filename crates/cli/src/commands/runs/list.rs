//! `runs list`: all runs in a folder.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use smidgen_store::{Bytes, nearest};

use super::super::train::RUNS;
use super::filter::{Figures, Filter, look_up, order};
use super::row::{Row, Seen, age, runs_in};
use crate::exit::Fault;
use crate::out::{self, Table};

/// All runs in a folder, newest first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Figures are those of --json (bpb is val_bpb), and every key of run.toml.\n\n\
    Examples:\n  smidgen runs list\n  \
    smidgen runs list ~/runs --filter status=finished --filter 'bpb<2.2' --sort bpb\n  \
    smidgen runs list --filter model.width=256 --json"
)]
pub(super) struct Args {
    /// The folder of the runs
    #[arg(default_value = RUNS)]
    folder: PathBuf,
    /// Only runs that meet a condition (=, !=, <, <=, >, >=); may be repeated
    #[arg(long = "filter", value_name = "CONDITION")]
    filters: Vec<Filter>,
    /// Sort by a figure, the smallest first
    #[arg(long, value_name = "FIGURE")]
    sort: Option<String>,
    /// The other way round
    #[arg(long)]
    reverse: bool,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listing {
    runs: Vec<Row>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let runs = runs_in(&args.folder)?;
    let runs = runs.iter().map(Seen::read).map(|seen| (seen.figures(), seen.row));
    let runs = chosen(runs.collect(), args)?;
    if args.json {
        return out::json(&Listing { runs });
    }
    if runs.is_empty() {
        let which = if args.filters.is_empty() { "" } else { " that meet the conditions" };
        out::note(format_args!("no runs{which} in {}", args.folder.display()));
        return Ok(());
    }
    out::line(table(runs).fitted())
}

/// The runs that were asked for, in the order that was asked for.
fn chosen(mut runs: Vec<(Figures, Row)>, args: &Args) -> Result<Vec<Row>> {
    let filtered = args.filters.iter().map(|filter| ("--filter", &filter.key));
    for (option, key) in filtered.chain(args.sort.iter().map(|key| ("--sort", key))) {
        check_known(&runs, option, key)?;
    }
    runs.retain(|(figures, _)| args.filters.iter().all(|filter| filter.passes(figures)));
    match &args.sort {
        None => runs.sort_by(|(_, a), (_, b)| (a.age_s, &a.name).cmp(&(b.age_s, &b.name))),
        Some(key) => runs.sort_by(|(a, _), (b, _)| {
            let of = |figures| look_up(figures, key).flatten();
            match (of(a), of(b)) {
                (Some(a), Some(b)) => order(a, b).unwrap_or(std::cmp::Ordering::Equal),
                // Runs without the figure come last.
                (a, b) => b.is_some().cmp(&a.is_some()),
            }
        }),
    }
    if args.reverse {
        runs.reverse();
    }
    Ok(runs.into_iter().map(|(_, row)| row).collect())
}

/// A name that no run knows is a slip, and not a condition that none meets.
fn check_known(runs: &[(Figures, Row)], option: &str, key: &str) -> Result<()> {
    if runs.is_empty() || runs.iter().any(|(figures, _)| look_up(figures, key).is_some()) {
        return Ok(());
    }
    let names = runs.iter().flat_map(|(figures, _)| figures.keys().map(String::as_str));
    let near =
        nearest(key, names).map_or(String::new(), |near| format!(", did you mean `{near}`?"));
    Err(Fault::usage(format!("`{option}`: no run has a figure or key `{key}`{near}")).into())
}

fn table(runs: Vec<Row>) -> Table {
    let mut table = Table::new(&["name", "steps", "val bpb", "tok/s", "status", "size", "age"]);
    for row in runs {
        table.row([
            row.name,
            out::count(row.steps),
            out::decimals(row.val_bpb, 3),
            out::decimals(row.tokens_per_s, 0),
            row.status.name(),
            Bytes(row.size_bytes).to_string(),
            age(row.age_s),
        ]);
    }
    table
}
