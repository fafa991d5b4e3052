//! From the source to a run's own data.

use std::path::{Path, PathBuf};

use smidgen_data::{
    CollectOptions, Corpus, Dataset, Split, SplitRule, Tokenizer, collect, drop_contaminated,
    drop_near_duplicates, split,
};
use smidgen_store::{RunDir, sha256_bytes};
use smidgen_tensor::available_threads;

use crate::plan::MOST_THREADS;
use crate::process::{most_text, preparation_bytes};
use crate::{Config, Error, Event, Facts, Machine, Progress, TokenFacts};

/// A source that was read and divided; nothing is written yet.
pub(crate) struct Scan {
    corpus: Corpus,
    split: Split,
    rule: SplitRule,
}

impl Scan {
    /// Reads the source of a configuration. `exclude` is a folder that is never entered.
    pub(crate) fn read(
        config: &Config,
        exclude: Option<&Path>,
        progress: &mut dyn Progress,
    ) -> Result<Scan, Error> {
        let path = config.data.path.as_deref().ok_or(Error::NoSource)?;
        let max_total_bytes = config.data.max_total_bytes.0.min(room(config));
        let options = CollectOptions {
            max_file_bytes: config.data.max_file_bytes.0,
            max_total_bytes,
            include: config.data.include.clone(),
            exclude: exclude.map(PathBuf::from).into_iter().collect(),
        };
        let mut corpus = collect(path, &options).map_err(|error| too_much(error, config))?;
        let rule = SplitRule { salt: config.data.salt.clone(), ratio: config.data.val_ratio };
        let mut split = split(&corpus, &rule.salt, rule.ratio)?;
        keep_apart(config, &mut corpus, &mut split)?;
        let scan = Scan { corpus, split, rule };
        let (train_bytes, val_bytes) = scan.bytes();
        let summary = scan.corpus.summary();
        let skipped = &scan.corpus.skipped;
        progress.event(Event::Scanned { summary: &summary, skipped, train_bytes, val_bytes });
        Ok(scan)
    }

    fn bytes(&self) -> (u64, u64) {
        let sum = |side: &[smidgen_data::Piece]| {
            side.iter().map(|piece| piece.range.len() as u64).sum::<u64>()
        };
        (sum(&self.split.train), sum(&self.split.val))
    }

    /// SHA-256 over the texts of both sides of the split, in their order.
    pub(crate) fn fingerprint(&self) -> String {
        let of = |side: &[smidgen_data::Piece]| -> String {
            let texts = side.iter().map(|piece| sha256_bytes(self.corpus.text(piece).as_bytes()));
            sha256_bytes(texts.collect::<String>().as_bytes())
        };
        sha256_bytes((of(&self.split.train) + &of(&self.split.val)).as_bytes())
    }

    /// What plans depend on.
    pub(crate) fn facts(&self, machine: Machine) -> Facts {
        let (train_bytes, val_bytes) = self.bytes();
        Facts { train_bytes, val_bytes, tokens: None, machine }
    }

    /// Trains the tokenizer, unless there is one already, and writes the shards into the run. Each file
    /// appears whole or not at all, the manifest last; a run killed here begins this again.
    pub(crate) fn prepare(
        &self,
        run: &RunDir,
        vocab: usize,
        tokenizer: Option<&Tokenizer>,
        threads: usize,
        progress: &mut dyn Progress,
    ) -> Result<Dataset, Error> {
        let tokenizer = match tokenizer {
            Some(tokenizer) => tokenizer.clone(),
            None => {
                progress.event(Event::Tokenizing { vocab });
                let texts: Vec<&str> =
                    self.split.train.iter().map(|piece| self.corpus.text(piece)).collect();
                Tokenizer::train(&texts, vocab, threads)?
            }
        };
        let (files, dir) = (run.files(), run.path());
        let (corpus, split, rule) = (&self.corpus, &self.split, &self.rule);
        let dataset = smidgen_data::prepare(files, dir, corpus, split, rule, &tokenizer, threads)?;
        Ok(dataset)
    }
}

/// Takes out of the training side what would make the held-out side, or a test to come, look easy.
fn keep_apart(config: &Config, corpus: &mut Corpus, split: &mut Split) -> Result<(), Error> {
    // The configuration is judged later: a wrong number must not become that many threads here.
    let most = available_threads();
    let threads = config.threads.unwrap_or(most).clamp(1, most);
    drop_contaminated(corpus, split, &config.data.contamination, threads)?;
    if config.data.near_duplicates {
        drop_near_duplicates(corpus, split, threads)?;
    }
    Ok(())
}

/// Bytes of text that can be read within the configuration's memory.
fn room(config: &Config) -> u64 {
    let threads = threads(config);
    config.memory.map_or(u64::MAX, |memory| most_text(memory.0, threads))
}

/// A configuration is not validated before its text is known.
fn threads(config: &Config) -> usize {
    config.threads.unwrap_or_else(smidgen_tensor::available_threads).min(MOST_THREADS)
}

/// More text than memory has room for is a matter of the budget, not of the text.
fn too_much(error: smidgen_data::Error, config: &Config) -> Error {
    match (&error, config.memory) {
        (smidgen_data::Error::TooLarge { found_bytes, limit_bytes, .. }, Some(memory))
            if *limit_bytes < config.data.max_total_bytes.0 =>
        {
            let needed_bytes = preparation_bytes(*found_bytes, 0, threads(config));
            let hint =
                "the text is read whole while its tokens are made: name a smaller part".into();
            Error::OverBudget { needed_bytes, limit_bytes: memory.0, hint }
        }
        _ => error.into(),
    }
}

/// What plans depend on, from a run's own data.
pub(crate) fn dataset_facts(dataset: &Dataset, machine: Machine) -> Facts {
    let manifest = &dataset.manifest;
    let tokens = TokenFacts {
        vocab: manifest.tokenizer.vocab_size,
        train: manifest.train.tokens,
        val: manifest.val.tokens,
    };
    Facts {
        train_bytes: manifest.train.source_bytes,
        val_bytes: manifest.val.source_bytes,
        tokens: Some(tokens),
        machine,
    }
}
