//! One run as a report sees it: what its files say, read again as often as asked.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use smidgen_store::{
    Bytes, ENV_JSON, Error, LEDGER_JSON, MetricsReader, PLAN_JSON, Past, RUN_TOML, RunView,
};
use smidgen_train::OUTCOME_JSON;
use toml::Table;

use super::history::History;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    Running,
    Finished,
    /// Interrupted, or not begun.
    Stopped,
}

/// One run of a report.
pub(crate) struct Subject {
    run: RunView,
    reader: MetricsReader,
    /// Its folder's name.
    pub(crate) name: String,
    pub(crate) standing: Standing,
    /// `run.toml` as it is.
    pub(crate) config_text: String,
    /// The same as a table; empty where it is no TOML.
    pub(crate) config: Table,
    /// What it was computed on, or null.
    pub(crate) env: Value,
    /// What was planned before it began, or null.
    pub(crate) plan: Value,
    /// Bytes by tag at its end, or null.
    pub(crate) ledger: Value,
    /// The object of a finished run, or null.
    pub(crate) outcome: Value,
    pub(crate) history: History,
}

impl Subject {
    /// The run at `path`, as it is now.
    ///
    /// # Errors
    /// Where it is no run, or its metrics cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Subject, Error> {
        let run = RunView::open(path)?;
        let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = full.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut subject = Subject {
            reader: MetricsReader::new(&run),
            name: name.unwrap_or_else(|| path.display().to_string()),
            run,
            standing: Standing::Stopped,
            config_text: String::new(),
            config: Table::new(),
            env: Value::Null,
            plan: Value::Null,
            ledger: Value::Null,
            outcome: Value::Null,
            history: History::default(),
        };
        subject.refresh()?;
        Ok(subject)
    }

    /// Reads what is new. Files that are absent or damaged leave their part of the report empty.
    ///
    /// # Errors
    /// Where the metrics cannot be read.
    pub(crate) fn refresh(&mut self) -> Result<(), Error> {
        // Twice at most: what a resume cut is read anew, and cannot be cut again at once.
        for _ in 0..2 {
            let history = &mut self.history;
            if self.reader.read(|line| history.take(&line))? == Past::Kept {
                break;
            }
            self.history = History::default();
        }
        self.config_text = self.run.read_text(RUN_TOML).unwrap_or_default();
        self.config = self.config_text.parse().unwrap_or_default();
        let json = |name: &str| self.run.read_json(name).unwrap_or(Value::Null);
        (self.env, self.ledger) = (json(ENV_JSON), json(LEDGER_JSON));
        (self.plan, self.outcome) = (json(PLAN_JSON), json(OUTCOME_JSON));
        self.standing = match self.outcome["status"].as_str() {
            _ if self.run.is_in_use() => Standing::Running,
            Some("finished") => Standing::Finished,
            _ => Standing::Stopped,
        };
        Ok(())
    }

    /// The run directory as it was named.
    pub(crate) fn path(&self) -> &Path {
        self.run.path()
    }

    /// The bytes it was allowed.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        let limit = self.config.get("memory")?;
        let written =
            limit.as_str().and_then(|text| text.parse::<Bytes>().ok()).map(|bytes| bytes.0);
        written.or(limit.as_integer().and_then(|bytes| bytes.try_into().ok()))
    }

    /// The most bytes on the ledger at once.
    pub(crate) fn peak_bytes(&self) -> Option<f64> {
        self.ledger["total"]["peak"].as_f64().or(self.history.total_bytes.max())
    }

    /// Steps done.
    pub(crate) fn steps(&self) -> u64 {
        self.outcome["steps"].as_u64().unwrap_or(self.history.steps)
    }

    /// Seconds, data preparation included where the run has ended.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.outcome["seconds"].as_f64().or(self.history.seconds)
    }

    /// Tokens per second of training: validations left out where the run has ended.
    pub(crate) fn tokens_per_s(&self) -> Option<f64> {
        self.outcome["tokens_per_s"].as_f64().or(self.history.tok_s.mean())
    }

    /// Steps that it was meant to do.
    pub(crate) fn planned_steps(&self) -> Option<u64> {
        self.config.get("train")?.get("steps")?.as_integer()?.try_into().ok()
    }
}
