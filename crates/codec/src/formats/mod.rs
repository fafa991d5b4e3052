//! The formats, one file each.

mod bf16;
mod f16;
mod f32;
mod q8_0;

pub use bf16::Bf16;
pub use f16::F16;
pub use f32::F32;
pub use q8_0::Q8_0;
