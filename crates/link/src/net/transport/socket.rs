//! TCP and Unix sockets, with deadlines set only when they change.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Transport;

/// A socket and the deadline that it has.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    wait: Option<Duration>,
}

/// A TCP connection. Frames leave at once: a small one never waits for the answer to another.
pub type Tcp = Socket<TcpStream>;
/// A Unix socket.
#[cfg(unix)]
pub type Unix = Socket<UnixStream>;

impl Tcp {
    /// Takes over a connection.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(stream: TcpStream) -> io::Result<Tcp> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Socket { stream, wait: None })
    }
}

#[cfg(unix)]
impl Unix {
    /// Takes over a connection.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(stream: UnixStream) -> io::Result<Unix> {
        stream.set_nonblocking(false)?;
        Ok(Socket { stream, wait: None })
    }
}

impl<S: Read> Read for Socket<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl<S: Write> Write for Socket<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

macro_rules! transport {
    ($stream:ty) => {
        impl Transport for Socket<$stream> {
            fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
                if self.wait != Some(wait) {
                    self.stream.set_read_timeout(Some(wait))?;
                    self.stream.set_write_timeout(Some(wait))?;
                    self.wait = Some(wait);
                }
                Ok(())
            }

            fn close(&mut self) -> io::Result<()> {
                self.stream.shutdown(Shutdown::Write)
            }

            fn abort(&mut self) {
                // A connection that is gone already cannot be ended.
                let _ = self.stream.shutdown(Shutdown::Both);
            }

            fn another(&self) -> io::Result<Box<dyn Transport>> {
                Ok(Box::new(Socket { stream: self.stream.try_clone()?, wait: None }))
            }
        }
    };
}

transport!(TcpStream);
#[cfg(unix)]
transport!(UnixStream);
