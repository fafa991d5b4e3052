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
    /// The next of it, where its time was past a deadline.
    next: Option<Piece>,
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
            next: None,
            arrived: io::Cursor::default(),
            outgoing: Some(outgoing),
            broken,
            writer: Some(writer),
        })
    }

    /// What the writing thread ran into, once.
    fn fault(&self) -> Option<io::Error> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).take()
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
            let until = self.clock.now().saturating_add(self.wait);
            let piece = match self.next.take() {
                Some(piece) => Ok(piece),
                None => self.incoming.recv_timeout(self.wait),
            };
            let (arrive, bytes) = match piece {
                Ok(piece) => piece,
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            self.clock.sleep_until(arrive.min(until));
            if arrive > until {
                self.next = Some((arrive, bytes));
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.arrived = io::Cursor::new(bytes?);
        }
        self.arrived.read(buf)
    }
}

impl Write for Shaped {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(error) = self.fault() {
            return Err(error);
        }
        let Some(outgoing) = &self.outgoing else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let now = self.clock.now();
        let until = now.saturating_add(self.wait);
        // As much as leaves in time.
        let mut count = buf.len().min(PIECE_BYTES);
        let (schedule, passage) = loop {
            let mut schedule = self.schedule.clone();
            let passage = schedule.admit(now, count as u64);
            if passage.depart <= until {
                break (schedule, passage);
            }
            if count <= 1 {
                self.clock.sleep_until(until);
                return Err(io::ErrorKind::TimedOut.into());
            }
            count /= 2;
        };
        self.schedule = schedule;
        self.clock.sleep_until(passage.depart);
        match outgoing.send((passage.arrive, buf[..count].to_vec())) {
            Ok(()) => Ok(count),
            Err(_) => Err(self.fault().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())),
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

    /// What a line cannot pass in time ends in a timeout, and nothing of it is lost.
    #[test]
    fn no_read_and_no_write_waits_past_its_deadline() {
        let clock = Arc::new(Frozen::default());
        let (near, mut far) = memory_pair();
        let mut shaped = Shaped::new(near, profile(1000, 200), clock.clone()).unwrap();
        far.write_all(b"late").unwrap();
        shaped.set_wait(Duration::from_millis(50)).unwrap();
        // A byte takes a millisecond: 50 of 100 leave in time, and then none.
        assert_eq!(shaped.write(&[7; 100]).unwrap(), 50);
        let timed_out = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        timed_out(shaped.write(&[7; 100]).unwrap_err());
        // What arrived at the other end is seen after 104 ms; the reading thread sleeps to no deadline.
        let mut late = [0; 4];
        while shaped.next.is_none() {
            timed_out(shaped.read(&mut late).unwrap_err());
        }
        timed_out(shaped.read(&mut late).unwrap_err());
        let slept = |at| clock.0.lock().unwrap().contains(&Duration::from_millis(at));
        assert!(slept(50) && !slept(100) && !slept(104));
        shaped.set_wait(Duration::from_millis(150)).unwrap();
        shaped.read_exact(&mut late).unwrap();
        assert_eq!(late, *b"late");
        assert_eq!(shaped.write(&[7; 100]).unwrap(), 100);
        assert!(slept(104));
    }

    #[test]
    fn a_file_has_no_round_trip() {
        let file = super::super::transport::Reading(&b""[..]);
        assert!(Shaped::new(Box::new(file), profile(1, 1), Arc::new(Frozen::default())).is_err());
    }
}
