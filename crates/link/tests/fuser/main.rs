//! Fusers between two small models: gradients, equalities that must hold to the bit, files, training.

mod answers;
mod files;
mod gradients;
mod models;
mod sparse;
mod training;
