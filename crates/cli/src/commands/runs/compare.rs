//! `runs compare`: what differs between runs, in what was asked for and in what came out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use smidgen_store::{ENV_JSON, LEDGER_JSON, RUN_TOML, RunView, config};

use super::row::{Row, Seen};
use crate::out::{self, Table};

/// Longer values are cut in the table; `--json` has them whole.
const VALUE_WIDTH: usize = 28;

/// What differs between runs: configuration, environment, outcome.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen runs compare runs/small runs/wide\n  \
    smidgen runs compare runs/* --json")]
pub(super) struct Args {
    /// Two or more run directories
    #[arg(required = true, num_args = 2.., value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// A value of every run, in the order of the command line.
type Sides<T> = BTreeMap<String, Vec<Option<T>>>;

#[derive(Serialize)]
struct Comparison {
    runs: Vec<Row>,
    /// Dotted keys of `run.toml` whose values differ, as TOML.
    config: Sides<String>,
    /// Fields of `env.json` that differ.
    environment: Sides<Value>,
    /// The most bytes on the ledger, of finished runs.
    peak_ledger_bytes: Vec<Option<u64>>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let views = args.runs.iter().map(|path| RunView::open(path));
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let comparison = Comparison {
        runs: views.iter().map(|run| Seen::read(run).row).collect(),
        config: differing(views.iter().map(written).collect::<Result<_>>()?),
        environment: differing(views.iter().map(environment).collect()),
        peak_ledger_bytes: views.iter().map(peak_ledger_bytes).collect(),
    };
    if args.json { out::json(&comparison) } else { out::line(text(&comparison)) }
}

/// The configuration as it is written, so that runs of other versions compare as well.
fn written(run: &RunView) -> Result<BTreeMap<String, String>> {
    let text = run.read_text(RUN_TOML)?;
    Ok(config::flat(&config::table(&text, &run.file(RUN_TOML))?))
}

fn environment(run: &RunView) -> BTreeMap<String, Value> {
    let mut fields: BTreeMap<String, Value> = run.read_json(ENV_JSON).unwrap_or_default();
    // It differs always, and what it asked for stands in the configuration.
    fields.remove("command");
    fields
}

fn peak_ledger_bytes(run: &RunView) -> Option<u64> {
    let ledger: Value = run.read_json(LEDGER_JSON).ok()?;
    ledger["total"]["peak"].as_u64()
}

/// The keys whose values are not the same everywhere.
fn differing<T: Clone + PartialEq>(sides: Vec<BTreeMap<String, T>>) -> Sides<T> {
    let keys: BTreeSet<&String> = sides.iter().flat_map(BTreeMap::keys).collect();
    let values = keys.into_iter().map(|key| {
        let values: Vec<Option<T>> = sides.iter().map(|side| side.get(key).cloned()).collect();
        (key.clone(), values)
    });
    values.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

fn text(comparison: &Comparison) -> String {
    let rows = &comparison.runs;
    let mut parts = vec![outcomes(comparison).to_string()];
    let shown = |value: &Option<Value>| value.as_ref().map(|value| value.to_string());
    let environment = comparison.environment.iter();
    let environment = environment.map(|(key, values)| (key, values.iter().map(shown).collect()));
    let config = comparison.config.iter().map(|(key, values)| (key, values.clone()));
    for (title, sides) in [
        ("configuration", config.collect::<Vec<(&String, Vec<Option<String>>)>>()),
        ("environment", environment.collect()),
    ] {
        if sides.is_empty() {
            parts.push(format!("  {title}: the same"));
            continue;
        }
        let mut table = heading(title, rows);
        for (key, values) in sides {
            let cells =
                values.iter().map(|value| out::cut(value.as_deref().unwrap_or("-"), VALUE_WIDTH));
            table.row(std::iter::once(key.clone()).chain(cells));
        }
        parts.push(table.to_string());
    }
    parts.join("\n\n")
}

fn heading(title: &str, rows: &[Row]) -> Table {
    let cells: Vec<&str> =
        std::iter::once(title).chain(rows.iter().map(|row| row.name.as_str())).collect();
    Table::new(&cells)
}

fn outcomes(comparison: &Comparison) -> Table {
    let rows = &comparison.runs;
    let mut table = heading("outcome", rows);
    let mut line = |name: &str, of: &dyn Fn(&Row) -> String| {
        table.row(std::iter::once(name.to_string()).chain(rows.iter().map(of)));
    };
    line("status", &|row| row.status.name());
    line("steps", &|row| out::count(row.steps));
    line("tokens", &|row| row.tokens.map_or("-".into(), out::count));
    line("seconds", &|row| out::decimals(row.seconds, 1));
    line("train loss", &|row| out::decimals(row.train_loss, 4));
    line("val loss", &|row| out::decimals(row.val_loss, 4));
    line("val bpb", &|row| out::decimals(row.val_bpb, 4));
    line("best val bpb", &|row| out::decimals(row.best_val_bpb, 4));
    line("tok/s", &|row| out::decimals(row.tokens_per_s, 0));
    line("peak RSS MiB", &|row| out::decimals(row.peak_rss_mib, 0));
    let mib = |bytes: &Option<u64>| out::decimals(bytes.map(|b| b as f64 / f64::from(1 << 20)), 0);
    let ledger = comparison.peak_ledger_bytes.iter().map(mib);
    table.row(std::iter::once("peak ledger MiB".to_string()).chain(ledger));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_somewhere_is_kept() {
        let side = |pairs: &[(&str, i32)]| {
            pairs.iter().map(|(key, value)| (key.to_string(), *value)).collect()
        };
        let sides = vec![side(&[("a", 1), ("b", 2)]), side(&[("a", 1), ("c", 3)])];
        let expected =
            [("b".to_string(), vec![Some(2), None]), ("c".to_string(), vec![None, Some(3)])];
        assert_eq!(differing(sides), BTreeMap::from(expected));
    }
}
