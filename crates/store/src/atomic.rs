//! Whole files, all or nothing: temporary name, fsync, rename, fsync of the folder.
//!
//! After a crash at any moment a reader finds the old content or the new one, never a mixture.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Files};

/// Names that begin so belong to a write in progress, or to one that was cut off.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Bytes gathered before the operating system is asked.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;

/// Replaces the file at `path` by what `write` writes, all or nothing.
///
/// The folder must exist. On failure the temporary file is removed and the old file is untouched;
/// only when the last step, the folder's fsync, fails is the new file in place but not yet durable.
/// Fails with [`Error::Io`].
pub fn write_atomic(
    files: &dyn Files,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    write_whole(files, path, |out| write(out).map_err(Error::at("write", path)))
}

/// [`write_atomic`] for a writer with errors of its own kind.
pub fn write_whole<E: From<Error>>(
    files: &dyn Files,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary(path);
    let renamed = || files.rename(&temporary, path).map_err(Error::at("rename into", path));
    let written = fill(files, &temporary, path, write).and_then(|()| Ok(renamed()?));
    if written.is_err() {
        // The first error is the one to tell; an orphan is cleaned when the run is next opened.
        let _ = files.remove_file(&temporary);
    }
    written?;
    let folder = folder(path);
    Ok(files.sync_dir(folder).map_err(Error::at("sync", folder))?)
}

/// Makes the folder `path`, which must be new or empty, with all that `fill` puts into it, or
/// nothing at all: `fill` gets a folder with a temporary name beside it.
///
/// Fails with [`Error::NotEmpty`] where something is there already, with [`Error::Io`], and as
/// `fill` does.
pub fn write_folder<E: From<Error>>(
    files: &dyn Files,
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    check_new(path)?;
    let (temporary, parent) = (temporary(path), folder(path));
    let finish = || -> Result<(), Error> {
        files.sync_dir(&temporary).map_err(Error::at("sync", path))?;
        files.rename(&temporary, path).map_err(Error::at("rename into", path))
    };
    let made = files.create_dir_all(&temporary).map_err(Error::at("create", path));
    let made = made.map_err(E::from).and_then(|()| fill(&temporary)).and_then(|()| Ok(finish()?));
    if made.is_err() {
        // The first error is the one to tell.
        let _ = files.remove_dir_all(&temporary);
    }
    made?;
    Ok(files.sync_dir(parent).map_err(Error::at("sync", parent))?)
}

/// Whether something can be made at `path`: nothing is there, or an empty folder.
/// Fails with [`Error::NotEmpty`] naming what is there, and with [`Error::Io`].
pub fn check_new(path: &Path) -> Result<(), Error> {
    let taken = |found: String| Err(Error::NotEmpty { path: path.into(), found });
    match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            Some(Ok(entry)) => taken(entry.file_name().to_string_lossy().into_owned()),
            Some(Err(error)) => Err(Error::at("read", path)(error)),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory && path.exists() => {
            Err(Error::Exists { path: path.into() })
        }
        Err(error) => Err(Error::at("read", path)(error)),
    }
}

/// [`write_atomic`] of a text.
pub fn write_text(files: &dyn Files, path: &Path, text: &str) -> Result<(), Error> {
    write_atomic(files, path, |out| out.write_all(text.as_bytes()))
}

/// [`write_atomic`] of a value as indented JSON with a final newline.
/// Fails with [`Error::Serialise`] where the value has no JSON form.
pub fn write_json(files: &dyn Files, path: &Path, value: &impl Serialize) -> Result<(), Error> {
    write_text(files, path, &json_text(path, value)?)
}

pub(crate) fn json_text(path: &Path, value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Serialise { path: path.into(), message: e.to_string() })?;
    Ok(text + "\n")
}

/// Writes and syncs one file under its own name; errors name it `shown`.
fn fill<E: From<Error>>(
    files: &dyn Files,
    path: &Path,
    shown: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let sink = files.create(path).map_err(Error::at("write", shown))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, sink);
    let flush = |out: &mut dyn Write| out.flush().map_err(Error::at("write", shown));
    let written = write(&mut out).and_then(|()| Ok(flush(&mut out)?));
    // `into_parts` instead of a drop: a drop would try to write the rest once more.
    let (mut sink, _) = out.into_parts();
    written?;
    Ok(sink.sync().map_err(Error::at("write", shown))?)
}

/// The temporary name of `path`: same folder, hence same file system, so that a rename is atomic.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or(OsStr::new("unnamed")).to_string_lossy();
    path.with_file_name(format!("{TEMPORARY}{name}-{}", std::process::id()))
}

/// The folder a path lies in; `.` for a bare name.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, Fault, Faulty};

    #[test]
    fn replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for text in ["", "one", "two"] {
            write_text(&Disk, &path, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failing_writer_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_text(&Disk, &path, "old").unwrap();
        let error = write_atomic(&Disk, &path, |out| {
            out.write_all(b"new")?;
            Err(io::Error::other("changed my mind"))
        });
        assert!(error.unwrap_err().to_string().contains("changed my mind"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_fault_at_every_operation_leaves_old_or_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let counting = Faulty::counting();
        let new = "n".repeat(BUFFER_BYTES * 2 + 3);
        let save = |files: &dyn Files| {
            // Three writes, so that a short one can fall between two whole ones.
            write_atomic(files, &path, |out| {
                new.as_bytes().chunks(BUFFER_BYTES).try_for_each(|piece| out.write_all(piece))
            })
        };
        save(&counting).unwrap();
        assert!(counting.operations() >= 6, "{}", counting.operations());

        for fault in Fault::ALL {
            for n in 0..counting.operations() {
                for files in [Faulty::once(n, fault), Faulty::from(n, fault)] {
                    write_text(&Disk, &path, "old").unwrap();
                    let error = save(&files).expect_err("the fault is within the save");
                    let message = error.to_string();
                    assert!(message.contains(&*dir.path().to_string_lossy()), "{message}");
                    let text = std::fs::read_to_string(&path).unwrap();
                    assert!(text == "old" || text == new, "{fault:?} at {n}: torn file");
                }
            }
            assert!(save(&Faulty::once(counting.operations(), fault)).is_ok());
        }
    }

    #[test]
    fn a_single_fault_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for n in 0..4 {
            assert!(write_text(&Faulty::once(n, Fault::NoSpace), &path, "text").is_err());
            let names = std::fs::read_dir(dir.path()).unwrap();
            for name in names {
                assert_eq!(name.unwrap().file_name(), "a");
            }
        }
    }

    #[test]
    fn every_fault_leaves_a_whole_folder_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let save = |files: &dyn Files| {
            write_folder(files, &path, |folder| {
                write_text(files, &folder.join("a"), "1")?;
                write_text(files, &folder.join("b"), "2")
            })
        };
        let counting = Faulty::counting();
        save(&counting).unwrap();
        for fault in Fault::ALL {
            for n in 0..counting.operations() {
                std::fs::remove_dir_all(&path).unwrap_or_default();
                save(&Faulty::once(n, fault)).expect_err("the fault is within the save");
                let names = std::fs::read_dir(dir.path()).unwrap().map(|name| name.unwrap().path());
                let names: Vec<PathBuf> = names.collect();
                assert!(names.iter().all(|name| *name == path), "{fault:?} at {n}: {names:?}");
                if path.exists() {
                    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2, "{fault:?} at {n}");
                }
            }
        }
    }

    #[test]
    fn what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let save = || write_folder::<Error>(&Disk, &path, |_| Ok(()));
        save().unwrap();
        save().expect("an empty folder is as good as none");
        std::fs::write(path.join("mine"), "text").unwrap();
        let error = save().unwrap_err().to_string();
        assert!(error.contains("`mine`") && error.contains("--out"), "{error}");
        let error = check_new(&path.join("mine")).unwrap_err().to_string();
        assert!(error.contains("expected a new file or folder"), "{error}");
    }

    #[test]
    fn bare_names_lie_in_the_current_folder() {
        assert_eq!(folder(Path::new("a")), Path::new("."));
        assert_eq!(folder(Path::new("b/a")), Path::new("b"));
    }
}
