//! A container's way from a sharer to a receiver: frames, a handshake, credit, deadlines.
//!
//! What a container holds is no business of this module: it is a length, a header and bytes, which a
//! [`Sink`] takes as they come. Every byte on the wire is counted ([`LinkBytes`]), every wrong byte
//! is a typed error ([`NetError`]) on the side that sees it and a [`Reject`] on the other.
//! This is not an RPC system: one sharer sends, one receiver answers.
//!
//! Read [`Sender`], [`Receiver`] and [`Sink`] first, `docs/link-wire.md` for the bytes.
//!
//! ```
//! use smidgen_link::net::{self, Collect, Compatibility, Event, Options, Receiver, Reply, Sender};
//! use smidgen_link::{KvShape, wire};
//!
//! let cache = Compatibility {
//!     family: "llama".into(),
//!     shape: KvShape { layers: 2, kv_heads: 1, key_dim: 8, value_dim: 8 },
//!     k_space: wire::KeySpace::PostRope,
//!     rope_theta: 1e4,
//!     tokenizer: [1; 32],
//!     weights: [2; 32],
//!     fuser: None,
//! };
//! let (near, far) = net::memory_pair();
//! let wanted = cache.clone();
//! let receiver = std::thread::spawn(move || {
//!     let mut receiver = Receiver::open(far, &wanted, &Options::default())?;
//!     let mut sink = Collect::default();
//!     while let Event::Message(_) = receiver.receive(&mut sink)? {
//!         receiver.taken(Vec::new())?;
//!     }
//!     Ok::<_, net::NetError>(sink.take())
//! });
//! let mut sender = Sender::open(near, &cache, &Options::default())?;
//! sender.send(b"header and payload", 6)?;
//! assert!(matches!(sender.reply()?, Reply::Taken(_)));
//! let (_, traffic) = sender.finish()?;
//! assert_eq!(traffic.sent.container, 18);
//! assert_eq!(receiver.join().unwrap()?.unwrap(), b"header and payload");
//! # Ok::<(), net::NetError>(())
//! ```

mod body;
mod bytes;
mod channel;
mod clock;
mod compat;
mod error;
mod frame;
mod handshake;
mod hello;
mod key;
mod line;
mod options;
mod recv;
mod reject;
mod send;
mod shaper;
mod sink;
mod stats;
mod tally;
mod transport;

pub use bytes::{LinkBytes, Traffic};
pub use clock::{Clock, SystemClock};
pub use compat::{Compatibility, Field, Role};
pub use error::{FrameError, NetError};
pub use frame::{Frame, FrameReader, HEAD_BYTES, Kind, MAX_BODY_BYTES, encode};
pub use hello::{Hello, MAX_FAMILY_BYTES, MAX_TERMS_BYTES, VERSIONS};
pub use key::{KEY_VARIABLE, Key};
pub use line::{LineProfile, Passage, Schedule};
pub use options::{Deadlines, Limits, Options};
pub use recv::{Arrival, Event, Receiver};
pub use reject::{Code, Reject};
pub use send::{Outgoing, Pong, Reply, Sender};
pub use shaper::Shaped;
pub use sink::{Collect, Sink};
pub use stats::{Discarded, MAX_STAGE_BYTES, MAX_STAGES, Stage, Stats};
#[cfg(unix)]
pub use transport::Unix;
pub use transport::{
    Address, Exposure, FileWriter, Listener, Reading, Tcp, Transport, connect, memory_pair,
};
