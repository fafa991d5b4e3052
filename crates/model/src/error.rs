//! What can go wrong with a model.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sizes of a model that do not fit together.
    #[error("`{key}`: expected {expected}, got {got}")]
    Spec {
        /// The field of the [`crate::Spec`].
        key: &'static str,
        /// What fits.
        expected: String,
        /// What was given.
        got: String,
    },
    /// An option of sampling outside its range.
    #[error("`{key}`: expected {expected}, got {got}")]
    Sampling {
        /// The option.
        key: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was given.
        got: String,
    },
    /// More tokens than a session has room for.
    #[error("context is full: {held} tokens are held, {new} more do not fit into {capacity}")]
    ContextFull {
        /// Tokens held already.
        held: usize,
        /// Tokens to be added.
        new: usize,
        /// Tokens there is room for.
        capacity: usize,
    },
    /// The engine failed.
    #[error(transparent)]
    Tensor(#[from] smidgen_tensor::Error),
}
