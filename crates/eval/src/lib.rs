//! What a trained model is worth: figures taken from text and from what it writes.
//!
//! Nothing here trains, and nothing here knows a run directory: a figure is a function of a decoder,
//! a tokenizer and a text.
//!
//! Read first: [`Error`] (what can be wrong).

#[cfg(unix)]
pub mod compile;
mod error;
#[cfg(unix)]
pub mod sandbox;

pub use error::Error;
