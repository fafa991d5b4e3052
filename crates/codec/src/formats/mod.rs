//! The formats, one file each.

mod bf16;
mod f32;

pub use bf16::Bf16;
pub use f32::F32;
