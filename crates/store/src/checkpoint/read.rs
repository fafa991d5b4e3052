//! Opening a checkpoint: nothing is handed out before its hash was checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;

use super::manifest::{FileFacts, MANIFEST, Manifest};
use super::{REPLACED, step_of};
use crate::tensors::{TensorFile, TensorView};
use crate::{Error, sha256_file};

/// A checkpoint on disk.
///
/// [`Checkpoint::open`] checks every file. [`Checkpoint::peek`] checks the manifest and the sizes,
/// and each file when it is first used: for programs that read a model and leave its optimizer
/// state alone.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    manifest: Manifest,
    checked: BTreeMap<String, OnceLock<()>>,
    opened: BTreeMap<String, OnceLock<TensorFile>>,
}

/// A checkpoint that was passed over on the way to the newest valid one.
#[derive(Debug)]
pub struct Skipped {
    /// Its step.
    pub step: u64,
    /// Why it cannot be used.
    pub error: Error,
}

impl Checkpoint {
    /// Opens a checkpoint's folder and checks the size and SHA-256 of every file.
    /// Fails with [`Error::Missing`], [`Error::Corrupt`] or [`Error::Io`], naming the file.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let checkpoint = Self::peek(folder)?;
        for name in checkpoint.manifest.files.keys() {
            checkpoint.check(name)?;
        }
        Ok(checkpoint)
    }

    /// Opens a checkpoint's folder and checks its manifest and the size of every file.
    pub fn peek(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(MANIFEST);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Missing { what: "a checkpoint manifest", path });
            }
            Err(e) => return Err(Error::at("read", &path)(e)),
        };
        let manifest = Manifest::unseal(&path, &text)?;
        check_step(folder, &path, &manifest)?;
        for (name, facts) in &manifest.files {
            check_size(&folder.join(name), facts)?;
        }
        let names = || manifest.files.keys().cloned();
        Ok(Checkpoint {
            folder: folder.to_path_buf(),
            checked: names().map(|name| (name, OnceLock::new())).collect(),
            opened: names().map(|name| (name, OnceLock::new())).collect(),
            manifest,
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Optimizer steps done.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A tensor file of the checkpoint, mapped once.
    /// Fails with [`Error::Missing`], [`Error::Corrupt`] or [`Error::Io`].
    pub fn tensors(&self, file: &str) -> Result<&TensorFile, Error> {
        let path = self.check(file)?;
        let cell = &self.opened[file];
        match cell.get() {
            Some(opened) => Ok(opened),
            None => {
                let opened = TensorFile::open(&path)?;
                Ok(cell.get_or_init(|| opened))
            }
        }
    }

    /// One tensor of one file, in place.
    pub fn tensor(&self, file: &str, name: &str) -> Result<TensorView<'_>, Error> {
        self.tensors(file)?.tensor(name)
    }

    /// A JSON file of the checkpoint. Fails with [`Error::Corrupt`] where it is no `T`.
    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, Error> {
        crate::read_json(&self.check(file)?)
    }

    /// The path of a file whose hash has been checked, now or before.
    pub fn check(&self, file: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(file);
        let (Some(facts), Some(cell)) = (self.manifest.files.get(file), self.checked.get(file))
        else {
            return Err(Error::Missing { what: "a file listed in the manifest", path });
        };
        if cell.get().is_none() {
            let sha256 = sha256_file(&path)?;
            if sha256 != facts.sha256 {
                let expected = format!("content with SHA-256 `{}`", facts.sha256);
                return Err(Error::corrupt(&path, expected, format!("`{sha256}`")));
            }
            cell.get_or_init(|| ());
        }
        Ok(path)
    }
}

/// A folder copied over another step's name would be resumed at the wrong step.
fn check_step(folder: &Path, path: &Path, manifest: &Manifest) -> Result<(), Error> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    match step_of(name.trim_end_matches(REPLACED)) {
        Some(step) if step != manifest.step => {
            Err(Error::corrupt(path, format!("step {step}"), format!("step {}", manifest.step)))
        }
        _ => Ok(()),
    }
}

fn check_size(path: &Path, facts: &FileFacts) -> Result<(), Error> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() == facts.bytes => Ok(()),
        Ok(metadata) => {
            let expected = format!("{} bytes", facts.bytes);
            Err(Error::corrupt(path, expected, format!("{} bytes", metadata.len())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Missing { what: "a file listed in the manifest", path: path.into() })
        }
        Err(e) => Err(Error::at("read", path)(e)),
    }
}
