//! Saving a checkpoint so that at no moment there is none.
//!
//! Order: files and manifest into a folder with a temporary name, each forced to the device; the
//! folder's rename; `best`, then `latest`; only then are older checkpoints deleted, each renamed
//! out of sight first, so that a half-deleted one is never taken for a checkpoint.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::REPLACED;
use super::manifest::{FileFacts, MANIFEST, Manifest, is_plain};
use crate::atomic::{BUFFER_BYTES, json_text, temporary};
use crate::hash::Hashed;
use crate::tensors::{TensorInfo, write_tensors};
use crate::{Error, Files, RunDir};

/// How a checkpoint is entered into its run.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Whether `best` is to point at it.
    pub best: bool,
    /// How many of the newest checkpoints stay, this one included. The one that `best` names
    /// stays besides.
    pub keep_last: usize,
    /// What the writer wants to find again in the manifest.
    pub facts: serde_json::Value,
}

/// A checkpoint being written. Dropped before [`CheckpointWriter::commit`], it leaves nothing.
pub struct CheckpointWriter<'run> {
    run: &'run RunDir,
    step: u64,
    folder: PathBuf,
    files: BTreeMap<String, FileFacts>,
}

impl<'run> CheckpointWriter<'run> {
    pub(crate) fn begin(run: &'run RunDir, step: u64) -> Result<Self, Error> {
        let folder = temporary(&run.step_folder(step));
        let files = run.files();
        if folder.exists() {
            // This process failed here before and could not clean up.
            files.remove_dir_all(&folder).map_err(Error::at("remove", &folder))?;
        }
        files.create_dir_all(&folder).map_err(Error::at("create", &folder))?;
        Ok(CheckpointWriter { run, step, folder, files: BTreeMap::new() })
    }

    /// Adds a safetensors file, such as `model.safetensors`. `data(index, out)` writes the bytes
    /// of `infos[index]` from where they live; see [`write_tensors`] for order and errors.
    pub fn tensors(
        &mut self,
        file: &str,
        infos: &[TensorInfo],
        data: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        let shown = self.run.step_folder(self.step).join(file);
        self.add(file, |out| write_tensors(out, &shown, infos, &[], data))
    }

    /// Adds a JSON file, such as `cursor.json`.
    pub fn json(&mut self, file: &str, value: &impl Serialize) -> Result<(), Error> {
        let shown = self.run.step_folder(self.step).join(file);
        let text = json_text(&shown, value)?;
        self.add(file, |out| out.write_all(text.as_bytes()).map_err(Error::at("write", &shown)))
    }

    fn add(
        &mut self,
        file: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<(), Error> {
        assert!(is_plain(file) && file != MANIFEST, "a checkpoint file has a plain name");
        let facts = write_hashed(self.run.files(), &self.folder.join(file), write)?;
        self.files.insert(file.to_string(), facts);
        Ok(())
    }

    /// Makes the checkpoint part of its run, points `latest` (and `best`) at it and deletes what
    /// is no longer to be kept: everything but the last `keep_last` up to this step and the best.
    /// Later steps go too: they belong to a course that was given up when an older one was resumed.
    ///
    /// On failure the run still has a valid checkpoint, and the error names the file.
    pub fn commit(mut self, commit: Commit) -> Result<(), Error> {
        let mut manifest = Manifest::new(self.step, std::mem::take(&mut self.files), commit.best);
        manifest.facts = commit.facts;
        let text = manifest.seal();
        let path = self.folder.join(MANIFEST);
        write_hashed(self.run.files(), &path, |out| {
            out.write_all(text.as_bytes()).map_err(Error::at("write", &path))
        })?;
        self.install()?;
        if commit.best {
            self.run.set_best(self.step)?;
        }
        self.run.set_latest(self.step)?;
        retain(self.run, self.step, commit.keep_last)
    }

    /// Gives the finished folder its name; an older checkpoint of the same step steps aside and
    /// can be read under its other name until then.
    fn install(&self) -> Result<(), Error> {
        let files = self.run.files();
        let folder = self.run.step_folder(self.step);
        let aside = replaced(&folder);
        files.sync_dir(&self.folder).map_err(Error::at("sync", &self.folder))?;
        if folder.exists() {
            remove_checkpoint(self.run, &aside)?;
            files.rename(&folder, &aside).map_err(Error::at("rename", &folder))?;
        }
        if let Err(error) = files.rename(&self.folder, &folder) {
            // Should this fail as well, readers and the next opening know the other name.
            let _ = files.rename(&aside, &folder);
            return Err(Error::at("rename into", &folder)(error));
        }
        let parent = self.run.ckpt_folder();
        files.sync_dir(&parent).map_err(Error::at("sync", &parent))?;
        remove_checkpoint(self.run, &aside)
    }
}

impl Drop for CheckpointWriter<'_> {
    fn drop(&mut self) {
        // After a commit the folder has another name. What cannot be removed now is an orphan
        // that the next opening of the run cleans.
        if self.folder.exists() {
            let _ = self.run.files().remove_dir_all(&self.folder);
        }
    }
}

/// The name of a checkpoint while another takes its place.
pub(crate) fn replaced(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(REPLACED);
    name.into()
}

/// Writes and syncs one file, and describes it without reading it again.
fn write_hashed(
    files: &dyn Files,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<FileFacts, Error> {
    let sink = files.create(path).map_err(Error::at("create", path))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, Hashed::new(sink));
    let written = write(&mut out).and_then(|()| out.flush().map_err(Error::at("write", path)));
    // `into_parts` instead of a drop: a drop would try to write the rest once more.
    let (hashed, _) = out.into_parts();
    written?;
    let (mut sink, bytes, sha256) = hashed.finish();
    sink.sync().map_err(Error::at("sync", path))?;
    Ok(FileFacts { bytes, sha256 })
}

/// Deletes all but the last `keep_last` checkpoints up to `step`, and those pointed at.
fn retain(run: &RunDir, step: u64, keep_last: usize) -> Result<(), Error> {
    let (best, steps) = (run.best()?, run.steps()?);
    let keep: Vec<u64> =
        steps.iter().copied().filter(|s| *s <= step).take(keep_last.max(1)).chain(best).collect();
    for old in steps.iter().filter(|s| !keep.contains(s)) {
        let folder = run.step_folder(*old);
        remove_checkpoint(run, &folder)?;
        remove_checkpoint(run, &replaced(&folder))?;
    }
    Ok(())
}

/// Renames a checkpoint out of sight, then deletes it.
pub(crate) fn remove_checkpoint(run: &RunDir, folder: &Path) -> Result<(), Error> {
    if !folder.exists() {
        return Ok(());
    }
    let hidden = temporary(folder);
    let files = run.files();
    if hidden.exists() {
        // A removal that failed half-way, earlier in this process.
        files.remove_dir_all(&hidden).map_err(Error::at("remove", &hidden))?;
    }
    files.rename(folder, &hidden).map_err(Error::at("rename", folder))?;
    files.remove_dir_all(&hidden).map_err(Error::at("remove", folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::step_name;

    #[test]
    fn a_replaced_checkpoint_keeps_its_step_in_the_name() {
        let path = Path::new("ckpt").join(step_name(5));
        assert_eq!(replaced(&path), Path::new("ckpt/step-00000005.old"));
    }
}
