//! What can be wrong with an evaluation.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number outside its range.
    #[error("`{key}`: expected {expected}, got {got}")]
    Range {
        /// Which setting.
        key: &'static str,
        /// The legal range.
        expected: String,
        /// The value.
        got: usize,
    },
    /// Nothing is there to be scored.
    #[error("expected a text to score, got none")]
    NoText,
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
    /// The system refuses a part of the sandbox.
    #[error(
        "the sandbox for foreign programs is unavailable: no {what}: {source}\n  hint: `--allow-unsandboxed` goes on with limits alone; only for a model that you trust"
    )]
    Unavailable {
        /// The part.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program could not be started or watched.
    #[error("the sandbox could not {action}: {source}")]
    Sandbox {
        /// What it was about to do.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no Rust compiler to ask.
    #[error(
        "the compile rate needs a Rust compiler: {why}\n  hint: install Rust, or name a compiler in `RUSTC`"
    )]
    NoRustc {
        /// What was tried, and what came of it.
        why: String,
    },
    /// The Rust compiler cannot even compile a small function in the sandbox.
    #[error("`{}` does not work in the sandbox for foreign programs: {why}", path.display())]
    RustcFails {
        /// The compiler.
        path: std::path::PathBuf,
        /// The first line of what it said.
        why: String,
    },
    /// The held-out texts have no function to complete.
    #[error(
        "no prompts for the compile rate: none of {functions} held-out function headers type-checks by itself\n  hint: it needs Rust text with free functions over standard types"
    )]
    NoPrompts {
        /// Headers that were found.
        functions: usize,
    },
    /// Not one completion for each prompt.
    #[error("the compile rate takes one completion per prompt: expected {expected}, got {got}")]
    Completions {
        /// Prompts.
        expected: usize,
        /// Completions.
        got: usize,
    },
}
