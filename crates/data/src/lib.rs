//! From a folder of text to batches of tokens: documents, split, tokenizer, shards, loaders.
//!
//! It is not a downloader, and it knows nothing of models: what leaves it are token ids with the
//! borders of their documents. What it writes belongs to one run, and a resumed run needs nothing
//! else: the same bytes come out for any number of threads, and batch i for any history.
//!
//! Three types to read first: [`Corpus`] (what was taken, what was left and why), [`Dataset`] (what
//! a run keeps), [`Loader`] (which batch comes when).
//!
//! ```
//! use smidgen_data::{CollectOptions, Loader, LoaderConfig, SplitRule, Tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let source = tempfile::tempdir()?;
//! # for i in 0..20 {
//! #     let text = format!("document {i}: {}\n", "to be or not to be, ".repeat(i + 20));
//! #     std::fs::write(source.path().join(format!("{i}.txt")), text)?;
//! # }
//! # let run = tempfile::tempdir()?;
//! let corpus = smidgen_data::collect(source.path(), &CollectOptions::default())?;
//! let rule = SplitRule { salt: "smidgen".to_owned(), ratio: 0.1 };
//! let split = smidgen_data::split(&corpus, &rule.salt, rule.ratio)?;
//! let texts: Vec<&str> = split.train.iter().map(|piece| corpus.text(piece)).collect();
//! let tokenizer = Tokenizer::train(&texts, 300, 2)?;
//!
//! let files = smidgen_store::Disk;
//! let dataset =
//!     smidgen_data::prepare(&files, run.path(), &corpus, &split, &rule, &tokenizer, 2)?;
//! let config = LoaderConfig { rows: 2, context: 32, ..LoaderConfig::default() };
//! let loader = Loader::new(dataset.train.clone(), config)?;
//!
//! let mut feed = loader.start(7)?;
//! assert_eq!(feed.next_batch()?, loader.batch(7, 0));
//! # Ok(())
//! # }
//! ```

mod batch;
mod collect;
mod contamination;
mod corpus;
mod dataset;
mod error;
mod feed;
mod jsonl;
mod loader;
mod minhash;
mod near;
mod permute;
mod prepare;
mod rules;
mod secrets;
mod shard;
mod split;
mod tokenizer;
mod validation;
mod walk;
mod words;

pub use batch::Batch;
pub use collect::{CollectOptions, collect, collect_all};
pub use contamination::drop_contaminated;
pub use corpus::{Corpus, Document, Reason, Skipped, Summary, Tally};
pub use dataset::{Dataset, Manifest, SideEntry, SplitEntry, TokenizerEntry};
pub use error::Error;
pub use feed::Feed;
pub use loader::{Cursor, Loader, LoaderConfig};
pub use near::drop_near_duplicates;
pub use prepare::{SplitRule, prepare};
pub use shard::Shard;
pub use split::{LEAST_BYTES, Piece, Split, split};
pub use tokenizer::{END_OF_TEXT, GgufVocab, LEAST_VOCAB, TokenStream, Tokenizer};
pub use validation::ValSet;
