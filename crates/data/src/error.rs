//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

use crate::Reason;

/// What can go wrong between a folder of text and a batch of tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The named file or folder is not there.
    #[error("`{}` does not exist, expected a folder, a text file or a .jsonl file", path.display())]
    Missing {
        /// What was named.
        path: PathBuf,
    },
    /// The named thing is a socket, a pipe or a device.
    #[error("`{}` is neither a file nor a folder", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The system refused to read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the dataset could not be written, or not be read back.
    #[error(transparent)]
    Store(#[from] smidgen_store::Error),
    /// Nothing in the sources became a document.
    #[error(
        "no text to train on in `{}`: {skipped}\n  hint: ignore files are honoured; `--include GLOB` takes a file in spite of the rules",
        path.display()
    )]
    NoText {
        /// The (first) source.
        path: PathBuf,
        /// What was there and why it was left, in one line.
        skipped: String,
    },
    /// A file named by the user that must not become training text.
    #[error("`{}` cannot be training text: {reason}{}", path.display(), hint(reason))]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why it was refused.
        reason: Reason,
    },
    /// More text than the limit allows.
    #[error(
        "`{}`: {found_bytes} bytes of text, expected at most `max_total_bytes` = {limit_bytes}\n  hint: name a smaller part, or raise `max_total_bytes`",
        path.display()
    )]
    TooLarge {
        /// The file at which the limit was passed.
        path: PathBuf,
        /// Bytes seen so far, this file included.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A row of a JSONL file that is no document.
    #[error("{}:{line}: {what}", path.display())]
    Jsonl {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// Expected, then got.
        what: String,
    },
    /// An `include` pattern that is no glob.
    #[error("cannot read the pattern `{glob}` of `include`: {what}")]
    Glob {
        /// The pattern.
        glob: String,
        /// What is wrong with it.
        what: String,
    },
    /// Not enough text for a training and a validation side.
    #[error("too little text: expected at least {needed_bytes} bytes, got {found_bytes}")]
    TooLittleText {
        /// Bytes of all documents.
        found_bytes: u64,
        /// The least that makes sense.
        needed_bytes: u64,
    },
    /// All documents belong together, so no side can be held out.
    #[error(
        "all {documents} documents are of the one group `{group}`, expected at least two groups\n  hint: validation needs a group that training never sees"
    )]
    OneGroup {
        /// The group.
        group: String,
        /// How many documents it has.
        documents: usize,
    },
    /// A file to compare training text with that cannot be compared with.
    #[error("cannot compare the training text with `{}`: {what}", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
        /// Expected, then got.
        what: String,
    },
    /// Hardly anything to train on shares no passage with the named files.
    #[error(
        "{dropped} of {documents} training documents share 13 words in a row with a file of `data.contamination`, and too little text is left\n  hint: a document leaves as a whole; cut long ones into several, or name other files"
    )]
    AllContaminated {
        /// Documents with such a passage.
        dropped: usize,
        /// Documents of the training side.
        documents: usize,
    },
    /// A number outside its range.
    #[error("`{key}`: expected {expected}, got {got}")]
    Range {
        /// Which setting.
        key: &'static str,
        /// The legal range.
        expected: String,
        /// The value.
        got: String,
    },
    /// Fewer tokens than one window.
    #[error(
        "too few tokens: a window of context {context} needs {needed_tokens}, got {found_tokens}\n  hint: choose a smaller context or bring more text"
    )]
    TooFewTokens {
        /// Tokens of an input row.
        context: usize,
        /// Tokens one window needs.
        needed_tokens: u64,
        /// Tokens of this side.
        found_tokens: u64,
    },
    /// The tokenizer library could not train or encode.
    #[error("the tokenizer could not {what}: {message}")]
    Tokenize {
        /// `be trained` or `encode`.
        what: &'static str,
        /// What the library said.
        message: String,
    },
    /// A tokenizer file that does not parse or is of another kind.
    #[error("`{}` is not a tokenizer this program can use: {what}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Expected, then got.
        what: String,
    },
    /// A token shard that is not one, or not a whole one.
    #[error("`{}` is not a token shard of this program: {what}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// The field, expected, then got.
        what: String,
    },
    /// A dataset manifest that does not parse.
    #[error("cannot read the dataset manifest `{}`: {what}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file whose content is not the one the manifest names.
    #[error(
        "`{}`: expected sha256 {expected}, got {got}\n  hint: the file is damaged or belongs to another run",
        path.display()
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// From the manifest, hexadecimal.
        expected: String,
        /// Of the file, hexadecimal.
        got: String,
    },
    /// A file whose length is not the one the manifest names.
    #[error(
        "`{}`: expected {expected_bytes} bytes, got {got_bytes}\n  hint: the file is cut short or belongs to another run",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// From the manifest.
        expected_bytes: u64,
        /// Of the file.
        got_bytes: u64,
    },
    /// A cursor that was made with other data or another batch shape.
    #[error(
        "the data cursor does not fit this dataset: at step {step} expected sample {expected}, got {got}"
    )]
    Cursor {
        /// The step of the cursor.
        step: u64,
        /// The sample this loader reads at that step.
        expected: u64,
        /// The sample the cursor names.
        got: u64,
    },
    /// A helper thread could not be started or died.
    #[error("a data worker failed: {what}")]
    Worker {
        /// What it said.
        what: String,
    },
}

/// The cure where there is one: some rules bend to `--include`, others are facts.
fn hint(reason: &Reason) -> &'static str {
    if reason.bends_to_include() {
        "\n  hint: `--include GLOB` takes it in spite of this rule"
    } else {
        ""
    }
}
