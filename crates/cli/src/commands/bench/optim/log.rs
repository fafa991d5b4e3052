//! The raw log: one object for each run, with what the table is made from.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smidgen_optim::GroupCost;
use smidgen_store::METRICS_JSONL;
use smidgen_train::{Outcome, cpu_name};

use super::super::limits::Limits;
use super::matrix::Entry;

/// Points of the training curve that are kept.
const POINTS: usize = 60;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) rule: String,
    pub(super) state: String,
    pub(super) second: Option<String>,
    pub(super) projection: Option<String>,
    pub(super) seed: u64,
    /// Why the combination does not exist; all that follows is empty then.
    pub(super) refused: Option<String>,
    pub(super) run: Option<Run>,
    pub(super) cpu: String,
    pub(super) copy_gb_s: f64,
}

/// What a finished run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    pub(super) steps: u64,
    pub(super) tokens: u64,
    pub(super) val_loss: f64,
    pub(super) peak_anon_mib: f64,
    pub(super) state_bytes: usize,
    pub(super) update_seconds: f64,
    pub(super) groups: Vec<GroupCost>,
    /// Of steps alone, without validations and checkpoints.
    pub(super) tokens_per_s: f64,
    /// Mean training losses of stretches of equal length.
    pub(super) curve: Vec<f64>,
    /// Steps and validation losses.
    pub(super) validations: Vec<(u64, f64)>,
}

impl Line {
    fn new(entry: &Entry, seed: u64) -> Self {
        Self {
            name: entry.name.clone(),
            rule: entry.rule.into(),
            state: entry.state.into(),
            second: entry.second.map(Into::into),
            projection: entry.projection.map(Into::into),
            seed,
            refused: None,
            run: None,
            cpu: cpu_name(),
            copy_gb_s: 0.0,
        }
    }

    pub(super) fn refused(entry: &Entry, seed: u64, why: &str) -> Self {
        Self { refused: Some(why.into()), ..Self::new(entry, seed) }
    }

    pub(super) fn of_run(entry: &Entry, seed: u64, folder: &Path) -> Result<Self> {
        Ok(Self { run: Some(Run::read(folder)?), ..Self::new(entry, seed) })
    }

    pub(super) fn beside(self, limits: &Limits) -> Self {
        Self { copy_gb_s: limits.copy_bytes_per_s.all / 1e9, ..self }
    }
}

impl Run {
    fn read(folder: &Path) -> Result<Self> {
        let text = std::fs::read(folder.join("outcome.json"));
        let outcome: Outcome = serde_json::from_slice(&text.context("no outcome")?)?;
        let (mut losses, mut validations) = (Vec::new(), Vec::new());
        let metrics = std::fs::read_to_string(folder.join(METRICS_JSONL)).context("no metrics")?;
        for line in metrics.lines() {
            let line: Value = serde_json::from_str(line)?;
            let Some(step) = line["step"].as_u64() else { continue };
            losses.extend(line["loss"].as_f64());
            validations.extend(line["val_loss"].as_f64().map(|loss| (step, loss)));
        }
        let state_bytes = outcome.optim.iter().map(|group| group.state_bytes).sum();
        Ok(Self {
            steps: outcome.steps,
            tokens: outcome.tokens,
            tokens_per_s: outcome.tokens_per_s,
            val_loss: outcome.val_loss.unwrap_or(f64::NAN),
            peak_anon_mib: outcome.peak_rss_anon_mib,
            state_bytes,
            update_seconds: outcome.update_seconds,
            groups: outcome.optim,
            curve: thinned(&losses),
            validations,
        })
    }
}

/// Means of as many stretches as the log keeps.
fn thinned(losses: &[f64]) -> Vec<f64> {
    let stretch = losses.len().div_ceil(POINTS).max(1);
    losses.chunks(stretch).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect()
}

/// Writes the whole log; a call that is cut off loses the run it was in.
pub(super) fn write_log(path: &Path, lines: &[Line]) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        text += &serde_json::to_string(line)?;
        text.push('\n');
    }
    std::fs::write(path, text).with_context(|| format!("`{}`", path.display()))
}

/// Reads a log.
pub(super) fn read_log(path: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))?;
    let line = |(at, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("`{}`, line {}", path.display(), at + 1))
    };
    text.lines().enumerate().map(line).collect()
}
