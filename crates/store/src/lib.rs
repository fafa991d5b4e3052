//! Files: one seam for every write, the run directory, checkpoints, strict configuration.

mod files;

pub use files::{Disk, Files, Sink};
