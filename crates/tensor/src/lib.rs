//! The engine: tensors in pooled memory, fused operations with hand-written backward, kernels.
//!
//! A model is a function over a [`Tape`]: some ten coarse operations, each a kernel for every
//! instruction set and a gradient written by hand. Every buffer is booked in a
//! [`Ledger`](smidgen_codec::Ledger) under what it is for; blocks may be computed again instead of kept;
//! gradients leave through a [`GradSink`] the moment they are complete. Results are the same to the last
//! bit for any number of threads within one kernel set ([`Level`]).
//!
//! It is no general array library: tensors have two dimensions, there is no broadcasting, and an operation
//! exists because a model needs it fused. It does no I/O and knows no model, optimizer or file;
//! [`infer`] decodes without a tape and [`probe`] measures what the machine could do at most.
//!
//! Read first: [`Device`] (where memory and threads come from), [`Tape`] (what was computed, and the way
//! back), [`GradSink`] (who receives gradients, and when).
//!
//! ```
//! use smidgen_codec::{Ledger, Tag};
//! use smidgen_tensor::{
//!     Compute, Device, HeldGrads, LinearSpec, Params, Role, Tape, Targets, Tensor,
//! };
//!
//! let device = Device::cpu(Ledger::new(), 2);
//! let mut params = Params::new();
//! let hidden = params.add(&device, "hidden.weight", Role::MatrixHidden, [2, 3])?;
//! let head = params.add(&device, "head.weight", Role::Head, [4, 2])?;
//! params.load(hidden, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])?;
//!
//! let x = Tensor::from_f32(device.pool(), Tag::Activations, [1, 3], &[1.0, -1.0, 2.0])?;
//! let mut tape = Tape::training(&device, Compute::F32, &mut params);
//! let x = tape.input(x, true);
//! let h = tape.linear(x, &LinearSpec::new([hidden]), None)?;
//! let targets =
//!     Targets { tokens: [3].into(), weights: [1.0].into(), scale: 1.0, chunk_bytes: 1 << 20 };
//! let loss = tape.head_loss(h, head, targets)?;
//! // A head of zeros finds all four words equally likely.
//! let value = tape.value(loss).map(|loss| loss.slice::<f32>()[0]);
//! assert!((value.unwrap_or(0.0) - 4f32.ln()).abs() < 1e-6);
//!
//! let mut held = HeldGrads::new();
//! let inputs = tape.backward(loss, &mut held)?;
//! assert_eq!(inputs.get(x).map(Tensor::shape), Some([1, 3]));
//! assert_eq!(held.get(head).map(Tensor::shape), Some([4, 2]));
//! assert_eq!(device.ledger().live_bytes(Tag::Grads), (4 * 2 + 2 * 3) * 4);
//! # Ok::<(), smidgen_tensor::Error>(())
//! ```

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
pub mod weigh;

pub use device::Device;
pub use error::Error;
pub use kernels::attention::AttentionShape;
pub use kernels::dropout::Dropout;
pub use kernels::rope::RopeTable;
pub use matmul::Compute;
pub use matmul::operand::{Blend, Operand, gram, product};
pub use ops::{Gate, GateNoise, LinearSpec, Prefix, Targets};
pub use params::{GradSink, HeldGrads, Param, ParamId, Params, Role};
pub use pool::{Buffer, Pages, Pool};
pub use smidgen_codec::{Level, multiversion, simd};
pub use tape::{Gradients, Keep, Tape, Var};
pub use team::{Team, available_threads};
pub use tensor::{Element, Format, Tensor};
