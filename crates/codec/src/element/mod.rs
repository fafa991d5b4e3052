//! Element codes: the arithmetic of one value, without scales, for blocks and wire alike.
//!
//! A code that needs a scale takes the value already divided by it, and gives the value still to
//! be multiplied by it.

#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod bf16;
pub mod codebook;
pub mod f16;
pub mod int;
pub mod minifloat;
pub mod pack;
pub mod row;
