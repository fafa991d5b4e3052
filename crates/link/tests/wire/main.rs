//! The container, from outside.

mod common;
mod corrupt;
mod forms;
mod round;
mod threads;
mod vectors;
