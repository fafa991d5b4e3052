//! A run directory that this process owns.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::view::names;
use super::{BEST, LATEST, LOCK, RUN_TOML, RunView, lock};
use crate::atomic::{TEMPORARY, folder};
use crate::checkpoint::{REPLACED, remove_checkpoint, step_name, step_of};
use crate::{Checkpoint, CheckpointWriter, Error, Files, write_json, write_text};

/// A run directory, locked for this process and open for writing; everything that a
/// [`RunView`] reads it reads too.
///
/// ```
/// use smidgen_store::{Commit, Disk, RunDir};
/// use std::sync::Arc;
/// # let parent = tempfile::tempdir().unwrap();
/// let run = RunDir::create(Arc::new(Disk), &parent.path().join("runs/first"), "seed = 1\n")?;
/// let mut checkpoint = run.begin_checkpoint(100)?;
/// checkpoint.json("cursor.json", &100)?;
/// checkpoint.commit(Commit { keep_last: 2, ..Commit::default() })?;
/// assert_eq!(run.latest()?, Some(100));
/// # Ok::<(), smidgen_store::Error>(())
/// ```
pub struct RunDir {
    view: RunView,
    files: Arc<dyn Files>,
    _lock: File,
}

impl Deref for RunDir {
    type Target = RunView;

    fn deref(&self) -> &RunView {
        &self.view
    }
}

impl RunDir {
    /// Makes a new run at `path`, a new or empty folder; `run_toml` is the configuration as far
    /// as it is known, so that a run cut off at any later moment can be resumed.
    ///
    /// Fails with [`Error::RunExists`], [`Error::NotEmpty`], [`Error::InUse`] or [`Error::Io`].
    pub fn create(files: Arc<dyn Files>, path: &Path, run_toml: &str) -> Result<Self, Error> {
        refuse_occupied(path)?;
        files.create_dir_all(path).map_err(Error::at("create", path))?;
        let lock = lock::lock(path)?;
        // Once more under the lock: two creators may have seen the same empty folder.
        refuse_occupied(path)?;
        let run = RunDir { view: RunView::unchecked(path), files, _lock: lock };
        run.clean()?;
        run.write_text(RUN_TOML, run_toml)?;
        run.make_folders()?;
        let parent = folder(path);
        run.files.sync_dir(parent).map_err(Error::at("sync", parent))?;
        Ok(run)
    }

    /// Opens a run that exists, to go on with it: takes its lock, removes what a killed process
    /// left half-written and puts back what it left half-renamed.
    ///
    /// Fails with [`Error::Missing`], [`Error::NotARun`], [`Error::InUse`] or [`Error::Io`].
    pub fn open(files: Arc<dyn Files>, path: &Path) -> Result<Self, Error> {
        let view = RunView::open(path)?;
        let lock = lock::lock(path)?;
        let run = RunDir { view, files, _lock: lock };
        run.clean()?;
        run.make_folders()?;
        run.heal()?;
        Ok(run)
    }

    /// A run that exists, for reading, whether or not another process is writing it.
    pub fn read(path: &Path) -> Result<RunView, Error> {
        RunView::open(path)
    }

    /// The seam that this run writes through.
    pub fn files(&self) -> &dyn Files {
        &*self.files
    }

    pub(crate) fn files_handle(&self) -> Arc<dyn Files> {
        self.files.clone()
    }

    /// Replaces a text file of the run, all or nothing.
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), Error> {
        write_text(self.files(), &self.file(name), text)
    }

    /// Replaces a JSON file of the run, all or nothing.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        write_json(self.files(), &self.file(name), value)
    }

    /// Begins a checkpoint after `step` optimizer steps; nothing of it is seen before
    /// [`CheckpointWriter::commit`]. One of the same step is replaced.
    pub fn begin_checkpoint(&self, step: u64) -> Result<CheckpointWriter<'_>, Error> {
        CheckpointWriter::begin(self, step)
    }

    /// Points `ckpt/best` at a step.
    pub fn set_best(&self, step: u64) -> Result<(), Error> {
        self.point(BEST, step)
    }

    pub(crate) fn set_latest(&self, step: u64) -> Result<(), Error> {
        self.point(LATEST, step)
    }

    fn point(&self, name: &str, step: u64) -> Result<(), Error> {
        let path = self.ckpt_folder().join(name);
        write_text(self.files(), &path, &(step_name(step) + "\n"))
    }

    fn make_folders(&self) -> Result<(), Error> {
        for folder in [self.data_folder(), self.ckpt_folder()] {
            self.files.create_dir_all(&folder).map_err(Error::at("create", &folder))?;
        }
        self.files.sync_dir(self.path()).map_err(Error::at("sync", self.path()))
    }

    /// Removes temporaries; none is in use, for this process alone holds the lock.
    fn clean(&self) -> Result<(), Error> {
        for folder in self.folders_of_writes() {
            for name in names(&folder)?.iter().filter(|name| name.starts_with(TEMPORARY)) {
                self.remove(&folder.join(name))?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let removed = if path.is_dir() {
            self.files.remove_dir_all(path)
        } else {
            self.files.remove_file(path)
        };
        removed.map_err(Error::at("remove", path))
    }

    /// Finishes what a process killed between two renames had begun.
    fn heal(&self) -> Result<(), Error> {
        let ckpt = self.ckpt_folder();
        for name in names(&ckpt)? {
            let Some(step) = name.strip_suffix(REPLACED).and_then(step_of) else { continue };
            let (aside, folder) = (ckpt.join(&name), self.step_folder(step));
            if folder.exists() {
                remove_checkpoint(self, &aside)?;
            } else {
                self.files.rename(&aside, &folder).map_err(Error::at("rename", &aside))?;
            }
        }
        self.heal_best()
    }

    /// `best` is written after the checkpoint it names; a kill between the two left it behind.
    fn heal_best(&self) -> Result<(), Error> {
        let pointed = self.best().unwrap_or(None);
        for step in self.steps()? {
            if Some(step) <= pointed {
                return Ok(());
            }
            let marked = Checkpoint::peek(&self.step_folder(step));
            if marked.is_ok_and(|checkpoint| checkpoint.manifest().best) {
                return self.set_best(step);
            }
        }
        Ok(())
    }
}

/// A new run takes a new or empty folder; what a creation cut off at its start left is empty too.
fn refuse_occupied(path: &Path) -> Result<(), Error> {
    if path.is_file() {
        return Err(Error::NotARun { path: path.into(), got: "a file" });
    }
    if path.join(RUN_TOML).exists() {
        return Err(Error::RunExists { path: path.into() });
    }
    let ours = |name: &String| name == LOCK || name.starts_with(TEMPORARY);
    match names(path)?.into_iter().find(|name| !ours(name)) {
        Some(found) => Err(Error::NotEmpty { path: path.into(), found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Disk;
    use crate::run::{CKPT, DATA};
    use std::path::PathBuf;

    fn disk() -> Arc<dyn Files> {
        Arc::new(Disk)
    }

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs").join("a");
        (dir, path)
    }

    #[test]
    fn a_new_run_has_its_rooms() {
        let (_dir, path) = fresh();
        let run = RunDir::create(disk(), &path, "seed = 1\n").unwrap();
        assert_eq!(run.read_text(RUN_TOML).unwrap(), "seed = 1\n");
        assert!(path.join(DATA).is_dir() && path.join(CKPT).is_dir());
        assert!(run.steps().unwrap().is_empty());
        assert!(run.newest_valid().unwrap().is_none());
    }

    #[test]
    fn occupied_folders_are_refused() {
        let (_dir, path) = fresh();
        drop(RunDir::create(disk(), &path, "").unwrap());
        let error = RunDir::create(disk(), &path, "").err().unwrap();
        assert!(matches!(error, Error::RunExists { .. }));
        assert!(error.to_string().contains("--resume"), "{error}");

        let other = path.with_file_name("b");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("thesis.txt"), "years of work").unwrap();
        let error = RunDir::create(disk(), &other, "").err().unwrap();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        assert!(matches!(
            RunDir::create(disk(), &other.join("thesis.txt"), ""),
            Err(Error::NotARun { .. })
        ));
    }

    #[test]
    fn a_creation_cut_off_at_its_start_can_be_repeated() {
        let (_dir, path) = fresh();
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(LOCK), "").unwrap();
        std::fs::write(path.join(".tmp-run.toml-1"), "half").unwrap();
        RunDir::create(disk(), &path, "").unwrap();
        assert!(!path.join(".tmp-run.toml-1").exists());
    }

    #[test]
    fn one_owner_at_a_time() {
        let (_dir, path) = fresh();
        let run = RunDir::create(disk(), &path, "").unwrap();
        let error = RunDir::open(disk(), &path).err().unwrap();
        assert!(matches!(error, Error::InUse { .. }));
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        assert!(RunDir::read(&path).is_ok());
        drop(run);
        assert!(RunDir::open(disk(), &path).is_ok());
    }

    #[test]
    fn opening_cleans_and_heals() {
        let (_dir, path) = fresh();
        let run = RunDir::create(disk(), &path, "").unwrap();
        for (step, best) in [(1, false), (2, true)] {
            let mut writer = run.begin_checkpoint(step).unwrap();
            writer.json("cursor.json", &step).unwrap();
            let commit = crate::Commit { best, keep_last: 9, ..Default::default() };
            writer.commit(commit).unwrap();
        }
        drop(run);
        let ckpt = path.join(CKPT);
        std::fs::remove_file(ckpt.join(BEST)).unwrap();
        std::fs::rename(ckpt.join(step_name(1)), ckpt.join("step-00000001.old")).unwrap();
        std::fs::create_dir(ckpt.join(".tmp-step-00000003-9")).unwrap();
        std::fs::write(path.join(DATA).join(".tmp-shard-9"), "half").unwrap();
        // A reader finds what is aside without touching it.
        let view = RunDir::read(&path).unwrap();
        assert_eq!(view.steps().unwrap(), [2, 1]);
        assert_eq!(view.checkpoint(crate::Which::Step(1)).unwrap().step(), 1);

        let run = RunDir::open(disk(), &path).unwrap();
        assert_eq!(run.best().unwrap(), Some(2));
        let mut left = names(&ckpt).unwrap();
        left.sort();
        assert_eq!(left, ["best", "latest", "step-00000001", "step-00000002"]);
        assert!(names(&path.join(DATA)).unwrap().is_empty());
    }
}
