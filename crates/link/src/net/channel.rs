//! Frames over a transport: numbers, deadlines, and a count of every byte. Both sides stand on it.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::bytes::Traffic;
use super::error::{FrameError, NetError};
use super::frame::{Frame, FrameReader, HEAD_BYTES, Kind, encode};
use super::hello::MAX_HELLO_BYTES;
use super::options::{Deadlines, Options};
use super::reject::Reject;
use super::transport::Transport;

/// The shortest wait that sockets can be given.
const LEAST_WAIT: Duration = Duration::from_millis(1);
/// How long, and for how many bytes, a side that refused listens on, so that its word is not lost:
/// a socket that is closed with unread bytes takes back what it sent last.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 20;

/// What is waited for, which says for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// The peer has only to send.
    Active,
    /// The peer computes first.
    Idle,
}

impl Patience {
    fn of(self, deadlines: &Deadlines) -> Duration {
        if self == Patience::Idle { deadlines.idle } else { deadlines.read }
    }
}

/// One session's frames.
pub(super) struct Channel {
    transport: Box<dyn Transport>,
    reader: FrameReader,
    seq: u32,
    out: Vec<u8>,
    deadlines: Deadlines,
    /// The end of the message or handshake under way.
    until: Option<Instant>,
    traffic: Traffic,
    /// A frame was not written whole: what follows would be read as part of it.
    torn: bool,
    ended: bool,
}

/// The transport as a frame is read from it: each read has its deadline.
struct Timed<'a> {
    transport: &'a mut dyn Transport,
    deadlines: &'a Deadlines,
    until: &'a mut Option<Instant>,
    patience: Patience,
}

impl Channel {
    pub(super) fn new(transport: Box<dyn Transport>, options: &Options) -> Channel {
        Channel {
            transport,
            reader: FrameReader::new(MAX_HELLO_BYTES),
            seq: 0,
            out: Vec::new(),
            deadlines: options.deadlines,
            until: None,
            traffic: Traffic::default(),
            torn: false,
            ended: false,
        }
    }

    pub(super) fn duplex(&self) -> bool {
        self.transport.duplex()
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Takes longer frames than a `HELLO`, now that the peer is known.
    pub(super) fn take_frames_of(&mut self, bytes: u32) {
        self.reader.set_limit(bytes as usize);
    }

    /// Starts the clock of a message or handshake.
    pub(super) fn start(&mut self) {
        self.until = Instant::now().checked_add(self.deadlines.message);
    }

    /// Stops it.
    pub(super) fn stop(&mut self) {
        self.until = None;
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The frame that was read last.
    pub(super) fn last(&self) -> Frame<'_> {
        self.reader.last()
    }

    /// Nothing passes any more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Sends a frame; its number.
    pub(super) fn send(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<u32, NetError> {
        if self.ended {
            return Err(NetError::Ended);
        }
        let mut out = std::mem::take(&mut self.out);
        encode(kind, self.seq, parts, &mut out)?;
        let (written, outcome) = self.write(&out);
        if outcome.is_ok() {
            self.traffic.sent.book(kind, out.len() - HEAD_BYTES);
        } else {
            self.torn = true;
            self.traffic.sent.broken += written as u64;
        }
        self.out = out;
        outcome?;
        let seq = self.seq;
        // After the last number the next frame could not be told from the first.
        self.seq = seq.checked_add(1).ok_or(NetError::Ended)?;
        Ok(seq)
    }

    /// How many bytes went out, and what stopped the rest.
    fn write(&mut self, bytes: &[u8]) -> (usize, Result<(), NetError>) {
        let mut written = 0;
        while written < bytes.len() {
            let wait = wait(&self.deadlines, self.until, Patience::Active);
            let wrote = wait
                .and_then(|wait| self.transport.set_wait(wait))
                .and_then(|()| self.transport.write(&bytes[written..]))
                .and_then(|n| if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) });
            match wrote {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return (written, Err(self.stopped("writing", Patience::Active, error)));
                }
            }
        }
        (written, Ok(()))
    }

    /// The next frame.
    pub(super) fn recv(&mut self, patience: Patience) -> Result<Frame<'_>, NetError> {
        if self.ended {
            return Err(NetError::Ended);
        }
        let had_deadline = self.until.is_some();
        let mut source = Timed {
            transport: &mut *self.transport,
            deadlines: &self.deadlines,
            until: &mut self.until,
            patience,
        };
        let read = self.reader.advance(&mut source);
        let patience = source.patience;
        let read = read.map_err(|error| self.lost(error, patience));
        if !had_deadline {
            self.until = None;
        }
        if let Err(error) = read {
            let received = &mut self.traffic.received;
            received.broken += self.reader.offset() - received.total();
            return Err(error);
        }
        let frame = self.reader.last();
        self.traffic.received.book(frame.kind, frame.body.len());
        Ok(frame)
    }

    /// The next frame, which must be of one kind.
    pub(super) fn expect(
        &mut self,
        kind: Kind,
        expected: &'static str,
        patience: Patience,
    ) -> Result<Frame<'_>, NetError> {
        let frame = self.recv(patience)?;
        match frame.kind {
            got if got == kind => Ok(frame),
            Kind::Reject => Err(NetError::Rejected(Reject::read(&frame)?)),
            got => Err(NetError::Unexpected { expected, got }),
        }
    }

    fn lost(&self, error: FrameError, patience: Patience) -> NetError {
        match error {
            FrameError::Io { source, .. } => self.stopped("reading", patience, source),
            FrameError::Ended { offset } | FrameError::Cut { offset, .. } => {
                NetError::Disconnected { doing: "reading", offset }
            }
            other => NetError::Frame(other),
        }
    }

    /// What an error of the transport means.
    fn stopped(&self, doing: &'static str, patience: Patience, source: io::Error) -> NetError {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof,
            WouldBlock, WriteZero,
        };
        match source.kind() {
            TimedOut | WouldBlock => {
                let over = self.until.is_some_and(|until| until <= Instant::now() + LEAST_WAIT);
                let each = patience.of(&self.deadlines);
                let waited = if over { self.deadlines.message } else { each };
                NetError::Stalled { doing, waited }
            }
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
            | WriteZero => {
                let sent = self.traffic.sent.total();
                let offset = if doing == "writing" { sent } else { self.reader.offset() };
                NetError::Disconnected { doing, offset }
            }
            _ => NetError::Io { action: format!("go on {doing}"), source },
        }
    }

    /// Ends the session over an error: the peer is told, where it can hear and does not know yet.
    pub(super) fn fail(&mut self, error: NetError) -> NetError {
        if self.ended || !self.duplex() {
            self.ended = true;
            return error;
        }
        self.until = Some(Instant::now() + LINGER.min(self.deadlines.read));
        if let Some(reject) = Reject::about(&error).filter(|_| !self.torn) {
            // The first error is the one to tell; a peer that is gone hears nothing.
            let _ = self.send(Kind::Reject, &[&reject.body()]);
            let _ = self.transport.close();
            self.linger();
        }
        self.ended = true;
        self.transport.abort();
        error
    }

    /// Reads what the peer still sends, into nothing, until it stops or a moment has passed.
    fn linger(&mut self) {
        let mut piece = vec![0; 16 << 10];
        let mut left = LINGER_BYTES;
        let (deadlines, until) = (self.deadlines, self.until);
        while let Ok(wait) = wait(&deadlines, until, Patience::Active) {
            let read = self.transport.set_wait(wait).and_then(|()| self.transport.read(&mut piece));
            let Ok(count @ 1..) = read else { return };
            self.traffic.received.broken += count as u64;
            left = left.saturating_sub(count as u64);
            if left == 0 {
                return;
            }
        }
    }

    /// After an error while writing: the peer may have said why it takes no more.
    pub(super) fn last_word(&mut self, error: NetError) -> NetError {
        if !matches!(error, NetError::Disconnected { .. } | NetError::Stalled { .. }) {
            return error;
        }
        self.until = Some(Instant::now() + LINGER.min(self.deadlines.read));
        while let Ok(frame) = self.recv(Patience::Active) {
            if frame.kind == Kind::Reject {
                return Reject::read(&frame).map_or(error, NetError::Rejected);
            }
        }
        error
    }

    /// Says that nothing follows, and closes.
    pub(super) fn bye(&mut self) -> Result<(), NetError> {
        self.send(Kind::Bye, &[])?;
        self.ended = true;
        let closed = self.transport.close();
        match closed {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            Err(source) => Err(NetError::Io { action: "end the stream".into(), source }),
            Ok(()) => Ok(()),
        }
    }
}

/// How long the next read or write may take; `TimedOut` where nothing is left.
fn wait(deadlines: &Deadlines, until: Option<Instant>, patience: Patience) -> io::Result<Duration> {
    let wait = patience.of(deadlines);
    let Some(until) = until else { return Ok(wait.max(LEAST_WAIT)) };
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(wait.min(left).max(LEAST_WAIT)),
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wait = wait(self.deadlines, *self.until, self.patience)?;
        self.transport.set_wait(wait)?;
        let count = self.transport.read(buf)?;
        // A frame that has begun has to end.
        self.patience = Patience::Active;
        *self.until = self.until.or_else(|| Instant::now().checked_add(self.deadlines.message));
        Ok(count)
    }
}
