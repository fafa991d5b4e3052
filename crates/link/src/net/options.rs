//! What a side of the link takes, and how long it waits.

use std::time::Duration;

use super::compat::Field;
use super::frame::MAX_BODY_BYTES;
use super::key::Key;

/// Sizes in bytes. A peer is told the first two and held to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest container.
    pub message_bytes: u64,
    /// The longest frame body, 4 KiB to 1 MiB.
    pub frame_bytes: u32,
    /// The longest header of a container.
    pub header_bytes: usize,
    /// What a sharer may send before the receiver has worked on it; at least 1.
    pub window_bytes: u64,
    /// What a sharer puts into a `CHUNK`: large enough that 16 bytes of frame are nothing, small
    /// enough that the receiver can begin.
    pub chunk_bytes: usize,
}

impl Default for Limits {
    /// 1 GiB, 1 MiB, 256 KiB; a window that fills 1 Gbit/s over 60 ms; chunks of 64 KiB.
    fn default() -> Limits {
        Limits {
            message_bytes: 1 << 30,
            frame_bytes: MAX_BODY_BYTES as u32,
            header_bytes: 256 << 10,
            window_bytes: 8 << 20,
            chunk_bytes: 64 << 10,
        }
    }
}

/// How long a side waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For each read or write in a message or handshake.
    pub read: Duration,
    /// For a whole message, from `BEGIN` to its end, or a handshake: a peer that sends a byte a
    /// second meets this one.
    pub message: Duration,
    /// For the first byte of what comes after computing: the next message, the answer to one.
    pub idle: Duration,
}

impl Default for Deadlines {
    /// 30 s, 2 minutes, 10 minutes.
    fn default() -> Deadlines {
        let [read, message, idle] = [30, 120, 600].map(Duration::from_secs);
        Deadlines { read, message, idle }
    }
}

/// How a side behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sizes.
    pub limits: Limits,
    /// Times.
    pub deadlines: Deadlines,
    /// The secret both sides hold. Without one, nobody is kept from lying.
    pub key: Option<Key>,
    /// Fields of the compatibility block that may differ; each that does is a warning in the log.
    pub tolerated: Vec<Field>,
    /// What the peer's program is told, at most 64 KiB; opaque to the link.
    pub terms: Vec<u8>,
}
