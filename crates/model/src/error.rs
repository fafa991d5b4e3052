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
    /// A model of another program that is not computed exactly here, or a damaged description.
    #[error("`{key}` in {}: expected {expected}, got {got}", file.display())]
    Foreign {
        /// The file that describes the model.
        file: std::path::PathBuf,
        /// The key.
        key: String,
        /// What is computed here.
        expected: String,
        /// What the model asks for.
        got: String,
    },
    /// A model that no family of other programs computes.
    #[error(
        "expected a model that other programs know, got one with `qkv_bias` and `qk_norm` at once\n  \
         hint: the llama family has neither, qwen2 has the biases, qwen3 has the norms"
    )]
    NoFamily,
    /// A file of a model cannot be read or written.
    #[error(transparent)]
    Store(#[from] smidgen_store::Error),
    /// The engine failed.
    #[error(transparent)]
    Tensor(#[from] smidgen_tensor::Error),
}
