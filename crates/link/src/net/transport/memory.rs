//! Two ends in one process: what is written at one is read at the other, with as much room as a
//! socket has, so that a peer who does not read is noticed here too.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Transport;

/// Bytes on their way in one direction.
const ROOM_BYTES: usize = 256 << 10;

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Nothing more is written.
    closed: bool,
    /// Nobody reads any more.
    gone: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
}

impl Pipe {
    /// The state is whole after every statement, so a panic of the other side is none of ours.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(
        &self,
        wait: Duration,
        idle: impl Fn(&State) -> bool,
    ) -> io::Result<MutexGuard<'_, State>> {
        let waited = self.changed.wait_timeout_while(self.lock(), wait, |state| idle(state));
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(state) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// One handle of an end; the end is closed with its last handle.
#[derive(Debug)]
struct End {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.incoming.change(|state| state.gone = true);
        self.outgoing.change(|state| state.closed = true);
    }
}

#[derive(Debug)]
struct Memory {
    end: Arc<End>,
    wait: Duration,
}

/// Two connected ends.
pub fn memory_pair() -> (Box<dyn Transport>, Box<dyn Transport>) {
    let (a, b) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    let end = |incoming: &Arc<Pipe>, outgoing: &Arc<Pipe>| -> Box<dyn Transport> {
        let end = End { incoming: incoming.clone(), outgoing: outgoing.clone() };
        Box::new(Memory { end: Arc::new(end), wait: Duration::from_secs(30) })
    };
    (end(&a, &b), end(&b, &a))
}

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let idle = |state: &State| state.bytes.is_empty() && !state.closed && !state.gone;
        let mut state = self.end.incoming.wait(self.wait, idle)?;
        let count = state.bytes.read(buf)?;
        drop(state);
        self.end.incoming.changed.notify_all();
        Ok(count)
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let idle = |state: &State| state.bytes.len() >= ROOM_BYTES && !state.closed && !state.gone;
        let mut state = self.end.outgoing.wait(self.wait, idle)?;
        if state.closed || state.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = buf.len().min(ROOM_BYTES - state.bytes.len());
        state.bytes.extend(&buf[..count]);
        drop(state);
        self.end.outgoing.changed.notify_all();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Memory {
    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.wait = wait;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        self.end.outgoing.change(|state| state.closed = true);
        Ok(())
    }

    fn abort(&mut self) {
        self.end.outgoing.change(|state| state.closed = true);
        self.end.incoming.change(|state| state.gone = true);
    }

    fn another(&self) -> io::Result<Box<dyn Transport>> {
        Ok(Box::new(Memory { end: self.end.clone(), wait: self.wait }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_until_an_end_closes() {
        let (mut a, mut b) = memory_pair();
        a.write_all(b"hello").unwrap();
        a.close().unwrap();
        assert_eq!(a.write(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut text = String::new();
        b.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        let other = b.another().unwrap();
        drop(b);
        drop(other);
        assert_eq!(a.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn silence_and_a_peer_that_does_not_read_are_noticed() {
        let (mut a, mut b) = memory_pair();
        b.set_wait(Duration::from_millis(1)).unwrap();
        assert_eq!(b.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(b.write(&[0; ROOM_BYTES + 5]).unwrap(), ROOM_BYTES);
        assert_eq!(b.write(&[0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(a.read(&mut [0; 10]).unwrap(), 10);
        assert_eq!(b.write(&[0; 20]).unwrap(), 10);
        drop(a);
        assert_eq!(b.write(&[0]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
