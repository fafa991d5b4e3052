//! What a run keeps of its data: tokenizer, two shards, and a manifest with their hashes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smidgen_store::sha256_bytes;

use crate::{Error, Shard, Tokenizer};

pub(crate) const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "data/dataset.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TRAIN: &str = "data/train.tokens";
pub(crate) const VAL: &str = "data/val.tokens";

/// `data/dataset.json`, written last: a dataset without it was never finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this file and of the shards.
    pub format: u32,
    /// The `tokenizer.json` that made the shards.
    pub tokenizer: TokenizerEntry,
    /// How the sides were drawn.
    pub split: SplitEntry,
    /// The training side.
    pub train: SideEntry,
    /// The validation side.
    pub val: SideEntry,
}

/// Which tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerEntry {
    /// Of the file, hexadecimal.
    pub sha256: String,
    /// How many ids there are.
    pub vocab_size: usize,
}

/// Which split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitEntry {
    /// Put before each group's name.
    pub salt: String,
    /// The share that is held out.
    pub ratio: f64,
}

/// One side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideEntry {
    /// Of the shard, hexadecimal.
    pub sha256: String,
    /// Its length.
    pub file_bytes: u64,
    /// Its tokens, the special ones included.
    pub tokens: u64,
    /// Its documents.
    pub documents: u64,
    /// Bytes of text that its tokens stand for.
    pub source_bytes: u64,
}

/// A run's own data, verified. Needs nothing from the folder that the text came from.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// What was checked against.
    pub manifest: Manifest,
    /// SHA-256 of the manifest: one name for tokenizer and shards together.
    pub sha256: String,
    /// Text <-> ids.
    pub tokenizer: Tokenizer,
    /// What the model learns from.
    pub train: Arc<Shard>,
    /// What it never sees.
    pub val: Arc<Shard>,
}

impl Dataset {
    /// Whether the run directory `dir` holds a finished dataset.
    pub fn exists(dir: &Path) -> bool {
        dir.join(MANIFEST).is_file()
    }

    /// Opens the dataset of a run directory; every byte of it is checked against its hash.
    ///
    /// # Errors
    /// `Read`, `Manifest`, `Tokenizer`, `Shard`, `Length`, `Hash`, each naming the file.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (manifest, sha256) = read_manifest(dir)?;
        let tokenizer = open_tokenizer(dir, &manifest)?;
        let train = open_side(dir.join(TRAIN), &manifest.train)?;
        let val = open_side(dir.join(VAL), &manifest.val)?;
        Ok(Self { manifest, sha256, tokenizer, train, val })
    }

    /// The tokenizer of a run directory alone, checked against the manifest.
    ///
    /// # Errors
    /// `Read`, `Manifest`, `Tokenizer`, `Hash`.
    pub fn tokenizer_of(dir: &Path) -> Result<Tokenizer, Error> {
        let (manifest, _) = read_manifest(dir)?;
        open_tokenizer(dir, &manifest)
    }
}

fn read_manifest(dir: &Path) -> Result<(Manifest, String), Error> {
    let path = dir.join(MANIFEST);
    let bytes =
        std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let bad = |what: String| Error::Manifest { path: path.clone(), what };
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(bad(format!("`format`: expected {FORMAT}, got {}", manifest.format)));
    }
    Ok((manifest, sha256_bytes(&bytes)))
}

fn open_tokenizer(dir: &Path, manifest: &Manifest) -> Result<Tokenizer, Error> {
    let path = dir.join(TOKENIZER);
    let tokenizer = Tokenizer::load_exactly(&path, &manifest.tokenizer.sha256)?;
    let (expected, got) = (manifest.tokenizer.vocab_size, tokenizer.vocab_size());
    if expected != got {
        return Err(Error::Tokenizer {
            path,
            what: format!("expected {expected} tokens, got {got}"),
        });
    }
    Ok(tokenizer)
}

fn open_side(path: PathBuf, entry: &SideEntry) -> Result<Arc<Shard>, Error> {
    let length = std::fs::metadata(&path)
        .map_err(|source| Error::Read { path: path.clone(), source })?
        .len();
    if length != entry.file_bytes {
        return Err(Error::Length { path, expected_bytes: entry.file_bytes, got_bytes: length });
    }
    let shard = Shard::open(&path)?;
    let got = sha256_bytes(shard.file());
    if got != entry.sha256 {
        return Err(Error::Hash { path, expected: entry.sha256.clone(), got });
    }
    let counts = (shard.tokens(), shard.documents(), shard.source_bytes());
    if counts != (entry.tokens, entry.documents, entry.source_bytes) {
        let what = format!("expected the counts of {MANIFEST}, got {counts:?}");
        return Err(Error::Shard { path, what });
    }
    Ok(Arc::new(shard))
}
