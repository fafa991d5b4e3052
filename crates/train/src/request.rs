//! What a run was asked for, so that the same is not done twice: the configuration with every
//! automatic value as it was planned, and a fingerprint of the text.
//!
//! The planned configuration is kept because the final one holds more: a horizon that the clock
//! fixed, a vocabulary that came out smaller.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use smidgen_store::{REQUEST_JSON, RunDir, RunView, config};

use crate::init::Init;
use crate::outcome::OUTCOME_JSON;
use crate::plan::settle;
use crate::source::Scan;
use crate::{Config, Error, Machine, Outcome, Silent, Status, resolve};

/// Keys that change nothing of what comes out. Of text and model the content counts, not where they
/// lie, nor by what rule some of the text was left out.
const IDLE_KEYS: [&str; 7] = [
    "threads",
    "memory",
    "data.path",
    "data.near_duplicates",
    "data.contamination",
    "model.init",
    "track.tensorboard",
];

/// A run as it was asked for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Values as TOML by dotted key.
    config: BTreeMap<String, String>,
    /// SHA-256 over the texts of both sides of the split.
    source: String,
    /// The fingerprint of the model it begins with, where it begins with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    init: Option<String>,
}

impl Request {
    pub(crate) fn new(
        planned: &Config,
        scan: &Scan,
        init: Option<&Init>,
    ) -> Result<Request, Error> {
        let mut config = config::flat(&config::to_table(planned)?);
        config.retain(|key, _| !IDLE_KEYS.contains(&key.as_str()));
        let init = init.map(|init| init.found.fingerprint()).transpose()?;
        Ok(Request { config, source: scan.fingerprint(), init })
    }

    pub(crate) fn write(&self, run: &RunDir) -> Result<(), Error> {
        Ok(run.write_json(REQUEST_JSON, self)?)
    }
}

/// The outcome of a finished run in `parent` that was asked for just what `config` asks for; the
/// earliest by name where there are several. Nothing is written.
///
/// # Errors
/// Those of the source and of [`resolve`]. Runs that cannot be read are no finished runs.
pub fn find_done(
    config: &Config,
    parent: &Path,
    machine: Machine,
) -> Result<Option<Outcome>, Error> {
    let mut runs: Vec<RunView> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| RunView::open(&entry.path()).ok())
        .filter(|run| run.file(REQUEST_JSON).exists() && run.file(OUTCOME_JSON).exists())
        .collect();
    if runs.is_empty() {
        return Ok(None);
    }
    runs.sort_by(|a, b| a.path().cmp(b.path()));
    let (config, init) = Init::of(&settle(config, &machine))?;
    let scan = Scan::read(&config, None, &mut Silent)?;
    let plan = resolve(&config, &scan.facts(machine))?;
    let asked = Request::new(&plan.config, &scan, init.as_ref())?;
    Ok(runs.iter().find_map(|run| done(run, &asked)))
}

fn done(run: &RunView, asked: &Request) -> Option<Outcome> {
    let before: Request = run.read_json(REQUEST_JSON).ok()?;
    let outcome: Outcome = run.read_json(OUTCOME_JSON).ok()?;
    let is_it = before == *asked && outcome.status == Status::Finished && !run.is_in_use();
    // The folder may have been moved since.
    is_it.then(|| Outcome { run_dir: run.path().to_path_buf(), ..outcome })
}
