//! A run of its own for each evaluation, and whether one was done before.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smidgen_store::{Files, REQUEST_JSON, RunDir, RunView};

use super::{LINK_JSON, LinkRecord, Status};
use crate::Error;

/// What an evaluation is asked for, written before it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    key: String,
    config_hash: String,
}

/// The head of a record, in this version or a later one.
#[derive(Debug, Deserialize)]
struct Head {
    key: String,
    config_hash: String,
    status: Status,
}

/// An evaluation that was done before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its run directory.
    pub run: PathBuf,
}

/// The run of an evaluation while it is computed.
pub struct LinkRun {
    dir: RunDir,
    request: Request,
}

impl LinkRun {
    /// Makes the run directory, or takes up the one in which the same was asked for and did not end;
    /// `run_toml` is the resolved configuration.
    ///
    /// # Errors
    /// [`Error::Store`] where the folder is taken by anything else or cannot be written.
    pub fn create(
        files: Arc<dyn Files>,
        path: &Path,
        run_toml: &str,
        key: &str,
        config_hash: &str,
    ) -> Result<LinkRun, Error> {
        let request = Request { key: key.into(), config_hash: config_hash.into() };
        let is_own = |run: RunView| match run.read_json::<Request>(REQUEST_JSON) {
            Ok(before) => before == request,
            // A process that was killed may have come no further.
            Err(_) => !path.join(REQUEST_JSON).exists(),
        };
        let is_begun = !path.join(LINK_JSON).exists() && RunView::open(path).is_ok_and(is_own);
        let dir = match is_begun {
            true => RunDir::open(files, path)?,
            false => RunDir::create(files, path, run_toml)?,
        };
        dir.write_json(REQUEST_JSON, &request)?;
        Ok(LinkRun { dir, request })
    }

    /// The directory, for whatever else the run leaves there.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Checks the record and writes it, all or nothing.
    ///
    /// # Errors
    /// Those of [`LinkRecord::check`]; [`Error::Record`] where it is the record of another request;
    /// [`Error::Store`].
    pub fn finish(&self, record: &LinkRecord) -> Result<(), Error> {
        record.check()?;
        for (field, expected, got) in [
            ("key", &self.request.key, &record.key),
            ("config_hash", &self.request.config_hash, &record.config_hash),
        ] {
            if expected != got {
                return Err(Error::record(format!("link.json, `{field}`"), expected, got));
            }
        }
        Ok(self.dir.write_json(LINK_JSON, record)?)
    }
}

/// The evaluation in `parent` that was asked for just this and ended; the earliest by name where
/// there are several. A smoke run, one that failed, and one that a process still has do not count.
///
/// # Errors
/// [`Error::Store`] where `parent` cannot be read. Runs that cannot be read are no finished runs.
pub fn find_done(parent: &Path, key: &str, config_hash: &str) -> Result<Option<Done>, Error> {
    let at = |source| smidgen_store::Error::Io { action: "read", path: parent.into(), source };
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(error).into()),
    };
    let mut runs = Vec::new();
    for entry in entries {
        runs.extend(RunView::open(&entry.map_err(at)?.path()));
    }
    runs.sort_by(|a, b| a.path().cmp(b.path()));
    let is_it = |run: &&RunView| {
        let head: Option<Head> = run.read_json(LINK_JSON).ok();
        let same = |head: Head| {
            (head.key, head.config_hash, head.status)
                == (key.into(), config_hash.into(), Status::Complete)
        };
        head.is_some_and(same) && !run.is_in_use()
    };
    Ok(runs.iter().find(is_it).map(|run| Done { run: run.path().to_path_buf() }))
}
