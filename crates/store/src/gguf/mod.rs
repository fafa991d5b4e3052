//! GGUF files: one header of keys and tensors, then the data; read in place, written as a stream.
//!
//! Layout of version 3, little-endian: `GGUF`, version (u32), number of tensors and of keys (u64
//! each), the keys (name, type, value), the tensors (name, dimensions with the fastest first, type,
//! offset), padding, and every tensor's data at a multiple of the alignment. Version 1 has counts,
//! lengths and dimensions of 32 bits. Source: the format's own description in the ggml project.

mod kind;
mod read;
mod value;
mod write;

pub use kind::GgufType;
pub use read::{GgufFile, GgufTensor};
pub use value::{GgufArray, GgufValue};
pub use write::{GgufInfo, write_gguf};

const MAGIC: &[u8; 4] = b"GGUF";
/// What is written; 1 and 2 are read as well.
const VERSION: u32 = 3;
/// Where tensors begin, unless `general.alignment` says otherwise.
const ALIGNMENT: usize = 32;
