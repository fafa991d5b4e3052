//! Models of other programs, in and out: Hugging Face folders, GGUF files, llama2.c files.
//!
//! A family is data ([`FAMILIES`]): what it is called elsewhere and how its attention differs. A
//! [`ModelSource`] says which [`Spec`](crate::Spec) a file holds and fills the parameters of a decoder
//! with it; [`write_safetensors`] and [`write_gguf`] go the other way. A model that this crate does not
//! compute exactly is refused, and the message names the key.

mod config;
mod family;
mod fields;
mod llama2c;
mod metadata;
mod names;
mod rows;
mod shards;
mod source;
mod write;

pub use config::{config_of, spec_of_config};
pub use family::{FAMILIES, Family};
pub use metadata::{metadata_of, spec_of_gguf};
pub use source::{ModelKind, ModelSource};
pub use write::{write_gguf, write_safetensors};
