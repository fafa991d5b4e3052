//! What can be wrong with a link.

use std::path::PathBuf;

use crate::wire::{CompactError, EncodeError, Incompatible, UnknownPrecision, WireError};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array does not have the length that its shape asks for.
    #[error("{what}: expected {expected} values, got {got}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Values of the shape.
        expected: usize,
        /// Values that came.
        got: usize,
    },
    /// A demonstration that lacks a part.
    #[error("{path}: expected a part of a finished demonstration, got nothing; `link demo` with the same folder makes it", path = path.display())]
    Unfinished {
        /// Where it would be.
        path: PathBuf,
    },
    /// A setting or an argument that cannot be.
    #[error("`{key}`: expected {expected}, got {got}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What it can be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A name that no registry holds.
    #[error("unknown {what} `{name}`, expected one of: {known}{hint}")]
    UnknownName {
        /// Of what kind.
        what: &'static str,
        /// As written.
        name: String,
        /// All there are.
        known: String,
        /// The nearest one, as a line of its own, or nothing.
        hint: String,
    },
    /// A precision that the wire does not know.
    #[error(transparent)]
    Precision(#[from] UnknownPrecision),
    /// A fuser file without a single layer for this pair: the receiver would answer alone, unnoticed.
    #[error(
        "{} holds no fuser layer, expected some for {layers} layers of the receiver\n  \
         hint: name the file that training wrote, not a folder above it", path.display()
    )]
    NoFuserLayers {
        /// The file.
        path: PathBuf,
        /// Layers of the receiver.
        layers: usize,
    },
    /// A fuser or a cache that was made for other models.
    #[error("`{field}` in {}: expected {expected}, got {got}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        field: String,
        /// What this pair has.
        expected: String,
        /// What the file has.
        got: String,
    },
    /// A selector was not given what it reads.
    #[error("selector `{selector}` needs {needs}, got none")]
    Needs {
        /// The selector.
        selector: &'static str,
        /// What it reads.
        needs: &'static str,
    },
    /// A score that is no rank: only finite numbers, and minus infinity for a masked token.
    #[error(
        "selector `{selector}`: expected a finite score, got {got} at layer {layer}, token {token}"
    )]
    Score {
        /// The selector.
        selector: String,
        /// Of the sharer.
        layer: usize,
        /// Its position.
        token: usize,
        /// The score.
        got: f32,
    },
    /// A record belongs to another fuser.
    #[error(
        "{what}: expected fuser `{expected}`, got `{got}`\n  hint: run the calibration again for this fuser"
    )]
    OtherFuser {
        /// Which record.
        what: &'static str,
        /// The fingerprint of the fuser in use.
        expected: String,
        /// The one in the record.
        got: String,
    },
    /// A record that contradicts itself, or lacks what it must have.
    #[error("{what}: expected {expected}, got {got}")]
    Record {
        /// Which record, and where in it.
        what: String,
        /// What must hold.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A message that is larger than its cap.
    #[error("{what}: expected at most {cap_bytes} bytes, got {got_bytes}")]
    OverCap {
        /// Whose message.
        what: String,
        /// The cap.
        cap_bytes: u64,
        /// The message.
        got_bytes: u64,
    },
    /// A vocabulary in which an option does not begin with a token of its own.
    #[error(
        "option `{word}`: expected a first token with a letter of it, got the blank alone; \
         a vocabulary of more than {vocab} tokens has one"
    )]
    OptionToken {
        /// The option.
        word: String,
        /// Tokens of the vocabulary.
        vocab: usize,
    },
    /// A model that did not learn what it must know, or knows what it must not.
    #[error(
        "the {role} answers {:.1} % of `{exam}` after {steps} steps, expected at {bound} {:.1} %: \
         nothing that follows would mean anything",
        100.0 * got, 100.0 * limit
    )]
    Gate {
        /// Whose model.
        role: &'static str,
        /// What was asked.
        exam: String,
        /// `least` or `most`.
        bound: &'static str,
        /// Share of right answers that was asked for.
        limit: f64,
        /// Share of right answers.
        got: f64,
        /// Steps it was taught for.
        steps: u64,
    },
    /// A model of another world.
    #[error("{}: expected the world {expected}, got {got}\n  hint: name another folder", path.display())]
    OtherWorld {
        /// The run directory.
        path: PathBuf,
        /// Fingerprint of the world at hand.
        expected: String,
        /// Fingerprint on record.
        got: String,
    },
    /// Work that was stopped and can be gone on with.
    #[error("interrupted: what was done is saved in {}", path.display())]
    Interrupted {
        /// The run directory.
        path: PathBuf,
    },
    /// The ledger's limit is reached.
    #[error(transparent)]
    Refused(#[from] smidgen_codec::Refused),
    /// A container that was received is wrong.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A container cannot be made.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A container that cannot be made compact.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// A container is for another model or prompt.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Something is wrong between two peers.
    #[error(transparent)]
    Net(#[from] crate::net::NetError),
    /// A file could not be written or read.
    #[error(transparent)]
    Store(#[from] smidgen_store::Error),
    /// A tokenizer or a dataset.
    #[error(transparent)]
    Data(#[from] smidgen_data::Error),
    /// A model failed.
    #[error(transparent)]
    Model(#[from] smidgen_model::Error),
    /// The engine failed.
    #[error(transparent)]
    Tensor(#[from] smidgen_tensor::Error),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] smidgen_train::Error),
}

impl Error {
    /// A setting or an argument that cannot be.
    pub(crate) fn value(
        key: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Error {
        Error::Value { key, expected: expected.into(), got: got.to_string() }
    }

    /// A record that cannot be.
    pub(crate) fn record(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Error {
        Error::Record { what: what.into(), expected: expected.into(), got: got.to_string() }
    }

    /// A name that is none of `known`.
    pub(crate) fn unknown<'a>(
        what: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Error {
        let known: Vec<&str> = known.into_iter().collect();
        let near = smidgen_store::nearest(name, known.iter().copied());
        let hint = near.map_or(String::new(), |near| format!("\n  hint: did you mean `{near}`?"));
        Error::UnknownName { what, name: name.into(), known: known.join(", "), hint }
    }
}

impl From<Error> for smidgen_train::Error {
    /// Refusals of memory stay what they are, so that training may go on in smaller pieces.
    fn from(error: Error) -> smidgen_train::Error {
        match error {
            Error::Train(error) => error,
            Error::Model(error) => error.into(),
            Error::Tensor(error) => error.into(),
            Error::Store(error) => error.into(),
            error => smidgen_train::Error::Objective(Box::new(error)),
        }
    }
}
