//! The operations of a tape: thin [`crate::tape::Op`]s over the kernels, one file each.

mod attention;
mod dot;
mod embedding;
mod head_loss;
mod linear;
mod rms_norm;
mod rope;
mod swiglu;

pub use head_loss::Targets;
pub(crate) use head_loss::chunk_rows;
pub use linear::LinearSpec;
pub(crate) use linear::stacked_rows;
