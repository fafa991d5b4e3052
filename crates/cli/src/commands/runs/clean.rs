//! `runs clean`: removes what nobody will miss, after it was shown.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use smidgen_store::{Bytes, Disk, Error, Leftover, RunView, remove_leftovers};
use smidgen_train::OUTCOME_JSON;

use super::super::train::RUNS;
use super::row::{age, runs_in, seconds_since_change};
use crate::out::{self, Table};

/// A run with one of these has results.
const RESULTS: [&str; 1] = [OUTCOME_JSON];

/// Show, and with --yes remove, what runs left behind: no results, nothing in use.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Removes runs that ended before their first checkpoint, half-written files of killed runs \
    and\ndamaged checkpoints with a sound newer one beside them; never a run with an outcome or a\n\
    checkpoint, one in use, or a folder that is no run.\n\nExamples:\n  smidgen runs clean\n  \
    smidgen runs clean ~/runs --older 30d --yes"
)]
pub(super) struct Args {
    /// The folder of the runs
    #[arg(default_value = RUNS)]
    folder: PathBuf,
    /// Only runs not written to for this long, such as 30d, 12h or 45min
    #[arg(long, value_name = "AGE", default_value = "0s")]
    older: Age,
    /// Remove it; otherwise it is only shown
    #[arg(long)]
    yes: bool,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// A span of time as people write it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Age {
    seconds: u64,
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Age, String> {
        let wrong =
            || format!("expected an age such as `30d`, `12h`, `45min` or `90s`, got `{text}`");
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (count, unit) = text.split_at(split);
        let unit = match unit.trim() {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let count: u64 = count.parse().map_err(|_| wrong())?;
        Ok(Age { seconds: count.checked_mul(unit).ok_or_else(wrong)? })
    }
}

#[derive(Serialize)]
struct Item {
    path: PathBuf,
    what: &'static str,
    bytes: u64,
    age_s: u64,
}

#[derive(Serialize)]
struct Cleaning {
    removed: bool,
    items: Vec<Item>,
    bytes: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut items = Vec::new();
    for run in runs_in(&args.folder)? {
        let age_s = seconds_since_change(run.path());
        if age_s >= args.older.seconds {
            items.extend(leftovers(&run, args.yes)?.into_iter().map(|left| item(left, age_s)));
        }
    }
    let bytes = items.iter().map(|item| item.bytes).sum();
    let cleaning = Cleaning { removed: args.yes, items, bytes };
    if args.json { out::json(&cleaning) } else { text(&cleaning, &args.folder) }
}

/// What goes, or what went.
fn leftovers(run: &RunView, remove: bool) -> Result<Vec<Leftover>, Error> {
    let found = run.leftovers(&RESULTS)?;
    if !remove || found.is_empty() {
        return Ok(found);
    }
    match remove_leftovers(Arc::new(Disk), run.path(), &RESULTS) {
        // Somebody began to use it, or removed it, since.
        Err(Error::InUse { .. } | Error::Missing { .. } | Error::NotARun { .. }) => Ok(Vec::new()),
        other => other,
    }
}

fn item(left: Leftover, age_s: u64) -> Item {
    Item { path: left.path, what: left.waste.name(), bytes: left.bytes, age_s }
}

fn text(cleaning: &Cleaning, folder: &Path) -> Result<()> {
    if cleaning.items.is_empty() {
        out::note(format_args!("nothing to clean in {}", folder.display()));
        return Ok(());
    }
    let mut table = Table::new(&["path", "what", "size", "age"]).left(&[0, 1]);
    for item in &cleaning.items {
        let size = Bytes(item.bytes).to_string();
        table.row([item.path.display().to_string(), item.what.into(), size, age(item.age_s)]);
    }
    out::line(table.fitted())?;
    let all = Bytes(cleaning.bytes);
    match cleaning.removed {
        true => out::line(format_args!("\n  removed {all}")),
        false => out::line(format_args!("\n  {all} in all; remove it with --yes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_with_their_unit() {
        let seconds = |text: &str| text.parse::<Age>().map(|age| age.seconds);
        assert_eq!(
            ["90s", "45min", "12h", "30d"].map(seconds),
            [Ok(90), Ok(2700), Ok(43_200), Ok(2_592_000)]
        );
        for text in ["", "30", "d", "30m", "-1d", "1.5h", "99999999999999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
