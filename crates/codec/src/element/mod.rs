//! Element codes: the arithmetic of one value, without scales, for blocks and wire alike.

pub mod bf16;
pub mod f16;
