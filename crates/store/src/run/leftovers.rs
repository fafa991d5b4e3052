//! What a run directory holds that nobody will miss. Results are never among it: a run with a
//! checkpoint or with a file that its owner calls a result stays, and so does every file of another
//! name than those that runs have.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::view::names;
use super::{
    CKPT, DATA, ENV_JSON, EVENTS, LEDGER_JSON, LOCK, METRICS_JSONL, PLAN_JSON, REQUEST_JSON,
    RUN_TOML, RunView,
};
use crate::atomic::{TEMPORARY, temporary};
use crate::checkpoint::replaced;
use crate::{Checkpoint, Error, Files};

/// What runs make before their first checkpoint.
const BEGINNINGS: [&str; 10] = [
    RUN_TOML,
    REQUEST_JSON,
    PLAN_JSON,
    ENV_JSON,
    LEDGER_JSON,
    METRICS_JSONL,
    LOCK,
    DATA,
    CKPT,
    EVENTS,
];

/// Why something may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waste {
    /// A run that ended before its first checkpoint.
    Beginning,
    /// What a killed process had half-written.
    Temporary,
    /// A damaged checkpoint, or the half of a replacement, with a sound newer one beside it.
    Checkpoint,
}

impl Waste {
    /// The words for people.
    pub fn name(self) -> &'static str {
        match self {
            Waste::Beginning => "run without a checkpoint",
            Waste::Temporary => "half-written",
            Waste::Checkpoint => "damaged checkpoint",
        }
    }
}

/// A file or folder that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// Why it may go.
    pub waste: Waste,
    /// Bytes of its files.
    pub bytes: u64,
}

impl Leftover {
    fn new(path: PathBuf, waste: Waste) -> Leftover {
        Leftover { bytes: size_bytes(&path), path, waste }
    }
}

impl RunView {
    /// What nobody will miss, nothing while the run is in use. `results` are names of files that
    /// make a run one with results.
    ///
    /// Fails with [`Error::Io`].
    pub fn leftovers(&self, results: &[&str]) -> Result<Vec<Leftover>, Error> {
        if self.is_in_use() { Ok(Vec::new()) } else { self.waste(results) }
    }

    fn waste(&self, results: &[&str]) -> Result<Vec<Leftover>, Error> {
        let steps = self.steps()?;
        if steps.is_empty() && self.is_only_a_beginning(results)? {
            return Ok(vec![Leftover::new(self.path().to_path_buf(), Waste::Beginning)]);
        }
        let mut found = Vec::new();
        for folder in self.folders_of_writes() {
            let temporaries =
                names(&folder)?.into_iter().filter(|name| name.starts_with(TEMPORARY));
            found
                .extend(temporaries.map(|name| Leftover::new(folder.join(name), Waste::Temporary)));
        }
        // Not the best one: somebody may still want to save what can be saved of that.
        let best = self.best().unwrap_or(None);
        let wastes = |step: &u64| self.waste_of(*step).map(|path| (*step, path));
        let wastes: Vec<(u64, PathBuf)> =
            steps.iter().filter(|step| Some(**step) != best).filter_map(wastes).collect();
        if !wastes.is_empty() {
            // Only what is older than a checkpoint of which every byte was checked.
            let newest = self.newest_valid().ok().flatten().map(|(newest, _)| newest.step());
            let older = wastes.into_iter().filter(|(step, _)| Some(*step) < newest);
            found.extend(older.map(|(_, path)| Leftover::new(path, Waste::Checkpoint)));
        }
        Ok(found)
    }

    /// A step's checkpoint where it is damaged, or the half of a replacement beside it.
    fn waste_of(&self, step: u64) -> Option<PathBuf> {
        let folder = self.step_folder(step);
        let aside = replaced(&folder);
        if is_damaged(&folder) {
            return Some(folder);
        }
        (folder.exists() && aside.exists()).then_some(aside)
    }

    /// Whether nothing is in the folder but what every run begins with.
    fn is_only_a_beginning(&self, results: &[&str]) -> Result<bool, Error> {
        let is_temporary = |name: &String| name.starts_with(TEMPORARY);
        let known = |name: &String| {
            let begun = BEGINNINGS.contains(&name.as_str()) || is_temporary(name);
            begun && !results.contains(&name.as_str())
        };
        // A pointer to a checkpoint that is gone tells of one that was there.
        let no_checkpoint = names(&self.ckpt_folder())?.iter().all(is_temporary);
        Ok(no_checkpoint && names(self.path())?.iter().all(known))
    }
}

/// A manifest or a size that is wrong: sure damage, found without reading gigabytes.
fn is_damaged(checkpoint: &Path) -> bool {
    checkpoint.exists()
        && matches!(
            Checkpoint::peek(checkpoint),
            Err(Error::Missing { .. } | Error::Corrupt { .. })
        )
}

/// Removes what [`RunView::leftovers`] finds, found once more under the run's lock.
///
/// Fails as [`RunDir::open`](crate::RunDir::open) does, so with [`Error::InUse`] where a process has the run.
pub fn remove_leftovers(
    files: Arc<dyn Files>,
    run: &Path,
    results: &[&str],
) -> Result<Vec<Leftover>, Error> {
    let view = RunView::open(run)?;
    let lock = super::lock::lock(run)?;
    let found = view.waste(results)?;
    for leftover in &found {
        remove(&*files, &leftover.path)?;
    }
    drop(lock);
    Ok(found)
}

/// Out of sight first, so that a removal cut off half-way leaves no half of a run.
fn remove(files: &dyn Files, path: &Path) -> Result<(), Error> {
    let is_temporary =
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY));
    let hidden = if is_temporary { path.to_path_buf() } else { temporary(path) };
    if !is_temporary {
        files.rename(path, &hidden).map_err(Error::at("rename", path))?;
    }
    let removed =
        if hidden.is_dir() { files.remove_dir_all(&hidden) } else { files.remove_file(&hidden) };
    removed.map_err(Error::at("remove", path))
}

/// Bytes of a file, or of all files below a folder; what cannot be read counts nothing.
pub fn size_bytes(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            fs::read_dir(path).into_iter().flatten().flatten().map(|e| size_bytes(&e.path())).sum()
        }
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Commit, Disk, Fault, Faulty, RunDir};

    const RESULTS: [&str; 1] = ["outcome.json"];

    fn run(dir: &Path) -> RunDir {
        RunDir::create(Arc::new(Disk), &dir.join("run"), "seed = 1\n").unwrap()
    }

    fn checkpoint(run: &RunDir, step: u64) {
        let mut writer = run.begin_checkpoint(step).unwrap();
        writer.json("cursor.json", &step).unwrap();
        writer.commit(Commit { keep_last: 9, ..Commit::default() }).unwrap();
    }

    fn found(path: &Path) -> Vec<(String, Waste)> {
        let view = RunView::open(path).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let leftovers = view.leftovers(&RESULTS).unwrap();
        leftovers.iter().map(|leftover| (name(&leftover.path), leftover.waste)).collect()
    }

    fn cleaned(path: &Path) -> Vec<Leftover> {
        remove_leftovers(Arc::new(Disk), path, &RESULTS).unwrap()
    }

    #[test]
    fn a_run_without_a_checkpoint_goes_but_not_while_it_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        let path = run.path().to_path_buf();
        assert_eq!(found(&path), []);
        let held = remove_leftovers(Arc::new(Disk), &path, &RESULTS);
        assert!(matches!(held, Err(Error::InUse { .. })));
        drop(run);
        assert_eq!(found(&path), [("run".into(), Waste::Beginning)]);
        assert_eq!(cleaned(&path)[0].bytes, 9);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn results_and_foreign_files_keep_a_run() {
        for kept in ["outcome.json", "notes.txt", "ckpt/best", "ckpt/step-00000001.old"] {
            let dir = tempfile::tempdir().unwrap();
            let path = run(dir.path()).path().to_path_buf();
            fs::write(path.join(kept), "").unwrap();
            assert_eq!(found(&path), [], "{kept}");
            assert!(cleaned(&path).is_empty() && path.join(RUN_TOML).exists(), "{kept}");
        }
    }

    #[test]
    fn of_a_run_with_checkpoints_only_what_is_broken_and_surpassed_goes() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(dir.path());
        (1..=5).for_each(|step| checkpoint(&run, step));
        run.set_best(2).unwrap();
        for step in [1, 2, 5] {
            // Of the best one and of the newest one there may still be something to save.
            fs::write(run.step_folder(step).join("cursor.json"), "").unwrap();
        }
        fs::create_dir(replaced(&run.step_folder(3))).unwrap();
        fs::write(run.data_folder().join(".tmp-shard-1"), "half").unwrap();
        let path = run.path().to_path_buf();
        drop(run);
        let expected = [
            (".tmp-shard-1", Waste::Temporary),
            ("step-00000003.old", Waste::Checkpoint),
            ("step-00000001", Waste::Checkpoint),
        ];
        assert_eq!(found(&path), expected.map(|(name, waste)| (name.to_string(), waste)));
        assert_eq!(cleaned(&path).len(), 3);
        assert_eq!(RunView::open(&path).unwrap().steps().unwrap(), [5, 4, 3, 2]);
        assert_eq!(found(&path), []);
    }

    #[test]
    fn a_removal_that_fails_takes_no_half_of_a_run() {
        for n in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let path = run(dir.path()).path().to_path_buf();
            let files = Arc::new(Faulty::once(n, Fault::Device));
            let error = remove_leftovers(files, &path, &RESULTS).unwrap_err();
            assert!(matches!(error, Error::Io { action: "rename" | "remove", .. }), "{error}");
            assert_eq!(path.join(RUN_TOML).exists(), n == 0);
        }
    }
}
