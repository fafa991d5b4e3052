//! Files: one seam for every write, the run directory, checkpoints, strict configuration.
//!
//! Everything this project leaves on a disk goes through [`Files`], so tests can make any write,
//! rename or fsync fail ([`Faulty`]). A run is a directory ([`RunDir`], [`RunView`]); what it has
//! learnt lies in [`Checkpoint`]s that are there whole or not at all and prove it when opened.
//!
//! It is not: a tensor library (a tensor here is a name, a type, a shape and bytes), and not a
//! database (one process writes a run at a time).
//!
//! Read first: [`Files`], [`RunDir`], [`CheckpointWriter`].
//!
//! ```
//! use smidgen_store::{Commit, Disk, Dtype, RunDir, TensorInfo, Which};
//! use std::sync::Arc;
//!
//! # let parent = tempfile::tempdir().unwrap();
//! let run = RunDir::create(Arc::new(Disk), &parent.path().join("run"), "seed = 1\n")?;
//! let mut writer = run.begin_checkpoint(1000)?;
//! let infos = [TensorInfo::new("bias", Dtype::F32, [2])];
//! writer.tensors("model.safetensors", &infos, |_, out| out.write_all(&[0; 8]))?;
//! writer.commit(Commit { best: true, keep_last: 2, ..Commit::default() })?;
//!
//! let checkpoint = run.checkpoint(Which::Best)?;
//! assert_eq!(checkpoint.tensor("model.safetensors", "bias")?.shape, [2]);
//! # Ok::<(), smidgen_store::Error>(())
//! ```

mod atomic;
mod bytes;
mod checkpoint;
pub mod config;
mod error;
pub mod events;
mod faulty;
mod files;
mod gguf;
mod hash;
mod run;
mod tensors;

use std::path::Path;

pub use atomic::{check_new, write_atomic, write_folder, write_json, write_text, write_whole};
pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, CheckpointWriter, Commit, FileFacts, Manifest, Skipped};
pub use error::Error;
pub use faulty::{Fault, Faulty};
pub use files::{Disk, Files, Sink};
pub use gguf::{GgufArray, GgufFile, GgufInfo, GgufTensor, GgufType, GgufValue, write_gguf};
pub use hash::{sha256_bytes, sha256_file};
pub use run::{
    ENV_JSON, LEDGER_JSON, Leftover, METRICS_JSONL, Metrics, MetricsReader, PLAN_JSON, Past,
    REQUEST_JSON, RUN_TOML, RunDir, RunView, Waste, Which, remove_leftovers, size_bytes,
};
pub use smidgen_codec::nearest;
pub use tensors::{Dtype, TensorFile, TensorInfo, TensorView, write_tensors};

/// Reads a JSON file.
/// Fails with [`Error::Missing`], [`Error::Io`], or [`Error::Corrupt`] where it is no `T`.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Missing { what: "a JSON file", path: path.into() });
        }
        Err(e) => return Err(Error::at("read", path)(e)),
    };
    serde_json::from_slice(&text).map_err(|e| Error::corrupt(path, "its JSON form", e.to_string()))
}
