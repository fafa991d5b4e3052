//! TensorBoard event files: what `tensorboard --logdir RUN/events` shows.
//!
//! A file is a sequence of records: length (u64, little endian), masked CRC32C of the length,
//! payload, masked CRC32C of the payload; `mask(crc) = rotr(crc, 15) + 0xa282ead8`. A payload is one
//! `Event` in protocol buffer form, of which the handful of fields in use is written by hand.
//! The first record holds `brain.Event:2`; a `SessionLog` START at step s takes back what earlier
//! files say of step s and later, so that a resumed run shows every step once.

mod curves;
mod proto;
mod read;
mod record;
mod write;

pub use curves::Curves;
pub use read::{Content, Event, EventFile, Shown, SummaryValue};
pub use write::EventWriter;

/// The version that readers ask for in the first record.
const FILE_VERSION: &str = "brain.Event:2";
/// How the name of every event file begins; the readers of others look for it.
const PREFIX: &str = "events.out.tfevents.";
