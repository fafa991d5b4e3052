//! The operations of a tape: thin [`crate::tape::Op`]s over the kernels, one file each.

mod add;
mod attention;
mod dot;
mod embedding;
mod gate;
mod gelu;
mod head_loss;
mod linear;
mod put_rows;
mod rms_norm;
mod rope;
mod swiglu;

pub use attention::Prefix;
pub use gate::{Gate, GateNoise};
pub use head_loss::Targets;
pub(crate) use head_loss::chunk_rows;
pub use linear::LinearSpec;
pub(crate) use linear::stacked_rows;
