//! The one seam every write goes through, so that tests can make any of them fail.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// A file being written.
pub trait Sink: Write + Send {
    /// Flushes and forces the bytes to the device.
    fn sync(&mut self) -> io::Result<()>;
}

/// Everything this project ever does to a file system besides reading it.
pub trait Files: Send + Sync {
    /// Creates a file for writing; an older one of that name is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Opens a file for appending; creates it if it is not there.
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Creates a folder and its parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or folder; a file of the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Forces a folder's entries to the device, so that a rename in it survives a power cut.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all it holds.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Cuts a file to `len` bytes.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Sink for fs::File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Files for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(fs::File::create(path)?))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(fs::OpenOptions::new().append(true).create(true).open(path)?))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if cfg!(windows) {
            // Folders cannot be opened there; its renames are ordered by the file system alone.
            return Ok(());
        }
        fs::File::open(path)?.sync_all()
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(path)?.set_len(len)
    }
}
