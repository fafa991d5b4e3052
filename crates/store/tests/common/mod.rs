//! A small run to be damaged: two tensor files and a cursor, content known from the step.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smidgen_store::{
    Checkpoint, Commit, Dtype, Error, Faulty, Files, RunDir, TensorInfo, sha256_file,
};

/// The files that a test checkpoint holds besides its manifest.
pub(crate) const FILES: [&str; 3] = ["cursor.json", "model.safetensors", "state.safetensors"];

/// A folder for a run that does not exist yet.
pub(crate) fn fresh() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("run");
    (dir, path)
}

/// A disk without faults, and without the wait for the device.
pub(crate) fn healthy() -> Faulty {
    Faulty::counting()
}

/// A new run.
pub(crate) fn create(path: &Path) -> RunDir {
    RunDir::create(Arc::new(healthy()), path, "seed = 1\n").expect("a new run")
}

/// An existing run, written through `files`.
pub(crate) fn open(files: impl Files + 'static, path: &Path) -> Result<RunDir, Error> {
    RunDir::open(Arc::new(files), path)
}

/// The tensors of a checkpoint.
pub(crate) fn infos() -> Vec<TensorInfo> {
    vec![
        TensorInfo::new("codes", Dtype::U8, [5]),
        TensorInfo::new("layers.0.weight", Dtype::F32, [3, 4]),
        TensorInfo::new("head", Dtype::BF16, [7]),
    ]
}

/// Saves the checkpoint of a step; `salt` makes another one of the same step.
pub(crate) fn save(run: &RunDir, step: u64, salt: u8, commit: Commit) -> Result<(), Error> {
    let infos = infos();
    let mut writer = run.begin_checkpoint(step)?;
    for file in ["model.safetensors", "state.safetensors"] {
        writer.tensors(file, &infos, |index, out| {
            let bytes = infos[index].bytes().expect("a small tensor");
            out.write_all(&vec![step as u8 ^ salt ^ index as u8; bytes])
        })?;
    }
    writer.json("cursor.json", &serde_json::json!({ "step": step, "salt": salt }))?;
    writer.commit(Commit { facts: serde_json::json!({ "tokenizer": "00ff" }), ..commit })
}

/// Keep the last one; mark this one best.
pub(crate) fn keep_one() -> Commit {
    Commit { best: true, keep_last: 1, ..Commit::default() }
}

/// Checks the content of a checkpoint and says its salt.
pub(crate) fn salt_of(checkpoint: &Checkpoint) -> u8 {
    let cursor: serde_json::Value = checkpoint.json("cursor.json").expect("a cursor");
    assert_eq!(cursor["step"], checkpoint.step());
    let salt = cursor["salt"].as_u64().expect("a salt") as u8;
    for file in ["model.safetensors", "state.safetensors"] {
        for (index, info) in infos().iter().enumerate() {
            let view = checkpoint.tensor(file, &info.name).expect("a tensor");
            let byte = checkpoint.step() as u8 ^ salt ^ index as u8;
            assert!(view.data.iter().all(|b| *b == byte), "{file} {}", info.name);
        }
    }
    salt
}

/// The hash of every file under a folder, by its path.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut hashes = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("inside").to_path_buf();
                hashes.insert(name, sha256_file(&path).expect("a file"));
            }
        }
    }
    hashes
}
