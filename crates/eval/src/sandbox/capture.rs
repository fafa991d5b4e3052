//! Reads what a program writes, with a bound and a deadline.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The read end of a program's output.
pub(super) struct Capture {
    pipe: File,
    kept: Vec<u8>,
    bound: usize,
    ended: bool,
}

impl Capture {
    pub(super) fn new(pipe: OwnedFd, bound: usize) -> Self {
        Self { pipe: File::from(pipe), kept: Vec::new(), bound, ended: false }
    }

    /// Waits until there is output, `other` has something to read, or `wait` is over; takes the
    /// output. Tells whether `other` is ready.
    pub(super) fn pump(&mut self, other: Option<RawFd>, wait: Duration) -> io::Result<bool> {
        let output = if self.ended { -1 } else { self.pipe.as_raw_fd() };
        let ready = wait_for([output, other.unwrap_or(-1)], wait)?;
        if ready[0] {
            self.take()?;
        }
        Ok(ready[1])
    }

    /// Takes what is there already, without waiting for more: somebody may still hold the pipe.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        while !self.ended && wait_for([self.pipe.as_raw_fd(), -1], Duration::ZERO)?[0] {
            self.take()?;
        }
        Ok(self.kept)
    }

    fn take(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8192];
        match self.pipe.read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                let room = self.bound - self.kept.len();
                self.kept.extend_from_slice(&chunk[..count.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// What is left until `deadline`.
pub(super) fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Which of two descriptors can be read without waiting (closed ones can); -1 is never ready.
#[allow(unsafe_code)]
fn wait_for(fds: [RawFd; 2], wait: Duration) -> io::Result<[bool; 2]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // Rounded up: a wait of zero would spin at the deadline.
    let wait_ms = wait.as_micros().div_ceil(1000).min(1 << 20) as i32;
    // SAFETY: the pointer and the count describe a live array of that length.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, wait_ms) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        // A signal is no reason to stop watching; the caller looks at the clock and comes again.
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok([false; 2])
        } else {
            Err(error)
        };
    }
    Ok(polled.map(|entry| entry.revents != 0))
}
