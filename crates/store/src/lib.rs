//! Files: one seam for every write, the run directory, checkpoints, strict configuration.

mod atomic;
mod bytes;
mod error;
mod faulty;
mod files;
mod hash;
mod nearest;

pub use atomic::{write_atomic, write_json, write_text};
pub use bytes::Bytes;
pub use error::Error;
pub use faulty::{Fault, Faulty};
pub use files::{Disk, Files, Sink};
pub use hash::{sha256_bytes, sha256_file};
pub use nearest::nearest;
