//! What a program sees of the file system: a short list of folders, each at its own path.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where distributions keep shared libraries and the dynamic loader.
const LIBRARIES: &[&str] = &["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store"];

/// The folder the program may write to.
pub(super) const WORK: &str = "sandbox";

/// Something of the outside that is shown inside.
pub(super) struct Bind {
    /// Absolute path outside.
    pub(super) source: CString,
    /// The same path, relative to the new root.
    pub(super) target: CString,
    /// Whether an empty file, rather than a folder, is to be put there to mount on.
    pub(super) file: bool,
}

/// The new root as a list of things to make, in this order; all paths relative to it.
#[derive(Default)]
pub(super) struct View {
    /// Folders, parents first.
    pub(super) folders: Vec<CString>,
    /// Symbolic links: what they say, where they are.
    pub(super) links: Vec<(CString, CString)>,
    /// Read-only mounts.
    pub(super) binds: Vec<Bind>,
}

impl View {
    /// The system's libraries, `/dev/null` and the named paths.
    pub(super) fn of(readable: &[PathBuf]) -> io::Result<View> {
        let libraries = LIBRARIES.iter().map(PathBuf::from).filter(|path| path.exists());
        let mut paths = BTreeSet::new();
        let mut links = BTreeSet::new();
        for path in libraries.chain(["/dev/null".into()]).chain(readable.iter().cloned()) {
            if let Ok(target) = fs::read_link(&path) {
                links.insert((target, path.clone()));
            }
            paths.insert(path.canonicalize()?);
        }
        let mut view = View::default();
        // Sorted: what lies below something already shown needs no mount of its own.
        let mut outermost: Vec<PathBuf> = Vec::new();
        for path in paths {
            if !outermost.last().is_some_and(|outer| path.starts_with(outer)) {
                outermost.push(path);
            }
        }
        let link_paths = links.iter().map(|(_, path)| path);
        view.folders = parents(outermost.iter().chain(link_paths))?;
        view.folders.push(c_path(Path::new(WORK))?);
        for (target, path) in &links {
            // A link below a mount is seen through it.
            if !outermost.iter().any(|outer| path.starts_with(outer)) {
                view.links.push((c_path(target)?, inside(path)?));
            }
        }
        for path in &outermost {
            let file = !fs::metadata(path)?.is_dir();
            view.binds.push(Bind { source: c_path(path)?, target: inside(path)?, file });
        }
        Ok(view)
    }
}

/// All folders above the given paths, parents first.
fn parents<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> io::Result<Vec<CString>> {
    let all: BTreeSet<&Path> = paths.flat_map(|path| path.ancestors().skip(1)).collect();
    all.into_iter().filter(|path| path.parent().is_some()).map(inside).collect()
}

/// `/usr/lib` -> `usr/lib`.
fn inside(path: &Path) -> io::Result<CString> {
    c_path(path.strip_prefix("/").unwrap_or(path))
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &CString) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn folders_come_before_what_lies_in_them_and_mounts_do_not_nest() {
        let folder = tempfile::tempdir().unwrap();
        let outer = folder.path().canonicalize().unwrap();
        let inner = outer.join("inner");
        fs::create_dir(&inner).unwrap();
        let link = outer.join("link");
        std::os::unix::fs::symlink("inner", &link).unwrap();
        let view = View::of(&[inner, link, outer.clone()]).unwrap();
        let shown = |path: &Path| {
            let target = inside(path).unwrap();
            view.binds.iter().filter(|bind| bind.target == target).count()
        };
        assert_eq!(shown(&outer), 1);
        assert_eq!(shown(&outer.join("inner")), 0);
        assert_eq!(shown(Path::new("/dev/null")), 1);
        assert!(!view.links.iter().any(|(_, path)| text(path).ends_with("link")));
        for (index, folder) in view.folders.iter().enumerate() {
            if let Some((parent, _)) = text(folder).rsplit_once('/') {
                let at = view.folders.iter().position(|other| text(other) == parent);
                assert!(at.is_some_and(|at| at < index), "{folder:?} before its parent");
            }
        }
    }

    #[test]
    fn a_missing_path_is_an_error() {
        assert!(View::of(&["/no/such/folder".into()]).is_err());
    }
}
