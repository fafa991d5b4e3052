//! What can go wrong between a program and its files, said so that a person can act on it.

use std::io;
use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {action} {}: {source}{}", path.display(), io_hint(source))]
    Io {
        /// The verb: `write`, `rename`, `read` ...
        action: &'static str,
        /// The file or folder it was about.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something that has to be there is not.
    #[error("expected {what} at {}, got nothing", path.display())]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A file's bytes are not what its manifest or its format promises.
    #[error("expected {expected}, got {got} in {}", file.display())]
    Corrupt {
        /// The damaged or foreign file.
        file: PathBuf,
        /// What it should hold.
        expected: String,
        /// What it holds.
        got: String,
    },
    /// A folder is not a run directory.
    #[error("expected a run directory with `run.toml`, got {got} at {}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What it is instead.
        got: &'static str,
    },
    /// A new run was to be made where one is already.
    #[error(
        "expected a new or empty folder, got an existing run at {path}\n  \
         hint: continue it with `train --resume {path}`, or choose another folder with `--out`",
        path = path.display()
    )]
    RunExists {
        /// The run directory.
        path: PathBuf,
    },
    /// A new run was to be made in a folder that holds other things.
    #[error(
        "expected a new or empty folder, got one that holds `{found}` at {}\n  \
         hint: choose another folder with `--out`",
        path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// One thing found there.
        found: String,
    },
    /// Something new was to be made where a file is already.
    #[error(
        "expected a new file or folder, got a file at {}\n  hint: choose another name with `--out`",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the run.
    #[error(
        "run directory in use by another process: {}\n  \
         hint: wait until it ends, or stop it first",
        path.display()
    )]
    InUse {
        /// The run directory.
        path: PathBuf,
    },
    /// A run has no checkpoint that can be loaded.
    #[error("expected a valid checkpoint in {}, got {got}", path.display())]
    NoCheckpoint {
        /// The run directory.
        path: PathBuf,
        /// `none`, or why each one was refused.
        got: String,
    },
    /// Tensors handed to a writer contradict each other or their description.
    #[error("`{tensor}` in {}: expected {expected}, got {got}", file.display())]
    Tensor {
        /// The file being written or read.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What was expected of it.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A text is not TOML.
    #[error("expected TOML, got {message} in {place}")]
    Toml {
        /// What the parser said, on one line.
        message: String,
        /// The file, and the line where it is known.
        place: String,
    },
    /// A configuration holds a key that nothing reads.
    #[error("unknown key `{key}` in {place}, {hint}")]
    UnknownKey {
        /// The full dotted key.
        key: String,
        /// The file, and the line where it is known.
        place: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// A configuration lacks a key that has no default.
    #[error("expected key `{key}`, got none in {place}")]
    MissingKey {
        /// The full dotted key.
        key: String,
        /// The file.
        place: String,
    },
    /// A configuration value has the wrong type or an impossible value.
    #[error("`{key}`: expected {expected}, got {got} in {place}")]
    Value {
        /// The full dotted key.
        key: String,
        /// What the key takes.
        expected: String,
        /// What was written.
        got: String,
        /// The file, and the line where it is known.
        place: String,
    },
    /// A configuration value is refused by the type that reads it.
    #[error("`{key}`: {message} in {place}")]
    Invalid {
        /// The full dotted key.
        key: String,
        /// What the type said.
        message: String,
        /// The file, and the line where it is known.
        place: String,
    },
    /// A `key=value` argument cannot be applied.
    #[error("`--set {argument}`: expected {expected}, got {got}")]
    Set {
        /// The argument as written.
        argument: String,
        /// What it should have been.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A value cannot be written as JSON or TOML.
    #[error("cannot serialise {}: {message}", path.display())]
    Serialise {
        /// The file it was meant for.
        path: PathBuf,
        /// What the library said.
        message: String,
    },
    /// A text is no number of bytes.
    #[error("expected bytes such as `64 KiB`, `1.5GiB` or `1234`, got `{got}`")]
    Bytes {
        /// The text.
        got: String,
    },
    /// A text names no checkpoint.
    #[error("expected checkpoint `best`, `last` or a step number, got `{got}`")]
    Which {
        /// The text.
        got: String,
    },
}

impl Error {
    /// For `map_err`: an operation on a path failed.
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_path_buf(), source }
    }

    /// Shorthand for a file that does not hold what it should.
    pub(crate) fn corrupt(
        file: &Path,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Error {
        Error::Corrupt { file: file.to_path_buf(), expected: expected.into(), got: got.into() }
    }
}

fn io_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\n  hint: free some space on that disk"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "\n  hint: choose a folder that can be written"
        }
        _ => "",
    }
}
