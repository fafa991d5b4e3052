//! The receiver: takes containers, hands them on piece by piece, and answers each.
//!
//! HELLO/ACCEPT, then any number of messages: BEGIN, CHUNK.., END and, with a key, MAC. Each is
//! answered by STATS or REQUEST. Anything wrong ends the session with a typed error here and a
//! REJECT there; a message that began and did not end whole is taken back and reported.

use std::time::{Duration, Instant};

use super::body::{Fields, MAX_TEXT_BYTES, only_u64};
use super::bytes::Traffic;
use super::channel::{Channel, Patience};
use super::compat::{Compatibility, Role};
use super::error::NetError;
use super::frame::Kind;
use super::handshake::handshake;
use super::hello::Hello;
use super::key::{Purpose, Seal};
use super::options::{Limits, Options};
use super::reject::Reject;
use super::sink::Sink;
use super::stats::{Discarded, Stage, Stats};
use super::tally::Tally;
use super::transport::Transport;

/// What came from the sharer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole container, which the sink has. It waits for [`Receiver::taken`] or
    /// [`Receiver::request`].
    Message(Arrival),
    /// A message was withdrawn, or there is none for this question: zero bytes that count.
    Cancelled {
        /// Why, in the sharer's words, which may hold anything.
        reason: String,
    },
    /// The sharer is done.
    Bye,
}

/// How a container came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its length.
    pub container_bytes: u64,
    /// Its CRC32C.
    pub crc: u32,
    /// From `BEGIN` to the last check.
    pub transfer: Duration,
    /// How much of it the sink worked.
    pub in_sink: Duration,
}

/// A receiver's side of a session.
pub struct Receiver {
    channel: Channel,
    limits: Limits,
    peer: Hello,
    seal: Option<Seal>,
    /// Container bytes in `CHUNK` since the session began: granted, arrived.
    granted: u64,
    arrived: u64,
    discarded: Discarded,
    opened: Instant,
}

/// A message that is coming in.
struct Coming {
    tally: Tally,
    started: Instant,
    in_sink: Duration,
}

impl Receiver {
    /// Agrees with a sharer. `compatibility` is the cache that this side's fuser was trained for.
    ///
    /// # Errors
    /// [`NetError::Mismatch`] for another sharer, [`NetError::Rejected`] where it refuses,
    /// [`NetError::Mac`] for another key, and all that a peer can do wrong.
    pub fn open(
        transport: Box<dyn Transport>,
        compatibility: &Compatibility,
        options: &Options,
    ) -> Result<Receiver, NetError> {
        let mut channel = Channel::new(transport, options);
        let agreed = handshake(&mut channel, Role::Receiver, compatibility, options)?;
        Ok(Receiver {
            channel,
            limits: options.limits,
            peer: agreed.peer.expect("a receiver hears its sharer, also from a file"),
            seal: agreed.seal,
            granted: agreed.credit_bytes,
            arrived: 0,
            discarded: Discarded::default(),
            opened: Instant::now(),
        })
    }

    /// What the sharer said of itself.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// Bytes of the session so far.
    pub fn traffic(&self) -> Traffic {
        self.channel.traffic()
    }

    /// Messages that began and were thrown away.
    pub fn discarded(&self) -> Discarded {
        self.discarded
    }

    /// Waits for the next container and hands it to `sink` as it arrives.
    ///
    /// # Errors
    /// Whatever the sharer, the connection or the sink does wrong; the session is then over, the
    /// sink has discarded what it had, and [`NetError::Incomplete`] says how much that was.
    pub fn receive(&mut self, sink: &mut dyn Sink) -> Result<Event, NetError> {
        self.next(sink).map_err(|error| self.channel.fail(error))
    }

    fn next(&mut self, sink: &mut dyn Sink) -> Result<Event, NetError> {
        loop {
            let frame = self.channel.recv(Patience::Idle)?;
            match frame.kind {
                Kind::Begin => return self.message(sink),
                Kind::Schema => {
                    let mut fields = Fields::of(&frame);
                    let id = fields.u32("number")?;
                    sink.schema(id, fields.rest()).map_err(NetError::Refused)?;
                }
                Kind::Cancel => return Ok(Event::Cancelled { reason: self.reason()? }),
                Kind::Ping => {
                    let asked = only_u64(&frame, "time")?.to_le_bytes();
                    let now = self.opened.elapsed().as_nanos() as u64;
                    self.answer(Kind::Pong, &[&asked, &now.to_le_bytes()])?;
                }
                Kind::Bye => {
                    Fields::of(&frame).end()?;
                    self.channel.end();
                    return Ok(Event::Bye);
                }
                Kind::Reject => return Err(NetError::Rejected(Reject::read(&frame)?)),
                got => {
                    let expected = "BEGIN, SCHEMA, CANCEL, PING or BYE";
                    return Err(NetError::Unexpected { expected, got });
                }
            }
        }
    }

    /// The reason in the `CANCEL` that was read last.
    fn reason(&self) -> Result<String, NetError> {
        let mut fields = Fields::of(&self.channel.last());
        let reason = fields.text("reason", MAX_TEXT_BYTES)?.to_owned();
        fields.end()?;
        Ok(reason)
    }

    /// Sends, where somebody hears it.
    fn answer(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<(), NetError> {
        if self.channel.duplex() {
            self.channel.send(kind, parts)?;
        }
        Ok(())
    }

    /// The message whose `BEGIN` was read last.
    fn message(&mut self, sink: &mut dyn Sink) -> Result<Event, NetError> {
        self.channel.start();
        let frame = self.channel.last();
        let mut fields = Fields::of(&frame);
        let total = fields.u64("length")?;
        let header = fields.rest();
        for (what, limit, got) in [
            ("container", self.limits.message_bytes, total),
            ("header of the container", self.limits.header_bytes as u64, header.len() as u64),
        ] {
            if got > limit {
                return Err(NetError::TooLarge { what, limit, got });
            }
        }
        let seal = self.seal.as_ref();
        let code = seal.map(|seal| seal.begin(Purpose::Container, Role::Sharer, frame.seq));
        let mut coming = Coming {
            tally: Tally::new(total, code),
            started: Instant::now(),
            in_sink: Duration::ZERO,
        };
        coming.tally.take(header)?;
        let outcome = coming.work(|| sink.begin(total, header));
        let outcome = outcome.and_then(|()| self.body(&mut coming, sink));
        self.channel.stop();
        match outcome {
            Ok(Event::Message(arrival)) => Ok(Event::Message(arrival)),
            other => {
                sink.discard();
                let got = coming.tally.bytes;
                self.discarded.messages += 1;
                self.discarded.container_bytes += got;
                let incomplete =
                    |source| NetError::Incomplete { got, total, source: Box::new(source) };
                other.map_err(incomplete)
            }
        }
    }

    /// All after `BEGIN`.
    fn body(&mut self, coming: &mut Coming, sink: &mut dyn Sink) -> Result<Event, NetError> {
        loop {
            let frame = self.channel.recv(Patience::Active)?;
            match frame.kind {
                Kind::Chunk => {
                    let bytes = frame.body;
                    if bytes.is_empty() {
                        let fields = Fields::of(&frame);
                        return Err(fields.wrong("bytes", 0, "at least one", "none").into());
                    }
                    self.arrived += bytes.len() as u64;
                    if self.arrived > self.granted {
                        let (granted, got) = (self.granted, self.arrived);
                        return Err(NetError::Credit { granted, got });
                    }
                    coming.tally.take(bytes)?;
                    coming.work(|| sink.chunk(bytes))?;
                    self.grant()?;
                }
                Kind::End => {
                    let mut fields = Fields::of(&frame);
                    let got = fields.u32("checksum")?;
                    fields.end()?;
                    return self.whole(coming, got, sink);
                }
                Kind::Cancel => return Ok(Event::Cancelled { reason: self.reason()? }),
                Kind::Reject => return Err(NetError::Rejected(Reject::read(&frame)?)),
                got => return Err(NetError::Unexpected { expected: "CHUNK, END or CANCEL", got }),
            }
        }
    }

    /// Gives the sharer new credit as soon as half of the window is used up.
    fn grant(&mut self) -> Result<(), NetError> {
        let limit = self.arrived.saturating_add(self.limits.window_bytes);
        if self.channel.duplex() && limit - self.granted >= self.limits.window_bytes.div_ceil(2) {
            self.granted = limit;
            self.channel.send(Kind::Credit, &[&limit.to_le_bytes()])?;
        }
        Ok(())
    }

    /// Checks what `END` and `MAC` say of a message, and hands it over.
    fn whole(
        &mut self,
        coming: &mut Coming,
        got: u32,
        sink: &mut dyn Sink,
    ) -> Result<Event, NetError> {
        coming.tally.check_whole()?;
        let crc = coming.tally.crc;
        if crc != got {
            return Err(NetError::Checksum { expected: crc, got });
        }
        if let Some(code) = coming.tally.code.take() {
            let frame = self.channel.expect(Kind::Mac, "MAC", Patience::Active)?;
            code.verify(frame.body, "the message")?;
        }
        coming.work(|| sink.end(crc))?;
        Ok(Event::Message(Arrival {
            container_bytes: coming.tally.total,
            crc,
            transfer: coming.started.elapsed(),
            in_sink: coming.in_sink,
        }))
    }

    /// Answers a message: it was used, and this is what its stages took.
    ///
    /// # Errors
    /// [`NetError::Unsayable`] for stages that do not fit, and what the connection does.
    pub fn taken(&mut self, stages: Vec<Stage>) -> Result<Stats, NetError> {
        let stats = Stats { traffic: self.traffic(), discarded: self.discarded, stages };
        let body = stats.body()?;
        self.answer(Kind::Stats, &[&body]).map_err(|error| self.channel.fail(error))?;
        Ok(stats)
    }

    /// Answers a message with a request for more, which the next message serves.
    ///
    /// # Errors
    /// [`NetError::TooLarge`] for more than fits into the sharer's frames, what the connection does,
    /// and [`NetError::OneWay`] for a stream that was read from a file.
    pub fn request(&mut self, request: &[u8]) -> Result<(), NetError> {
        let (limit, got) = (u64::from(self.peer.max_frame_bytes), request.len() as u64);
        if got > limit {
            return Err(NetError::TooLarge { what: "request", limit, got });
        }
        if !self.channel.duplex() {
            return Err(NetError::OneWay { what: "a request" });
        }
        self.try_request(request).map_err(|error| self.channel.fail(error))
    }

    fn try_request(&mut self, request: &[u8]) -> Result<(), NetError> {
        let seq = self.channel.send(Kind::Request, &[request])?;
        if let Some(seal) = &self.seal {
            let mut code = seal.begin(Purpose::Request, Role::Receiver, seq);
            code.update(request);
            self.channel.send(Kind::Mac, &[&code.finish()])?;
        }
        Ok(())
    }

    /// Refuses what came, in words the sharer reads, and ends the session.
    pub fn refuse(mut self, reject: Reject) -> NetError {
        self.channel.fail(NetError::Refused(reject))
    }

    /// Ends the session where the sharer has not done so already.
    ///
    /// # Errors
    /// What the connection does.
    pub fn finish(mut self) -> Result<Traffic, NetError> {
        if self.channel.duplex() && !self.channel.is_ended() {
            self.channel.bye()?;
        }
        Ok(self.traffic())
    }
}

impl Coming {
    /// Runs a step of the sink on its clock.
    fn work(&mut self, step: impl FnOnce() -> Result<(), Reject>) -> Result<(), NetError> {
        let started = Instant::now();
        let outcome = step();
        self.in_sink += started.elapsed();
        outcome.map_err(NetError::Refused)
    }
}
