//! Small corpora and run directories for the tests.
#![allow(dead_code)] // Each test program uses its own part.

use std::path::Path;

use smidgen_data::{
    CollectOptions, Corpus, Dataset, Split, SplitRule, Tokenizer, collect, prepare, split,
};
use tempfile::TempDir;

/// Writes files below a new folder; `(name, text)`.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        put(dir.path(), name, text);
    }
    dir
}

pub(crate) fn put(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Forty short documents of different lengths.
pub(crate) fn stories() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..40 {
        let text = format!("Story {i}.\nOnce upon a time there were {i} löwen. ").repeat(i % 7 + 2);
        put(dir.path(), &format!("part{}/story{i}.txt", i % 3), &text);
    }
    dir
}

pub(crate) fn rule() -> SplitRule {
    SplitRule { salt: "smidgen".to_owned(), ratio: 0.2 }
}

pub(crate) fn sides(source: &Path) -> (Corpus, Split) {
    let corpus = collect(source, &CollectOptions::default()).unwrap();
    let split = split(&corpus, &rule().salt, rule().ratio).unwrap();
    (corpus, split)
}

pub(crate) fn tokenizer(corpus: &Corpus, split: &Split, threads: usize) -> Tokenizer {
    let texts: Vec<&str> = split.train.iter().map(|piece| corpus.text(piece)).collect();
    Tokenizer::train(&texts, 320, threads).unwrap()
}

/// A run directory with the prepared stories.
pub(crate) fn prepared(threads: usize) -> (TempDir, Dataset) {
    let source = stories();
    let (corpus, split) = sides(source.path());
    let tokenizer = tokenizer(&corpus, &split, threads);
    let run = tempfile::tempdir().unwrap();
    let files = smidgen_store::Disk;
    let dataset =
        prepare(&files, run.path(), &corpus, &split, &rule(), &tokenizer, threads).unwrap();
    (run, dataset)
}
