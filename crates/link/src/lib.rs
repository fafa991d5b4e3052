//! The link: two language models exchange caches of keys and values under an exact byte cap.
//!
//! A *sharer* reads a prompt and sends parts of its cache; a *receiver* fuses them into its own and
//! answers. What travels is a container whose every byte is counted; what it was worth is measured
//! beside controls. This crate is not a transport for whole models and trains no language model of
//! its own: runs come from `train`.
//!
//! Read [`KvShape`], [`KvView`] and [`KvCache`] first.

pub mod align;
mod answer;
pub mod demo;
mod error;
pub mod fuse;
mod kv;
pub mod message;
pub mod methods;
pub mod net;
mod phases;
pub mod plan;
pub mod record;
pub mod remote;
pub mod select;
mod side;
pub mod stats;
pub mod text;
pub mod wire;
pub mod world;

pub use answer::{Read, Receiver};
pub use error::Error;
pub use kv::{KvCache, KvShape, KvView};
pub use phases::{Answered, Phases, Question, answer_together};
pub use side::{Prefill, Side};
