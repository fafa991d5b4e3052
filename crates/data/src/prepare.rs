//! Encodes both sides of a corpus into the run directory.

use std::io::{self, Write};
use std::path::Path;

use rayon::ThreadPool;
use rayon::prelude::*;
use serde::Serialize;
use smidgen_store::{Files, sha256_file, write_atomic, write_json};

use crate::dataset::{
    FORMAT, MANIFEST, SideEntry, SplitEntry, TOKENIZER, TRAIN, TokenizerEntry, VAL,
};
use crate::shard::ShardWriter;
use crate::tokenizer::pool;
use crate::{Corpus, Dataset, Error, Manifest, Piece, Split, Tokenizer};

/// The list of documents beside the shards.
const DOCUMENTS: &str = "data/documents.jsonl";

/// Text encoded at a time, in bytes; bounds the memory beside the corpus.
const BATCH_BYTES: usize = 8 << 20;

/// How the split was drawn, for the record.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitRule {
    /// Put before each group's name.
    pub salt: String,
    /// The share that is held out.
    pub ratio: f64,
}

/// A row of `data/documents.jsonl`.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    side: &'a str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Writes `tokenizer.json`, `data/{train,val}.tokens`, `data/documents.jsonl` and, last of all,
/// `data/dataset.json` into the run directory `dir`, and opens them.
///
/// The files depend on corpus, split and tokenizer alone, not on `threads`. What an earlier,
/// interrupted preparation left is replaced.
///
/// # Errors
/// `Store` where a file cannot be written, `Worker`, `Tokenize`.
pub fn prepare(
    files: &dyn Files,
    dir: &Path,
    corpus: &Corpus,
    split: &Split,
    rule: &SplitRule,
    tokenizer: &Tokenizer,
    threads: usize,
) -> Result<Dataset, Error> {
    let (folder, manifest_path) = (dir.join("data"), dir.join(MANIFEST));
    files.create_dir_all(&folder).map_err(io_error("create", &folder))?;
    if manifest_path.exists() {
        // An old manifest beside new shards would look like damage, after a power cut too.
        files.remove_file(&manifest_path).map_err(io_error("remove", &manifest_path))?;
        files.sync_dir(&folder).map_err(io_error("sync", &folder))?;
    }
    tokenizer.save(files, &dir.join(TOKENIZER))?;
    let pool = pool(threads)?;
    let side = |file, pieces| {
        let texts: Vec<&str> = pieces_of(pieces, corpus).collect();
        side(files, &dir.join(file), &texts, tokenizer, &pool)
    };
    let (train, train_offsets) = side(TRAIN, &split.train)?;
    let (val, val_offsets) = side(VAL, &split.val)?;
    write_atomic(files, &dir.join(DOCUMENTS), |out| {
        rows(out, "train", corpus, &split.train, &train_offsets)?;
        rows(out, "val", corpus, &split.val, &val_offsets)?;
        skipped_rows(out, corpus)
    })?;
    let manifest = Manifest {
        format: FORMAT,
        tokenizer: TokenizerEntry {
            sha256: sha256_file(&dir.join(TOKENIZER))?,
            vocab_size: tokenizer.vocab_size(),
        },
        split: SplitEntry { salt: rule.salt.clone(), ratio: rule.ratio },
        train,
        val,
    };
    write_json(files, &manifest_path, &manifest)?;
    Dataset::open(dir)
}

fn pieces_of<'a>(pieces: &'a [Piece], corpus: &'a Corpus) -> impl Iterator<Item = &'a str> {
    pieces.iter().map(|piece| corpus.text(piece))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Store(smidgen_store::Error::Io { action, path, source })
}

/// Writes one shard; gives its entry and its document offsets.
fn side(
    files: &dyn Files,
    path: &Path,
    texts: &[&str],
    tokenizer: &Tokenizer,
    pool: &ThreadPool,
) -> Result<(SideEntry, Vec<u64>), Error> {
    let mut offsets = Vec::new();
    write_atomic(files, path, |out| {
        offsets = encode(out, texts, tokenizer, pool)?;
        Ok(())
    })?;
    let entry = SideEntry {
        sha256: sha256_file(path)?,
        file_bytes: std::fs::metadata(path).map_err(io_error("read", path))?.len(),
        tokens: offsets.last().map_or(0, |last| last + 1),
        documents: texts.len() as u64,
        source_bytes: texts.iter().map(|text| text.len() as u64).sum(),
    };
    Ok((entry, offsets))
}

/// A part of a text, and whether it is the first one of its document.
type Part<'a> = (bool, &'a str);

fn encode(
    out: &mut dyn Write,
    texts: &[&str],
    tokenizer: &Tokenizer,
    pool: &ThreadPool,
) -> io::Result<Vec<u64>> {
    let mut writer = ShardWriter::new(out, tokenizer.vocab_size(), tokenizer.prefix())?;
    let mut parts = texts
        .iter()
        .flat_map(|text| tokenizer.pieces(text).enumerate().map(|(i, part)| (i == 0, part)))
        .peekable();
    while parts.peek().is_some() {
        let batch = next_batch(&mut parts);
        let encoded: Result<Vec<Vec<u32>>, Error> =
            pool.install(|| batch.par_iter().map(|(_, part)| tokenizer.encode(part)).collect());
        for ((first, part), ids) in batch.iter().zip(encoded.map_err(io::Error::other)?) {
            if *first {
                writer.open_document()?;
            }
            writer.extend(&ids, part.len())?;
        }
    }
    writer.finish()
}

/// At least one part, then more up to about [`BATCH_BYTES`].
fn next_batch<'a>(parts: &mut impl Iterator<Item = Part<'a>>) -> Vec<Part<'a>> {
    let mut bytes = 0;
    let mut batch = Vec::new();
    while bytes < BATCH_BYTES
        && let Some(part) = parts.next()
    {
        bytes += part.1.len();
        batch.push(part);
    }
    batch
}

fn rows(
    out: &mut dyn Write,
    side: &str,
    corpus: &Corpus,
    pieces: &[Piece],
    offsets: &[u64],
) -> io::Result<()> {
    pieces.iter().zip(offsets.windows(2)).try_for_each(|(piece, ends)| {
        let name = corpus.documents[piece.document].name.as_str();
        let (bytes, tokens) = (piece.range.len() as u64, Some(ends[1] - ends[0]));
        row(out, &Row { name, side, bytes, tokens, reason: None })
    })
}

fn skipped_rows(out: &mut dyn Write, corpus: &Corpus) -> io::Result<()> {
    corpus.skipped.iter().try_for_each(|skipped| {
        let (name, bytes) = (skipped.name.as_str(), skipped.bytes);
        let reason = Some(skipped.reason.to_string());
        row(out, &Row { name, side: "skipped", bytes, tokens: None, reason })
    })
}

fn row(out: &mut dyn Write, row: &Row<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.write_all(b"\n")
}
