//! The sharer: sends containers under the receiver's credit, and hears its answers.
//!
//! Bytes leave as they are handed over, so that a container can be encoded block by block. No more
//! is ever sent than the receiver has granted. Several messages may be under way; answers come in
//! their order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::body::{Fields, only_u64, put_text};
use super::bytes::Traffic;
use super::channel::{Channel, Patience};
use super::compat::{Compatibility, Role};
use super::error::NetError;
use super::frame::{Kind, MAX_BODY_BYTES};
use super::handshake::handshake;
use super::hello::Hello;
use super::key::{Purpose, Seal};
use super::options::{Limits, Options};
use super::reject::Reject;
use super::stats::Stats;
use super::tally::Tally;
use super::transport::Transport;

/// How a message was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The receiver used it.
    Taken(Stats),
    /// The receiver asks for more; the next message should serve it.
    Request(Vec<u8>),
    /// It lies in a file, and nobody has read it yet.
    Unheard,
}

/// Answers to a question for the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// There and back.
    pub rtt: Duration,
    /// The receiver's clock, which began with its session, when it answered: about the middle.
    pub peer_nanos: u64,
}

/// A sharer's side of a session.
pub struct Sender {
    channel: Channel,
    limits: Limits,
    peer: Option<Hello>,
    seal: Option<Seal>,
    /// Container bytes in `CHUNK` since the session began: granted, sent.
    granted: u64,
    sent: u64,
    /// Messages without an answer.
    unanswered: usize,
    replies: VecDeque<Reply>,
    /// The time of a question without an answer, and the answer to one.
    asked: Option<u64>,
    pong: Option<u64>,
    opened: Instant,
}

impl Sender {
    /// Agrees with a receiver. `compatibility` is this side's cache.
    ///
    /// # Errors
    /// [`NetError::Rejected`] where the receiver refuses, [`NetError::Mismatch`] where it wants
    /// another cache, [`NetError::Mac`] for another key, and all that a peer can do wrong.
    pub fn open(
        transport: Box<dyn Transport>,
        compatibility: &Compatibility,
        options: &Options,
    ) -> Result<Sender, NetError> {
        let mut channel = Channel::new(transport, options);
        let agreed = handshake(&mut channel, Role::Sharer, compatibility, options)?;
        Ok(Sender {
            channel,
            limits: options.limits,
            peer: agreed.peer,
            seal: agreed.seal,
            granted: agreed.credit_bytes,
            sent: 0,
            unanswered: 0,
            replies: VecDeque::new(),
            asked: None,
            pong: None,
            opened: Instant::now(),
        })
    }

    /// What the receiver said of itself; none behind a file.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// Bytes of the session so far.
    pub fn traffic(&self) -> Traffic {
        self.channel.traffic()
    }

    /// The longest frame body that the receiver takes.
    fn frame_bytes(&self) -> usize {
        self.peer.as_ref().map_or(MAX_BODY_BYTES, |peer| peer.max_frame_bytes as usize)
    }

    /// Sends a whole container whose first `header_bytes` are its header.
    ///
    /// # Errors
    /// As [`Sender::begin`] and [`Outgoing::write`].
    pub fn send(&mut self, container: &[u8], header_bytes: usize) -> Result<(), NetError> {
        let (header, rest) = container.split_at(header_bytes.min(container.len()));
        let mut outgoing = self.begin(container.len() as u64, header)?;
        outgoing.write(rest)?;
        outgoing.end()
    }

    /// Begins a container of `total_bytes`, of which `header` is the first part.
    ///
    /// # Errors
    /// [`NetError::TooLarge`] for one that the receiver does not take: nothing is sent then, and the
    /// session goes on.
    pub fn begin(&mut self, total_bytes: u64, header: &[u8]) -> Result<Outgoing<'_>, NetError> {
        let most_bytes = self.peer.as_ref().map_or(u64::MAX, |peer| peer.max_message_bytes);
        let header_room = self.limits.header_bytes.min(self.frame_bytes() - 8);
        for (what, limit, got) in [
            ("container", most_bytes, total_bytes),
            ("header of the container", header_room as u64, header.len() as u64),
        ] {
            if got > limit {
                return Err(NetError::TooLarge { what, limit, got });
            }
        }
        self.channel.start();
        let seq = self.say(Kind::Begin, &[&total_bytes.to_le_bytes(), header])?;
        let seal = self.seal.as_ref();
        let code = seal.map(|seal| seal.begin(Purpose::Container, Role::Sharer, seq));
        let mut tally = Tally::new(total_bytes, code);
        let taken = tally.take(header);
        let mut outgoing = Outgoing { sender: self, tally, pending: Vec::new(), done: false };
        outgoing.settle(taken)?;
        Ok(outgoing)
    }

    /// Publishes fields that later compact containers leave out, under the number `id`.
    ///
    /// # Errors
    /// What the connection does; the receiver's refusal comes with the next answer.
    pub fn schema(&mut self, id: u32, fields: &[u8]) -> Result<(), NetError> {
        let (limit, got) = (self.frame_bytes() as u64, 4 + fields.len() as u64);
        if got > limit {
            return Err(NetError::TooLarge { what: "schema", limit, got });
        }
        self.say(Kind::Schema, &[&id.to_le_bytes(), fields]).map(drop)
    }

    /// Says that there is no message for this question. It is not answered.
    ///
    /// # Errors
    /// What the connection does.
    pub fn nothing(&mut self, reason: &str) -> Result<(), NetError> {
        let mut body = Vec::new();
        put_text(&mut body, reason);
        self.say(Kind::Cancel, &[&body]).map(drop)
    }

    /// Waits for the answer to the oldest message that has none.
    ///
    /// # Errors
    /// [`NetError::Rejected`] where the receiver refused it, [`NetError::Answered`] where there is no
    /// such message, and what the connection does.
    pub fn reply(&mut self) -> Result<Reply, NetError> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Ok(reply);
            }
            if self.unanswered == 0 {
                return Err(if self.channel.is_ended() {
                    NetError::Ended
                } else {
                    NetError::Answered
                });
            }
            self.listen(Patience::Idle)?;
        }
    }

    /// Asks for the receiver's time. It answers between messages only.
    ///
    /// # Errors
    /// What the connection does; [`NetError::OneWay`] for a stream to a file.
    pub fn ping(&mut self) -> Result<Pong, NetError> {
        if !self.channel.duplex() {
            return Err(NetError::OneWay { what: "a question for the time" });
        }
        let asked = self.opened.elapsed();
        let nanos = asked.as_nanos() as u64;
        self.asked = Some(nanos);
        self.say(Kind::Ping, &[&nanos.to_le_bytes()])?;
        loop {
            if let Some(peer_nanos) = self.pong.take() {
                return Ok(Pong { rtt: self.opened.elapsed() - asked, peer_nanos });
            }
            self.listen(Patience::Idle)?;
        }
    }

    /// Waits for all answers, says goodbye and closes; a file is now there. Answers that nobody
    /// asked for are in the list.
    ///
    /// # Errors
    /// As [`Sender::reply`].
    pub fn finish(mut self) -> Result<(Vec<Reply>, Traffic), NetError> {
        let mut replies = Vec::new();
        while self.unanswered > 0 || !self.replies.is_empty() {
            replies.push(self.reply()?);
        }
        self.channel.bye().map_err(|error| self.channel.fail(error))?;
        Ok((replies, self.traffic()))
    }

    /// Ends the session over something that the receiver said, in words that it reads.
    pub fn refuse(mut self, reject: Reject) -> NetError {
        self.channel.fail(NetError::Refused(reject))
    }

    /// Sends a frame; an error ends the session.
    fn say(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<u32, NetError> {
        self.channel.send(kind, parts).map_err(|error| {
            let error = self.channel.last_word(error);
            self.channel.fail(error)
        })
    }

    /// Hears one frame; an error ends the session.
    fn listen(&mut self, patience: Patience) -> Result<(), NetError> {
        self.hear(patience).map_err(|error| self.channel.fail(error))
    }

    fn hear(&mut self, patience: Patience) -> Result<(), NetError> {
        let frame = self.channel.recv(patience)?;
        match frame.kind {
            Kind::Credit => {
                let granted = only_u64(&frame, "credit")?;
                if granted <= self.granted {
                    let expected = format!("more than {}", self.granted);
                    return Err(Fields::of(&frame).wrong("credit", 0, expected, granted).into());
                }
                self.granted = granted;
            }
            Kind::Stats if self.unanswered > 0 => {
                let stats = Stats::read(&frame)?;
                self.answered(Reply::Taken(stats));
            }
            Kind::Request if self.unanswered > 0 => {
                let (seq, request) = (frame.seq, frame.body.to_vec());
                if let Some(seal) = &self.seal {
                    let mut code = seal.begin(Purpose::Request, Role::Receiver, seq);
                    code.update(&request);
                    let frame = self.channel.expect(Kind::Mac, "MAC", Patience::Active)?;
                    code.verify(frame.body, "the request")?;
                }
                self.answered(Reply::Request(request));
            }
            Kind::Pong if self.asked.is_some() => {
                let mut fields = Fields::of(&frame);
                let (asked, peer_nanos) = (fields.u64("time")?, fields.u64("peer time")?);
                fields.end()?;
                let wanted = self.asked.take().unwrap_or_default();
                if asked != wanted {
                    let fields = Fields::of(&frame);
                    return Err(fields.wrong("time", 0, wanted.to_string(), asked).into());
                }
                self.pong = Some(peer_nanos);
            }
            Kind::Reject => return Err(NetError::Rejected(Reject::read(&frame)?)),
            Kind::Bye => return Err(NetError::Ended),
            got => {
                let expected = "CREDIT, STATS, REQUEST, PONG or REJECT";
                return Err(NetError::Unexpected { expected, got });
            }
        }
        Ok(())
    }

    fn answered(&mut self, reply: Reply) {
        self.unanswered -= 1;
        self.replies.push_back(reply);
    }

    /// Sends part of a container, as much as there is credit for; how much.
    fn chunk(&mut self, bytes: &[u8]) -> Result<usize, NetError> {
        while self.sent == self.granted {
            self.listen(Patience::Active)?;
        }
        let credit = usize::try_from(self.granted - self.sent).unwrap_or(usize::MAX);
        let most = self.limits.chunk_bytes.clamp(1, self.frame_bytes());
        let count = bytes.len().min(most).min(credit);
        self.say(Kind::Chunk, &[&bytes[..count]])?;
        self.sent += count as u64;
        Ok(count)
    }
}

/// A container on its way out. Dropped before its end, it takes the session with it.
pub struct Outgoing<'a> {
    sender: &'a mut Sender,
    tally: Tally,
    /// Less than a chunk.
    pending: Vec<u8>,
    done: bool,
}

impl Outgoing<'_> {
    /// Sends the next bytes; less than a chunk waits for more, or for [`Outgoing::flush`].
    ///
    /// # Errors
    /// [`NetError::Rejected`] where the receiver refuses, [`NetError::Length`] for more than was
    /// announced, and what the connection does.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), NetError> {
        let (expected, got) = (self.tally.total, (self.pending.len() + bytes.len()) as u64);
        let got = self.tally.bytes + got;
        if got > expected {
            return self.settle(Err(NetError::Length { expected, got }));
        }
        let chunk_bytes = self.sender.limits.chunk_bytes.max(1);
        if !self.pending.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(chunk_bytes - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() == chunk_bytes {
                self.flush()?;
            }
        }
        let whole = bytes.len() - bytes.len() % chunk_bytes;
        self.push(&bytes[..whole])?;
        self.pending.extend_from_slice(&bytes[whole..]);
        Ok(())
    }

    /// Sends what waits, so that the receiver can use a block that ended.
    ///
    /// # Errors
    /// As [`Outgoing::write`].
    pub fn flush(&mut self) -> Result<(), NetError> {
        let pending = std::mem::take(&mut self.pending);
        self.push(&pending)?;
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), NetError> {
        while !bytes.is_empty() {
            let (sent, rest) = bytes.split_at(self.sender.chunk(bytes)?);
            // After it was sent: the receiver works meanwhile.
            let taken = self.tally.take(sent);
            self.settle(taken)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Ends the container; [`Sender::reply`] has its answer.
    ///
    /// # Errors
    /// As [`Outgoing::write`]; [`NetError::Length`] where something is missing.
    pub fn end(mut self) -> Result<(), NetError> {
        self.flush()?;
        let whole = self.tally.check_whole();
        self.settle(whole)?;
        self.sender.say(Kind::End, &[&self.tally.crc.to_le_bytes()])?;
        if let Some(code) = self.tally.code.take() {
            self.sender.say(Kind::Mac, &[&code.finish()])?;
        }
        self.done = true;
        self.sender.channel.stop();
        self.sender.unanswered += 1;
        if !self.sender.channel.duplex() {
            self.sender.answered(Reply::Unheard);
        }
        Ok(())
    }

    /// Withdraws the container; the session goes on, and nothing is answered.
    ///
    /// # Errors
    /// What the connection does.
    pub fn cancel(mut self, reason: &str) -> Result<(), NetError> {
        self.done = true;
        self.sender.channel.stop();
        self.sender.nothing(reason)
    }

    /// Ends the session over an error of this side.
    fn settle(&mut self, outcome: Result<(), NetError>) -> Result<(), NetError> {
        outcome.map_err(|error| self.sender.channel.fail(error))
    }
}

impl Drop for Outgoing<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.sender.channel.end();
        }
    }
}
