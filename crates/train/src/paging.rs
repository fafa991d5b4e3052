//! State that lies in a file of the run: made, filled and mapped before anything is allocated in it.
//!
//! The file has its full length on the disk before it is mapped, so that a full disk is an error here and
//! not the end of the process later. It has no name from then on: the system removes it with the
//! process, however that ends, and a run is resumed from its checkpoints as ever.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use smidgen_optim::Assignment;
use smidgen_store::Files;
use smidgen_tensor::{Device, Pages};

use crate::shape::param_specs;
use crate::{Error, Plan};

/// The file, while it has a name.
const STATE_PAGES: &str = "state.pages";

/// The device with room in a file for all state that the plan wants paged; itself where there is none.
///
/// # Errors
/// [`Error::Store`] when the file cannot be made, a full disk among the reasons; nothing is left then.
pub(crate) fn with_pages(
    device: Device,
    plan: &Plan,
    run: &Path,
    files: &dyn Files,
) -> Result<Device, Error> {
    let params = param_specs(&plan.spec, plan.config.train.weights);
    let assignment = Assignment::resolve(&plan.config.optim, &params)?;
    let paged = assignment.slot_bytes().filter(|(.., is_paged)| *is_paged);
    let bytes = Pages::file_bytes(paged.map(|(_, bytes, _)| bytes));
    if bytes == 0 {
        return Ok(device);
    }
    Ok(device.with_pages(pages(&run.join(STATE_PAGES), bytes, files)?))
}

/// A mapped file of so many zeros.
fn pages(path: &Path, bytes: usize, files: &dyn Files) -> Result<Pages, Error> {
    let mapped = make(path, bytes, files).and_then(|()| map(path));
    // Of no use any more, whether it is mapped or could not be made.
    let removed = files.remove_file(path);
    let io = |source| {
        Error::Store(smidgen_store::Error::Io { action: "make", path: path.to_path_buf(), source })
    };
    let pages = mapped.map_err(io)?;
    // Elsewhere a mapped file keeps its name, and the next run empties it.
    if cfg!(unix) {
        removed.map_err(io)?;
    }
    Ok(pages)
}

fn make(path: &Path, bytes: usize, files: &dyn Files) -> io::Result<()> {
    let mut file = files.create(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..bytes).step_by(zeros.len()) {
        file.write_all(&zeros[..zeros.len().min(bytes - at)])?;
    }
    file.sync()
}

fn map(path: &Path) -> io::Result<Pages> {
    Pages::map(&OpenOptions::new().read(true).write(true).open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_store::{Fault, Faulty};

    #[test]
    fn a_full_disk_is_an_error_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(STATE_PAGES);
        let counting = Faulty::counting();
        pages(&path, 3 << 20, &counting).unwrap();
        assert!(!path.exists() && counting.operations() > 4);
        for n in 0..counting.operations() {
            let error = pages(&path, 3 << 20, &Faulty::once(n, Fault::NoSpace)).unwrap_err();
            assert!(error.to_string().contains("state.pages"), "{error}");
            // But for the operation that was to remove it.
            assert!(!path.exists() || n + 1 == counting.operations(), "operation {n}");
        }
    }
}
