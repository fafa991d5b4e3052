//! A slower, longer line than the one there is, around any transport.
//!
//! Both directions are shaped at the end that is wrapped, so one process of the two is enough: what
//! is written waits for its turn and leaves half a round trip later, what is read was held back as
//! long. The times are those of a [`Schedule`].

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::Clock;
use super::line::{LineProfile, Schedule};
use super::transport::Transport;

/// The most that passes as one piece.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces on their way before a writer waits: 16 MiB.
const PIECES: usize = 1024;

type Piece = (Duration, io::Result<Vec<u8>>);

/// A transport seen through a line.
pub struct Shaped {
    inner: Box<dyn Transport>,
    clock: Arc<dyn Clock>,
    schedule: Schedule,
    wait: Duration,
    /// What was read ahead of its time.
    incoming: Receiver<Piece>,
    /// Arrived, not yet read.
    arrived: io::Cursor<Vec<u8>>,
    /// Dropped where nothing more is written.
    outgoing: Option<SyncSender<(Duration, Vec<u8>)>>,
    /// What the writing thread ran into.
    broken: Arc<Mutex<Option<io::Error>>>,
    writer: Option<JoinHandle<()>>,
}

impl Shaped {
    /// Puts a line between this side and the peer.
    ///
    /// # Errors
    /// `Unsupported` for a transport that has one direction only; what the operating system says.
    pub fn new(
        inner: Box<dyn Transport>,
        profile: LineProfile,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Shaped> {
        let (reading, writing) = (inner.another()?, inner.another()?);
        let (arriving, incoming) = sync_channel(PIECES);
        let (outgoing, leaving) = sync_channel(PIECES);
        let broken = Arc::new(Mutex::new(None));
        let schedule = Schedule::new(profile);
        let (reader_clock, reader_schedule) = (clock.clone(), schedule.clone());
        std::thread::spawn(move || read_ahead(reading, reader_schedule, &*reader_clock, &arriving));
        let (writer_clock, fault) = (clock.clone(), broken.clone());
        let writer = std::thread::spawn(move || {
            if let Err(error) = write_late(writing, &*writer_clock, &leaving) {
                *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        Ok(Shaped {
            inner,
            clock,
            schedule,
            wait: Duration::from_secs(30),
            incoming,
            arrived: io::Cursor::default(),
            outgoing: Some(outgoing),
            broken,
            writer: Some(writer),
        })
    }

    fn finish_writing(&mut self) {
        self.outgoing = None;
        if let Some(writer) = self.writer.take() {
            // It keeps its error in `broken`; a panic there has been shown already.
            let _ = writer.join();
        }
    }
}

/// Reads as bytes come and marks each piece with the time at which it may be seen.
fn read_ahead(
    mut inner: Box<dyn Transport>,
    mut schedule: Schedule,
    clock: &dyn Clock,
    arriving: &SyncSender<Piece>,
) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = inner.read(&mut piece);
        if matches!(&read, Err(error) if is_timeout(error)) {
            // The side that waits has its own deadline; the last handle's end wakes this one.
            continue;
        }
        let last = !matches!(read, Ok(1..));
        let passage = schedule.admit(clock.now(), *read.as_ref().unwrap_or(&0) as u64);
        let bytes = read.map(|count| piece[..count].to_vec());
        if arriving.send((passage.arrive, bytes)).is_err() || last {
            return;
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock | Interrupted)
}

/// Writes each piece at its time.
fn write_late(
    mut inner: Box<dyn Transport>,
    clock: &dyn Clock,
    leaving: &Receiver<(Duration, Vec<u8>)>,
) -> io::Result<()> {
    for (arrive, bytes) in leaving {
        clock.sleep_until(arrive);
        inner.write_all(&bytes)?;
    }
    Ok(())
}

impl Read for Shaped {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.arrived.position() == self.arrived.get_ref().len() as u64 {
            let (arrive, bytes) = match self.incoming.recv_timeout(self.wait) {
                Ok(piece) => piece,
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            self.clock.sleep_until(arrive);
            self.arrived = io::Cursor::new(bytes?);
        }
        self.arrived.read(buf)
    }
}

impl Write for Shaped {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(error) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let Some(outgoing) = &self.outgoing else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let piece = &buf[..buf.len().min(PIECE_BYTES)];
        let passage = self.schedule.admit(self.clock.now(), piece.len() as u64);
        self.clock.sleep_until(passage.depart);
        match outgoing.send((passage.arrive, piece.to_vec())) {
            Ok(()) => Ok(piece.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Shaped {
    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.wait = wait;
        // Handles of one socket share their deadline.
        self.inner.set_wait(wait)
    }

    fn close(&mut self) -> io::Result<()> {
        self.finish_writing();
        self.inner.close()
    }

    fn abort(&mut self) {
        self.inner.abort();
    }

    fn another(&self) -> io::Result<Box<dyn Transport>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a line is shaped once"))
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        // What a session wants to arrive, it closes for. This wakes both threads.
        self.inner.abort();
        self.finish_writing();
    }
}

#[cfg(test)]
mod tests {
    use super::super::transport::memory_pair;
    use super::*;

    fn profile(bytes_per_s: u64, rtt_ms: u64) -> LineProfile {
        LineProfile { bytes_per_s, rtt: Duration::from_millis(rtt_ms), burst_bytes: 0 }
    }

    /// A clock that stands still and keeps what it was asked for.
    #[derive(Default)]
    struct Frozen(Mutex<Vec<Duration>>);

    impl Clock for Frozen {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep_until(&self, at: Duration) {
            self.0.lock().unwrap().push(at);
        }
    }

    #[test]
    fn bytes_pass_in_order_at_the_times_of_the_schedule() {
        let clock = Arc::new(Frozen::default());
        let (near, mut far) = memory_pair();
        let mut shaped = Shaped::new(near, profile(1_000_000, 10), clock.clone()).unwrap();
        let sent: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        shaped.write_all(&sent).unwrap();
        far.write_all(b"back").unwrap();
        let mut back = [0; 4];
        shaped.read_exact(&mut back).unwrap();
        shaped.close().unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert!(got == sent && back == *b"back");
        // The last piece arrives after 100 ms on the line and half a round trip.
        assert_eq!(clock.0.lock().unwrap().iter().max(), Some(&Duration::from_millis(105)));
        // `back` came in one piece: four microseconds and half a round trip.
        assert!(clock.0.lock().unwrap().contains(&Duration::from_micros(5004)));
        drop(shaped);
        assert!(far.write_all(&[0; 8]).is_err());
    }

    #[test]
    fn a_file_has_no_round_trip() {
        let file = super::super::transport::Reading(&b""[..]);
        assert!(Shaped::new(Box::new(file), profile(1, 1), Arc::new(Frozen::default())).is_err());
    }
}
