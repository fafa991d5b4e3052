//! The engine held to plain references through its public interface.
//!
//! `reference` is every operation again in f64, as obvious loops; `check` compares a tape with it, forward
//! and by central differences. The other files are the promises: gradients, bytes, threads, causality.

mod attention;
mod blocks;
mod causality;
mod check;
mod extremes;
mod gradients;
mod infer;
mod memory;
mod reference;
mod sink;
mod small;
mod threads;
mod wrong_input;
