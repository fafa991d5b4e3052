//! Finds the files of a folder, in an order that depends on their names alone.
//!
//! The first walk obeys ignore files; a second one, only where `include` patterns are given,
//! looks everywhere for what they name. Links are never followed: one that stays inside leads
//! to a file that is read at its own place, one that leaves the folder is none of our business.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ignore::overrides::{Override, OverrideBuilder};
use ignore::{DirEntry, WalkBuilder};

use crate::rules::is_run_directory;
use crate::{CollectOptions, Error, Reason, Skipped};

/// A file to look into.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// An `include` pattern names it: the rules that bend are off.
    pub(crate) included: bool,
}

/// Files by name, and what was left out on the way.
pub(crate) struct Walk {
    pub(crate) files: BTreeMap<String, Found>,
    pub(crate) skipped: Vec<Skipped>,
}

/// `include` patterns, matched against a path or any folder above it.
pub(crate) struct Include(Option<Override>);

impl Include {
    /// # Errors
    /// `Glob` for a pattern that does not parse.
    pub(crate) fn new(root: &Path, globs: &[String]) -> Result<Self, Error> {
        if globs.is_empty() {
            return Ok(Self(None));
        }
        let mut builder = OverrideBuilder::new(root);
        let mut glob = String::new();
        let bad = |glob: &str, error: &ignore::Error| Error::Glob {
            glob: glob.to_owned(),
            what: error.to_string(),
        };
        for pattern in globs {
            glob.clone_from(pattern);
            builder.add(pattern).map_err(|error| bad(&glob, &error))?;
        }
        builder.build().map(|all| Self(Some(all))).map_err(|error| bad(&glob, &error))
    }

    /// Whether a pattern names the file at `path` (below the root) or a folder it is in.
    pub(crate) fn takes(&self, path: &Path) -> bool {
        let Some(all) = &self.0 else { return false };
        all.matched(path, false).is_whitelist()
            || path
                .ancestors()
                .skip(1)
                .take_while(|folder| !folder.as_os_str().is_empty())
                .any(|folder| all.matched(folder, true).is_whitelist())
    }
}

/// Walks `root`, a canonical path of a folder.
pub(crate) fn walk(root: &Path, options: &CollectOptions) -> Result<Walk, Error> {
    let include = Include::new(root, &options.include)?;
    let mut walk = Walk { files: BTreeMap::new(), skipped: Vec::new() };
    walk.by_the_rules(root, options);
    if include.0.is_some() {
        walk.by_include(root, &include);
        let files = &walk.files;
        walk.skipped.retain(|skipped| !files.contains_key(&skipped.name));
    }
    Ok(walk)
}

impl Walk {
    fn by_the_rules(&mut self, root: &Path, options: &CollectOptions) {
        let pruned = Arc::new(Mutex::new(Vec::new()));
        let mut builder = WalkBuilder::new(root);
        let in_git = root.ancestors().any(|folder| folder.join(".git").exists());
        builder.follow_links(false).require_git(false).git_global(false).parents(in_git);
        // Hidden things are seen and named, so that a person learns that they are left out.
        builder.hidden(false);
        let never = options.exclude.iter().filter_map(|path| path.canonicalize().ok()).collect();
        builder.filter_entry(keep(root.to_owned(), never, Arc::clone(&pruned)));
        for entry in builder.build() {
            self.add(root, entry, |_| Some(false));
        }
        let mut pruned = pruned.lock().expect("no walker panics while it holds the list");
        self.skipped.append(&mut pruned);
    }

    fn by_include(&mut self, root: &Path, include: &Include) {
        let mut builder = WalkBuilder::new(root);
        builder.standard_filters(false).follow_links(false);
        for entry in builder.build() {
            self.add(root, entry, |path| include.takes(path).then_some(true));
        }
    }

    /// Files one entry under its name; `wanted` says no, or whether it stands outside the rules.
    fn add(
        &mut self,
        root: &Path,
        entry: Result<DirEntry, ignore::Error>,
        wanted: impl Fn(&Path) -> Option<bool>,
    ) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                return self.skip("(folder)", Reason::Unreadable { what: error.to_string() }, 0);
            }
        };
        let (path, kind) = (entry.path().to_owned(), entry.file_type());
        let below = path.strip_prefix(root).unwrap_or(&path);
        let (Some(included), false) = (wanted(below), kind.is_none_or(|kind| kind.is_dir())) else {
            return;
        };
        let (name, bytes) = (name_of(below), entry.metadata().map_or(0, |meta| meta.len()));
        match odd(root, &path, kind) {
            Some(reason) => self.skip(&name, reason, 0),
            None => drop(self.files.insert(name, Found { path, bytes, included })),
        }
    }

    fn skip(&mut self, name: &str, reason: Reason, bytes: u64) {
        self.skipped.push(Skipped { name: name.to_owned(), reason, bytes });
    }
}

/// The filter of the first walk: names what it does not enter.
fn keep(
    root: PathBuf,
    never: Vec<PathBuf>,
    pruned: Arc<Mutex<Vec<Skipped>>>,
) -> impl Fn(&DirEntry) -> bool + Send + Sync + 'static {
    move |entry| {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy();
        if path == root {
            return true;
        }
        if name == ".git" {
            return false;
        }
        let folder = entry.file_type().is_some_and(|kind| kind.is_dir());
        let reason =
            if folder && (never.iter().any(|other| other == path) || is_run_directory(path)) {
                Reason::RunDirectory
            } else if name.starts_with('.') {
                crate::rules::by_name(&name).unwrap_or(Reason::Hidden)
            } else {
                return true;
            };
        let name = name_of(path.strip_prefix(&root).unwrap_or(path));
        let bytes = if folder { 0 } else { entry.metadata().map_or(0, |meta| meta.len()) };
        pruned.lock().expect("no walker panics while it holds the list").push(Skipped {
            name,
            reason,
            bytes,
        });
        false
    }
}

/// What is neither file nor folder.
fn odd(root: &Path, path: &Path, kind: Option<FileType>) -> Option<Reason> {
    match kind {
        Some(kind) if kind.is_file() => None,
        Some(kind) if kind.is_symlink() => {
            let inside = path.canonicalize().is_ok_and(|target| target.starts_with(root));
            Some(if inside { Reason::LinkInside } else { Reason::LinkOutside })
        }
        _ => Some(Reason::Special),
    }
}

/// `src/lib.rs` on every system.
pub(crate) fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}
