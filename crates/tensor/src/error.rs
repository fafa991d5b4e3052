//! What can go wrong in the engine.

/// Errors of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system gave no more memory.
    #[error(
        "out of memory: {bytes} bytes for `{tag}`, {live} bytes are in use\n  hint: a smaller batch, context or model needs less"
    )]
    OutOfMemory {
        /// What the bytes were for.
        tag: &'static str,
        /// How many were asked for.
        bytes: usize,
        /// How many the ledger counts in all.
        live: usize,
    },
    /// The bytes would pass the limit of the ledger.
    #[error(
        "memory budget: {bytes} bytes for `{tag}` do not fit, {live} of {limit} bytes are in use\n  hint: a larger budget, or a smaller batch, context or model"
    )]
    OverBudget {
        /// What the bytes were for.
        tag: &'static str,
        /// How many were asked for.
        bytes: usize,
        /// How many are in use.
        live: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Bytes were to lie in a file, and there is none.
    #[error(
        "`{tag}` is to be paged, and there is no file for it\n  hint: a run has one in its directory"
    )]
    NoPages {
        /// What the bytes were for.
        tag: &'static str,
    },
    /// Two shapes do not fit together.
    #[error("`{what}`: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// Operation and operand, or a parameter's name.
        what: String,
        /// The shape that fits.
        expected: Vec<usize>,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A value is outside what an operation takes.
    #[error("`{what}`: expected {expected}, got {got}")]
    Value {
        /// Operation and argument.
        what: String,
        /// What it takes.
        expected: String,
        /// What came.
        got: String,
    },
    /// A gradient or loss is not a finite number.
    #[error("gradient of `{param}` is not finite")]
    NotFinite {
        /// The parameter's name.
        param: String,
    },
    /// A receiver of gradients failed.
    #[error("{0}")]
    Sink(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Shape error in one line.
pub(crate) fn shape(what: impl Into<String>, expected: &[usize], got: &[usize]) -> Error {
    Error::Shape { what: what.into(), expected: expected.to_vec(), got: got.to_vec() }
}

impl Error {
    /// Whether memory was refused, so that the same work in smaller pieces may succeed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::OutOfMemory { .. } | Error::OverBudget { .. })
    }
}
