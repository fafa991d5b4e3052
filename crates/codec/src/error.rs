//! What can be wrong with the name of a format or with the bytes in it.

use crate::nearest::hint;

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No format has this name.
    #[error("unknown format `{name}`, expected one of: {}{}", .known.join(", "), hint(name, .known))]
    UnknownFormat {
        /// The name as written.
        name: String,
        /// Every name in the registry.
        known: Vec<&'static str>,
    },
    /// No format has this number.
    #[error("unknown format number {id}, expected one of: {known:?}")]
    UnknownId {
        /// The number as read.
        id: u16,
        /// Every number in the registry.
        known: Vec<u16>,
    },
    /// The format exists, but not with this parameter.
    #[error("format `{name}`: expected {expected}, got `{got}`")]
    Parameter {
        /// The name as written.
        name: String,
        /// What the format takes.
        expected: String,
        /// The parameter as written.
        got: String,
    },
    /// A buffer does not have the length that its format and shape ask for.
    #[error("{what} of `{format}` {shape:?}: expected {expected}, got {got}")]
    Length {
        /// Which buffer, with its unit: `bytes`, `header bytes`, `values`.
        what: &'static str,
        /// The full name of the format.
        format: String,
        /// Rows and columns.
        shape: [usize; 2],
        /// The length that fits.
        expected: usize,
        /// The length found.
        got: usize,
    },
}
