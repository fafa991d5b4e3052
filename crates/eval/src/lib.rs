//! What a trained model is worth: figures taken from text and from what it writes.
//!
//! Nothing here trains, and nothing here knows a run directory: a figure is a function of a decoder,
//! a tokenizer and a text.
//!
//! Read first: [`Scoring`] (perplexity and bits per byte of a text), [`compile`] (how much of what a
//! model writes compiles).

#[cfg(unix)]
pub mod compile;
mod error;
mod perplexity;
#[cfg(unix)]
pub mod sandbox;

pub use error::Error;
pub use perplexity::{ScoredToken, Scoring, TextScore, Windows};
