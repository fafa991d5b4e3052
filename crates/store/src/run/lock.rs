//! The operating system's lock on a run: it ends with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use super::LOCK;
use crate::Error;

/// Takes the lock of the run at `run`; it is held as long as the file is open.
///
/// The lock file is empty, and the only file of a run that is not written through the seam.
/// Fails with [`Error::InUse`] where another process (or another handle of this one) holds it.
pub(super) fn lock(run: &Path) -> Result<File, Error> {
    let path = run.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(Error::at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: run.to_path_buf() }),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
            // Some network file systems have no locks; a run there is better than none.
            tracing::warn!(path = %path.display(), "no locks on this file system");
            Ok(file)
        }
        Err(TryLockError::Error(e)) => Err(Error::at("lock", &path)(e)),
    }
}

/// Whether a process is writing the run at `run`. Asked with a shared lock, which other readers may
/// hold as well; a writer that starts in that moment would see the run in use.
pub(super) fn is_locked(run: &Path) -> bool {
    let Ok(file) = File::open(run.join(LOCK)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}
