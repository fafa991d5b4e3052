//! What can be wrong with an evaluation.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text or its tokenizer is wrong.
    #[error(transparent)]
    Data(#[from] smidgen_data::Error),
    /// The model cannot take this input.
    #[error(transparent)]
    Model(#[from] smidgen_model::Error),
    /// The engine refused.
    #[error(transparent)]
    Tensor(#[from] smidgen_tensor::Error),
    /// A file could not be written or read.
    #[error(transparent)]
    Store(#[from] smidgen_store::Error),
}
