//! Number formats, counter-based random numbers and the byte ledger.
//!
//! Weights, optimizer state, gradients and caches are all runs of `f32` values that live in some
//! [`Format`]; this crate turns the one into the other and counts the bytes. It does no I/O,
//! starts no threads, and knows nothing of tensors, models or files.
//!
//! Read first: [`Codec`] (what a format is), [`Packed`] (values in a format), [`Ledger`] (who owns
//! which byte). A new format is one file in `formats/` and one entry in [`CODECS`].
//!
//! ```
//! use smidgen_codec::{Format, Packed, Rounding};
//!
//! let values = [0.5, -1.25, 3.0, 1e-3, 0.0, 7.0];
//! let packed = Packed::encode(Format::by_name("bf16")?, [2, 3], &values, Rounding::Nearest)?;
//! assert_eq!(packed.bytes().len(), 12);
//!
//! let mut back = [0.0; 6];
//! packed.decode_into(&mut back)?;
//! assert_eq!(back[..3], values[..3]);
//! # Ok::<(), smidgen_codec::Error>(())
//! ```

pub mod element;
mod error;
mod format;
mod formats;
mod layout;
mod ledger;
mod nearest;
mod packed;
pub mod quality;
mod registry;
pub mod rng;
pub mod simd;

pub use error::Error;
pub use format::{Codec, Rounding, Sign};
pub use formats::{Bf16, F16, F32};
pub use layout::Layout;
pub use ledger::{Entry, Ledger, PagedEntry, Refused, Tag};
pub use nearest::nearest;
pub use packed::{ChunkMut, Packed};
pub use registry::{CODECS, Format};
pub use rng::{Rng, Stream};
pub use simd::Level;
