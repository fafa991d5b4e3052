//! The engine: tensors in pooled memory, fused operations with hand-written backward, kernels.

mod error;
mod pool;
pub mod simd;
mod team;

pub use error::Error;
pub use pool::{Buffer, Pool};
pub use simd::Level;
pub use team::{Team, available_threads};
