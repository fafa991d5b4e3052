//! The engine: tensors in pooled memory, fused operations with hand-written backward, kernels.

mod device;
mod error;
pub mod infer;
mod kernels;
mod matmul;
mod ops;
mod params;
mod pool;
pub mod probe;
mod tape;
mod team;
mod tensor;

pub use device::Device;
pub use error::Error;
pub use kernels::attention::AttentionShape;
pub use kernels::rope::RopeTable;
pub use matmul::Compute;
pub use ops::{LinearSpec, Targets};
pub use params::{GradSink, HeldGrads, Param, ParamId, Params, Role};
pub use pool::{Buffer, Pool};
pub use smidgen_codec::{Level, multiversion, simd};
pub use tape::{Gradients, Keep, Tape, Var};
pub use team::{Team, available_threads};
pub use tensor::{Element, Format, Tensor};
