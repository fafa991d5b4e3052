//! How one run stands: the figures of a line, each as far as it is known.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use smidgen_store::{METRICS_JSONL, RUN_TOML, RunView, config, size_bytes};
use smidgen_train::{Config, OUTCOME_JSON, Outcome, Status};

use super::super::train::RUNS;
use crate::exit::Fault;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Finished,
    Running,
    /// Interrupted or killed: `train --resume` goes on.
    Stopped,
    /// Its files cannot be read.
    Damaged,
}

impl State {
    pub(super) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) run_dir: PathBuf,
    pub(super) steps: u64,
    pub(super) tokens: Option<u64>,
    pub(super) seconds: Option<f64>,
    pub(super) train_loss: Option<f64>,
    pub(super) val_loss: Option<f64>,
    pub(super) val_bpb: Option<f64>,
    pub(super) best_val_bpb: Option<f64>,
    pub(super) tokens_per_s: Option<f64>,
    pub(super) peak_rss_mib: Option<f64>,
    pub(super) status: State,
    pub(super) size_bytes: u64,
    pub(super) age_s: u64,
}

/// All that is read of a run for a line about it.
pub(super) struct Seen {
    pub(super) row: Row,
    pub(super) outcome: Option<Outcome>,
    pub(super) config: Option<Config>,
    /// What could not be read, and why.
    pub(super) problems: Vec<String>,
}

/// Every run in a folder, by name; other things may lie beside them.
pub(super) fn runs_in(folder: &Path) -> Result<Vec<RunView>> {
    let mut runs = Vec::new();
    let default = folder == Path::new(RUNS);
    if folder.exists() || !default {
        let cannot = || Fault::unreadable(format!("cannot read {}", folder.display()));
        for entry in fs::read_dir(folder).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            // What is being made or removed has a hidden name.
            if !entry.file_name().to_string_lossy().starts_with('.') {
                runs.extend(RunView::open(&entry.path()).ok());
            }
        }
    }
    runs.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(runs)
}

impl Seen {
    /// Reads a run; what cannot be read is a problem of that run alone.
    pub(super) fn read(run: &RunView) -> Seen {
        let mut problems = Vec::new();
        let mut note = |error: String| problems.push(error);
        let outcome: Option<Outcome> = match run.file(OUTCOME_JSON).exists() {
            true => run.read_json(OUTCOME_JSON).map_err(|e| note(e.to_string())).ok(),
            false => None,
        };
        // A finished run says it all in its outcome; its metrics may be long.
        let metrics = match &outcome {
            Some(_) => Some(Vec::new()),
            None => run.metrics().map_err(|e| note(e.to_string())).ok(),
        };
        let config = read_config(run).map_err(|e| note(e.to_string())).ok();
        let damaged = metrics.is_none() || config.is_none();
        let metrics = metrics.unwrap_or_default();
        let status = match &outcome {
            _ if run.is_in_use() => State::Running,
            _ if damaged => State::Damaged,
            Some(outcome) if outcome.status == Status::Finished => State::Finished,
            _ => State::Stopped,
        };
        let row = row(run, outcome.as_ref(), &metrics, status);
        Seen { row, outcome, config, problems }
    }

    /// Every figure by its name, and every value of the configuration by its dotted key; `None`
    /// where a run has no such figure.
    pub(super) fn figures(&self) -> BTreeMap<String, Option<String>> {
        let row = serde_json::to_value(&self.row).expect("a row is plain figures");
        let row = row.as_object().expect("a struct is an object").clone();
        let mut figures: BTreeMap<_, _> = row.into_iter().map(|(k, v)| (k, text(&v))).collect();
        let table = self.config.as_ref().and_then(|config| config::to_table(config).ok());
        let flat = table.map(|table| config::flat(&table)).unwrap_or_default();
        let unquoted = |value: String| value.trim_matches('"').to_string();
        figures.extend(flat.into_iter().map(|(key, value)| (key, Some(unquoted(value)))));
        figures
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn row(run: &RunView, outcome: Option<&Outcome>, metrics: &[Value], status: State) -> Row {
    let path = run.path();
    let named = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let last = |key: &str| metrics.iter().rev().find_map(|line| line[key].as_f64());
    let least = |key: &str| metrics.iter().filter_map(|line| line[key].as_f64()).reduce(f64::min);
    let of = |known: fn(&Outcome) -> Option<f64>, otherwise: Option<f64>| {
        outcome.map_or(otherwise, known)
    };
    Row {
        name: named.unwrap_or_else(|| path.display().to_string()),
        run_dir: path.to_path_buf(),
        steps: outcome.map_or(last("step").unwrap_or(0.0) as u64, |done| done.steps),
        tokens: outcome
            .map_or(last("tokens").map(|tokens| tokens as u64), |done| Some(done.tokens)),
        seconds: of(|done| Some(done.seconds), last("time")),
        train_loss: of(|done| Some(done.train_loss), last("loss")),
        val_loss: of(|done| done.val_loss, last("val_loss")),
        val_bpb: of(|done| done.val_bpb, last("val_bpb")),
        best_val_bpb: of(|done| done.best_val_bpb, least("val_bpb")),
        tokens_per_s: of(|done| Some(done.tokens_per_s), last("tok_s")),
        peak_rss_mib: of(|done| Some(done.peak_rss_mib), None),
        status,
        size_bytes: size_bytes(path),
        age_s: seconds_since_change(path),
    }
}

fn read_config(run: &RunView) -> Result<Config, smidgen_store::Error> {
    config::parse(&run.read_text(RUN_TOML)?, &run.file(RUN_TOML))
}

/// Seconds since a run was last written to.
pub(super) fn seconds_since_change(run: &Path) -> u64 {
    let names = [OUTCOME_JSON, METRICS_JSONL, RUN_TOML];
    let changed = |name: &&str| fs::metadata(run.join(name)).ok()?.modified().ok();
    let newest = names.iter().filter_map(changed).max();
    let since = newest.and_then(|time| SystemTime::now().duration_since(time).ok());
    since.map_or(0, |since| since.as_secs())
}

/// The largest unit that fits: `5 min`, `3 h`, `12 d`.
pub(super) fn age(seconds: u64) -> String {
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
        for (name, text) in [("early", "seed = 1\n"), ("broken", "sed = 1\n"), (".half", "")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(RUN_TOML), text).unwrap();
        }
        let runs: Vec<Seen> = runs_in(folder.path()).unwrap().iter().map(Seen::read).collect();
        let [broken, early] = &runs[..] else { panic!("{} runs", runs.len()) };
        assert_eq!(early.row.status, State::Stopped);
        assert_eq!(broken.row.status, State::Damaged);
        assert!(broken.problems[0].contains("unknown key `sed`"), "{:?}", broken.problems);
        assert_eq!((early.row.steps, early.row.size_bytes), (0, 9));
        assert_eq!(early.figures()["seed"].as_deref(), Some("1"));
        assert_eq!(early.figures()["val_bpb"], None);
    }
}
