//! Two programs with one model each: one shares what it read, the other answers with it.
//!
//! The sharer says in its `HELLO` what was read and where its tokens end ([`SharerTerms`]), the receiver
//! which layers an open gate of its fuser reads ([`ReceiverTerms`]). So neither needs the other's model,
//! tokenizer or fuser, and every byte of it is counted as handshake. Whatever goes wrong is a typed
//! error on the side that sees it and a `REJECT` on the other; whether a receiver then answers alone is
//! its caller's choice ([`Host::alone`]).
//!
//! Read [`Share`] and [`Host`] first.

mod blend;
mod compact;
mod compat;
mod intake;
mod learnt;
mod pack;
pub(crate) mod prompt;
mod serve;
mod share;
mod stages;
mod terms;

pub use compat::{FAMILY, as_sharer, as_wanted, tokenizer_sha256};
pub use intake::Intake;
pub use learnt::Learnt;
pub use pack::{Empty, Packed, Packing};
pub use serve::{Answer, Host, Served, Serving};
pub use share::{Sent, Share};
pub use terms::{ReceiverTerms, Said, SharerTerms};
