//! The engine: tensors in pooled memory, fused operations with hand-written backward, kernels.

mod error;
mod matmul;
mod pool;
pub mod simd;
mod team;
mod tensor;

pub use error::Error;
pub use matmul::Compute;
pub use pool::{Buffer, Pool};
pub use simd::Level;
pub use team::{Team, available_threads};
pub use tensor::{Element, Format, Tensor};
