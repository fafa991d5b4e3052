//! What a power cut may undo is never relied on: nothing gets its final name before its bytes are
//! on the device, and nothing old is deleted before the new name is.

mod common;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{create, fresh, keep_one, open, save};
use smidgen_store::{Disk, Files, Sink, write_text};

/// What the device does not know yet.
#[derive(Default)]
struct Pending {
    /// Files written and not synced.
    content: BTreeSet<PathBuf>,
    /// Final names given by a rename whose folder is not synced.
    names: BTreeSet<PathBuf>,
    renames: usize,
    removals: usize,
}

/// The real file system, with the rules asserted at every operation.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Pending>>);

struct WatchedSink {
    inner: Box<dyn Sink>,
    path: PathBuf,
    pending: Arc<Mutex<Pending>>,
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-"))
}

impl Watched {
    fn removing(&self, path: &Path) {
        let mut pending = self.0.lock().unwrap();
        pending.removals += 1;
        let names = &pending.names;
        assert!(names.is_empty(), "{path:?} removed while {names:?} may be lost");
    }

    fn sink(&self, inner: Box<dyn Sink>, path: &Path) -> Box<dyn Sink> {
        self.0.lock().unwrap().content.insert(path.to_path_buf());
        Box::new(WatchedSink { inner, path: path.to_path_buf(), pending: self.0.clone() })
    }
}

impl Write for WatchedSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.pending.lock().unwrap().content.insert(self.path.clone());
        self.inner.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Sink for WatchedSink {
    fn sync(&mut self) -> io::Result<()> {
        self.pending.lock().unwrap().content.remove(&self.path);
        self.inner.sync()
    }
}

impl Files for Watched {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        self.0.lock().unwrap().names.insert(path.to_path_buf());
        Ok(self.sink(Disk.create(path)?, path))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(self.sink(Disk.append(path)?, path))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        Disk.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if is_temporary(to) {
            self.removing(from);
        }
        let mut pending = self.0.lock().unwrap();
        let unsynced = pending.content.iter().find(|path| path.starts_with(from));
        assert!(unsynced.is_none(), "{to:?} named while {unsynced:?} may be lost");
        if from.is_dir() {
            let inside = pending.names.iter().find(|path| path.parent() == Some(from));
            assert!(inside.is_none(), "{to:?} named while {inside:?} may be lost");
        }
        pending.names.remove(from);
        if is_temporary(from) {
            pending.names.insert(to.to_path_buf());
            pending.renames += 1;
        }
        Disk.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().names.retain(|name| name.parent() != Some(path));
        Disk.sync_dir(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.removing(path);
        Disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.removing(path);
        Disk.remove_dir_all(path)
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        Disk.truncate(path, len)
    }
}

impl Watched {
    /// At the end of an operation that reported success, nothing is left to be lost.
    fn assert_durable(&self) {
        let pending = self.0.lock().unwrap();
        assert!(pending.content.is_empty(), "{:?}", pending.content);
        assert!(pending.names.is_empty(), "{:?}", pending.names);
    }
}

#[test]
fn a_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let files = Watched::default();
    for text in ["one", "two"] {
        write_text(&files, &dir.path().join("a"), text).unwrap();
        files.assert_durable();
    }
    assert_eq!(files.0.lock().unwrap().renames, 2);
}

#[test]
fn checkpoints_with_retention_and_replacement() {
    let (_dir, path) = fresh();
    drop(create(&path));
    let files = Watched::default();
    let run = open(files.clone(), &path).unwrap();
    for (step, salt) in [(1, 0), (2, 0), (2, 1), (3, 0)] {
        save(&run, step, salt, keep_one()).unwrap();
        files.assert_durable();
    }
    let pending = files.0.lock().unwrap();
    // Each save names a folder and two pointers; three of them delete what was before.
    assert_eq!(pending.renames, 12);
    assert_eq!(pending.removals, 6);
}
