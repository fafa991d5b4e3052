//! Reading a run, without its lock: for generation, evaluation, reports, and a glance at a run
//! that is still going.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;

use super::{BEST, CKPT, DATA, EVENTS, LATEST, METRICS_JSONL, RUN_TOML, lock, metrics};
use crate::checkpoint::{REPLACED, Skipped, step_name, step_of};
use crate::{Checkpoint, Error};

/// A run directory, read only.
#[derive(Clone, Debug)]
pub struct RunView {
    path: PathBuf,
}

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Which {
    /// The one with the best validation value; the newest valid one where none was marked yet.
    #[default]
    Best,
    /// The newest valid one.
    Last,
    /// The one of a step.
    Step(u64),
}

impl FromStr for Which {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "best" => Ok(Which::Best),
            "last" => Ok(Which::Last),
            step => {
                step.parse().map(Which::Step).map_err(|_| Error::Which { got: step.to_string() })
            }
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Best => f.write_str("best"),
            Which::Last => f.write_str("last"),
            Which::Step(step) => step.fmt(f),
        }
    }
}

impl RunView {
    /// Whether a process is writing the run.
    pub fn is_in_use(&self) -> bool {
        lock::is_locked(self.path())
    }

    /// A run directory that exists.
    /// Fails with [`Error::Missing`], or [`Error::NotARun`] where it has no `run.toml`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        match path.metadata() {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(Error::NotARun { path: path.into(), got: "a file" });
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing { what: "a run directory", path: path.into() });
            }
            Err(e) => return Err(Error::at("read", path)(e)),
        }
        if !path.join(RUN_TOML).is_file() {
            return Err(Error::NotARun { path: path.into(), got: "a folder without it" });
        }
        Ok(Self::unchecked(path))
    }

    pub(super) fn unchecked(path: &Path) -> Self {
        RunView { path: path.to_path_buf() }
    }

    /// The run directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the run directory, there or not.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder of tokenizer and shards.
    pub fn data_folder(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// The folder of all checkpoints.
    pub fn ckpt_folder(&self) -> PathBuf {
        self.path.join(CKPT)
    }

    /// The folder of TensorBoard event files, there or not.
    pub fn events_folder(&self) -> PathBuf {
        self.path.join(EVENTS)
    }

    /// The folders in which files are made under temporary names.
    pub(super) fn folders_of_writes(&self) -> [PathBuf; 3] {
        [self.path.clone(), self.data_folder(), self.ckpt_folder()]
    }

    /// The folder of one checkpoint, there or not.
    pub fn step_folder(&self, step: u64) -> PathBuf {
        self.ckpt_folder().join(step_name(step))
    }

    /// A text file of the run. Fails with [`Error::Missing`] or [`Error::Io`].
    pub fn read_text(&self, name: &str) -> Result<String, Error> {
        let path = self.file(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::Missing { what: "a file of the run", path })
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(Error::corrupt(&path, "UTF-8 text", "other bytes"))
            }
            Err(e) => Err(Error::at("read", &path)(e)),
        }
    }

    /// A JSON file of the run. Fails as [`RunView::read_text`], or with [`Error::Corrupt`].
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        crate::read_json(&self.file(name))
    }

    /// The records of `metrics.jsonl`; a torn line is left out, a missing file is no records.
    pub fn metrics(&self) -> Result<Vec<serde_json::Value>, Error> {
        metrics::records(&self.file(METRICS_JSONL))
    }

    /// The steps that have a checkpoint, newest first. A run without any has none.
    pub fn steps(&self) -> Result<Vec<u64>, Error> {
        let folder = self.ckpt_folder();
        let mut steps: Vec<u64> = names(&folder)?
            .iter()
            .filter_map(|name| step_of(name.strip_suffix(REPLACED).unwrap_or(name)))
            .collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps.dedup();
        Ok(steps)
    }

    /// The step that `ckpt/latest` names. Readers that resume want [`RunView::newest_valid`].
    pub fn latest(&self) -> Result<Option<u64>, Error> {
        self.pointer(LATEST)
    }

    /// The step that `ckpt/best` names.
    pub fn best(&self) -> Result<Option<u64>, Error> {
        self.pointer(BEST)
    }

    fn pointer(&self, name: &str) -> Result<Option<u64>, Error> {
        let path = self.ckpt_folder().join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::at("read", &path)(e)),
        };
        let got = || format!("`{}`", text.trim_end().chars().take(40).collect::<String>());
        let wrong = || Error::corrupt(&path, "a name such as `step-00001000`", got());
        step_of(text.trim_end_matches('\n')).map(Some).ok_or_else(wrong)
    }

    /// A checkpoint. Every file is checked where the newest valid one is sought, otherwise each
    /// when it is first used. Fails with [`Error::NoCheckpoint`], or as [`Checkpoint::open`].
    pub fn checkpoint(&self, which: Which) -> Result<Checkpoint, Error> {
        let none = || Error::NoCheckpoint { path: self.path.clone(), got: "none".into() };
        match which {
            Which::Step(step) => Checkpoint::peek(&self.place_of(step)),
            Which::Best => match self.best()? {
                Some(step) => self.checkpoint(Which::Step(step)),
                None => self.checkpoint(Which::Last),
            },
            Which::Last => Ok(self.newest_valid()?.ok_or_else(none)?.0),
        }
    }

    /// The newest checkpoint of which every file is sound, and those newer ones that are not.
    /// `None` where the run has no checkpoint at all; fails with [`Error::NoCheckpoint`] where it
    /// has some and none is sound: to begin anew is then a person's decision.
    pub fn newest_valid(&self) -> Result<Option<(Checkpoint, Vec<Skipped>)>, Error> {
        let mut skipped = Vec::new();
        for step in self.steps()? {
            match Checkpoint::open(&self.place_of(step)) {
                Ok(checkpoint) => return Ok(Some((checkpoint, skipped))),
                Err(error) => skipped.push(Skipped { step, error }),
            }
        }
        if skipped.is_empty() {
            return Ok(None);
        }
        let reasons: Vec<String> = skipped.iter().map(|s| s.error.to_string()).collect();
        Err(Error::NoCheckpoint { path: self.path.clone(), got: reasons.join("; ") })
    }

    /// Where a step's checkpoint lies now: while it is being replaced, under its other name.
    fn place_of(&self, step: u64) -> PathBuf {
        let folder = self.step_folder(step);
        let aside = crate::checkpoint::replaced(&folder);
        if !folder.exists() && aside.exists() { aside } else { folder }
    }
}

/// The names in a folder; none where the folder is missing.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::at("read", folder)(e)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(Error::at("read", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_reads_and_shows() {
        for text in ["best", "last", "1200"] {
            assert_eq!(text.parse::<Which>().unwrap().to_string(), text);
        }
        for text in ["", "worst", "-1", "1.5"] {
            assert!(matches!(text.parse::<Which>(), Err(Error::Which { .. })), "{text}");
        }
    }

    #[test]
    fn what_is_no_run_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(RunView::open(&dir.path().join("no")), Err(Error::Missing { .. })));
        assert!(matches!(RunView::open(&file), Err(Error::NotARun { got: "a file", .. })));
        assert!(matches!(RunView::open(dir.path()), Err(Error::NotARun { .. })));
    }

    #[test]
    fn damaged_pointers_are_typed() {
        let dir = tempfile::tempdir().unwrap();
        let view = RunView::unchecked(dir.path());
        assert_eq!(view.latest().unwrap(), None);
        std::fs::create_dir(view.ckpt_folder()).unwrap();
        for text in ["", "step-1", "../step-00000001", "\u{0}\u{0}"] {
            std::fs::write(view.ckpt_folder().join(LATEST), text).unwrap();
            assert!(matches!(view.latest(), Err(Error::Corrupt { .. })), "{text:?}");
        }
        std::fs::write(view.ckpt_folder().join(LATEST), "step-00000012\n").unwrap();
        assert_eq!(view.latest().unwrap(), Some(12));
    }
}
