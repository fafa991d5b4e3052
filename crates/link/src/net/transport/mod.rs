//! Ways for bytes to get from one peer to the other.
//!
//! TCP and Unix sockets, a pair in memory, and a file that is written now and read later. All block,
//! each read and write for at most the time that was set: a session has one thread.

mod address;
mod file;
mod memory;
mod socket;

use std::io::{self, Read, Write};
use std::time::Duration;

pub use address::{Address, Exposure, Listener, connect};
pub use file::{FileWriter, Reading};
pub use memory::memory_pair;
pub use socket::Tcp;
#[cfg(unix)]
pub use socket::Unix;

/// A way to the peer. A read that ends with `Ok(0)` is the end of the stream; one that takes longer
/// than was set is `TimedOut` or `WouldBlock`.
pub trait Transport: Read + Write + Send {
    /// How long each later read and write may take; never zero.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_wait(&mut self, wait: Duration) -> io::Result<()>;

    /// Whether the peer can answer. A file cannot.
    fn duplex(&self) -> bool {
        true
    }

    /// Nothing more will be written. The peer sees the end of the stream; a file is now there.
    ///
    /// # Errors
    /// What the operating system says.
    fn close(&mut self) -> io::Result<()>;

    /// Ends both directions at once, for every handle.
    fn abort(&mut self);

    /// Another handle on the same connection, so that one can read while the other writes.
    ///
    /// # Errors
    /// What the operating system says; `Unsupported` for a file.
    fn another(&self) -> io::Result<Box<dyn Transport>>;
}

/// The error of a side that the transport does not have.
fn one_way(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("a file is only {what}"))
}
