//! A disk that fails on command, so that tests can walk every operation of a write.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::{Disk, Files, Sink};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space is left on the device.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// The device reports an error.
    Device,
    /// A write leaves half of its bytes and then fails; any other operation fails whole.
    ShortWrite,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 4] = [Fault::NoSpace, Fault::ReadOnly, Fault::Device, Fault::ShortWrite];

    fn error(self) -> io::Error {
        match self {
            Fault::NoSpace | Fault::ShortWrite => io::ErrorKind::StorageFull.into(),
            Fault::ReadOnly => io::ErrorKind::ReadOnlyFilesystem.into(),
            Fault::Device => io::Error::other("input/output error"),
        }
    }
}

/// When which operations fail; shared by a [`Faulty`] and the files it opened.
#[derive(Debug)]
struct Script {
    done: AtomicUsize,
    first: usize,
    last: usize,
    fault: Fault,
}

impl Script {
    /// Counts one operation and says whether it fails.
    fn next(&self) -> Result<(), Fault> {
        let n = self.done.fetch_add(1, SeqCst);
        if (self.first..=self.last).contains(&n) { Err(self.fault) } else { Ok(()) }
    }

    fn check(&self) -> io::Result<()> {
        self.next().map_err(Fault::error)
    }
}

/// The real file system with a fault at a chosen operation.
///
/// Every call of [`Files`] and every write and sync of an open file is one operation, counted
/// from 0. A test counts them once with [`Faulty::counting`] and then fails each in turn.
/// Nothing is forced to the device, so a test of many writes is quick.
///
/// ```
/// use smidgen_store::{Fault, Faulty, write_text};
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("a");
/// assert!(write_text(&Faulty::once(2, Fault::NoSpace), &path, "never").is_err());
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Faulty {
    script: Arc<Script>,
}

impl Faulty {
    /// Never fails, only counts.
    pub fn counting() -> Self {
        Self::between(usize::MAX, usize::MAX, Fault::Device)
    }

    /// Fails at operation `n` alone, as a passing trouble does.
    pub fn once(n: usize, fault: Fault) -> Self {
        Self::between(n, n, fault)
    }

    /// Fails from operation `n` on. Clean-up fails too, so the disk is left as a killed process
    /// or a power cut would leave it.
    pub fn from(n: usize, fault: Fault) -> Self {
        Self::between(n, usize::MAX, fault)
    }

    fn between(first: usize, last: usize, fault: Fault) -> Self {
        Faulty { script: Arc::new(Script { done: AtomicUsize::new(0), first, last, fault }) }
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> usize {
        self.script.done.load(SeqCst)
    }

    fn sink(&self, inner: Box<dyn Sink>) -> Box<dyn Sink> {
        Box::new(FaultySink { inner, script: self.script.clone() })
    }
}

struct FaultySink {
    inner: Box<dyn Sink>,
    script: Arc<Script>,
}

impl Write for FaultySink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Err(fault) = self.script.next() {
            if fault == Fault::ShortWrite {
                self.inner.write_all(&buf[..buf.len() / 2])?;
            }
            return Err(fault.error());
        }
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Sink for FaultySink {
    fn sync(&mut self) -> io::Result<()> {
        // Counted, not done: a test reads through the same cache, and forcing bytes to the device
        // would only take time.
        self.script.check()
    }
}

impl Files for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        self.script.check()?;
        Disk.create(path).map(|sink| self.sink(sink))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        self.script.check()?;
        Disk.append(path).map(|sink| self.sink(sink))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.script.check()?;
        Disk.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.script.check()?;
        Disk.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.script.check()?;
        // As for a file: counted, not done. A folder that is not there is still an error.
        path.metadata().map(|_| ())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.script.check()?;
        Disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.script.check()?;
        Disk.remove_dir_all(path)
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.script.check()?;
        Disk.truncate(path, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_write_leaves_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let files = Faulty::once(1, Fault::ShortWrite);
        let mut sink = files.create(&path).unwrap();
        assert_eq!(sink.write_all(b"abcd").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&path).unwrap(), b"ab");
        sink.write_all(b"!").unwrap();
        assert_eq!(files.operations(), 3);
    }

    #[test]
    fn once_passes_and_from_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        let once = Faulty::once(0, Fault::ReadOnly);
        assert!(once.create_dir_all(&folder).is_err());
        assert!(once.create_dir_all(&folder).is_ok());
        let from = Faulty::from(1, Fault::Device);
        assert!(from.sync_dir(&folder).is_ok());
        assert!(from.sync_dir(&folder).is_err());
        assert!(from.remove_dir_all(&folder).is_err());
    }
}
