//! Language models: a [`Spec`] says what a decoder looks like, a [`Decoder`] runs it on a tape, and a
//! [`Session`] decodes token by token with cached keys and values.
//!
//! This crate knows shapes, names and initial values. It knows nothing of files of text, optimizers or
//! training loops. Read [`Spec`], [`Decoder`] and [`Session`] first.
//!
//! ```
//! use smidgen_codec::Ledger;
//! use smidgen_model::{Decoder, Session, Spec};
//! use smidgen_tensor::{Compute, Device, Params};
//!
//! let device = Device::cpu(Ledger::new(), 1);
//! let mut params = Params::new();
//! let decoder = Decoder::new(&device, Spec::preset("tiny").unwrap(), &mut params)?;
//! decoder.init(&mut params, 1);
//! let mut session = Session::new(&device, Compute::F32, &decoder, &params, 16)?;
//! let logits = session.feed(&[1, 2, 3])?;
//! assert_eq!(logits.len(), decoder.spec().vocab);
//! # Ok::<(), smidgen_model::Error>(())
//! ```

mod capture;
mod decoder;
mod error;
pub mod exchange;
mod presets;
mod sample;
mod scorer;
mod session;
mod spec;

pub use capture::{KeySpace, LayerKv};
pub use decoder::{Decoder, TokenBatch};
pub use error::Error;
pub use presets::{PRESETS, Preset};
pub use sample::{Sampler, Sampling};
pub use scorer::{Front, Scorer};
pub use session::Session;
pub use spec::{ParamShape, Spec};
