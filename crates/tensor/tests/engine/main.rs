//! The engine held to plain references through its public interface.
//!
//! `reference` is every operation again in f64, as obvious loops; `check` compares a tape with it, forward
//! and by central differences. The other files are the promises: gradients, bytes, threads, causality.

mod attention;
mod check;
mod gradients;
mod reference;
mod small;
