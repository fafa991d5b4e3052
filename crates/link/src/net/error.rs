//! What can go wrong between two peers. Both enums are closed: a caller can name every case.

use std::io;
use std::time::Duration;

use super::compat::Field;
use super::frame::Kind;
use super::reject::Reject;

/// What is wrong with bytes that should be frames. Offsets count from the first byte of the stream.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A body over the limit: nothing of it was read.
    #[error("frame body: expected at most {limit} bytes, got {got} at byte {offset}")]
    TooLong {
        /// Bytes that are taken.
        limit: usize,
        /// Bytes that were announced.
        got: u64,
        /// Where the length stands.
        offset: u64,
    },
    /// No frame has this type.
    #[error("frame type: expected 1 to {}, got {got} at byte {offset}", Kind::ALL.len())]
    Kind {
        /// The type's number.
        got: u8,
        /// Where it stands.
        offset: u64,
    },
    /// Bits that version 1 leaves zero.
    #[error("{field} of a frame: expected 0, got {got} at byte {offset}")]
    Reserved {
        /// `flags` or `reserved bytes`.
        field: &'static str,
        /// Their value.
        got: u16,
        /// Where they stand.
        offset: u64,
    },
    /// A frame is missing, or came twice.
    #[error("frame number: expected {expected}, got {got} at byte {offset}")]
    Seq {
        /// The number that follows the last one.
        expected: u32,
        /// The number that came.
        got: u32,
        /// Where it stands.
        offset: u64,
    },
    /// Bytes were changed on their way.
    #[error("frame checksum: expected {expected:08x}, got {got:08x} at byte {offset}")]
    Crc {
        /// The checksum of what came.
        expected: u32,
        /// The checksum that came with it.
        got: u32,
        /// Where it stands.
        offset: u64,
    },
    /// A body does not hold what its type asks for.
    #[error("`{field}` of {kind}: expected {expected}, got {got} at byte {offset}")]
    Body {
        /// The frame's type.
        kind: Kind,
        /// The field.
        field: &'static str,
        /// What it should hold.
        expected: String,
        /// What it holds.
        got: String,
        /// Where it stands.
        offset: u64,
    },
    /// The stream ended between two frames.
    #[error("expected a frame, got the end of the stream at byte {offset}")]
    Ended {
        /// Bytes of the stream.
        offset: u64,
    },
    /// The stream ended inside a frame.
    #[error(
        "expected {expected} more bytes of a frame, got the end of the stream at byte {offset}"
    )]
    Cut {
        /// Bytes that are missing, of the head or of the body.
        expected: usize,
        /// Bytes of the stream.
        offset: u64,
    },
    /// The transport failed.
    #[error("cannot read at byte {offset}: {source}")]
    Io {
        /// Bytes of the stream so far.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why a link was not made, or ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The peer's bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that has no place here.
    #[error("expected {expected}, got {got}")]
    Unexpected {
        /// The frames that would have been right.
        expected: &'static str,
        /// The frame that came.
        got: Kind,
    },
    /// The peer is not the one that this side was made for.
    #[error("`{field}` of the peer: expected {wanted}, got {got}{}", field.hint())]
    Mismatch {
        /// What differs.
        field: Field,
        /// This side's value.
        wanted: String,
        /// The peer's value.
        got: String,
    },
    /// The peer ended the session and said why.
    #[error("refused by the peer: {0}")]
    Rejected(Reject),
    /// This side's reader of containers refused a message.
    #[error("message refused: {0}")]
    Refused(Reject),
    /// More than one of the two sides takes.
    #[error("{what}: expected at most {limit} bytes, got {got}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// Its size.
        got: u64,
    },
    /// The sharer sent more than the receiver had granted.
    #[error("credit: expected at most {granted} bytes, got {got}")]
    Credit {
        /// Bytes granted since the session began.
        granted: u64,
        /// Bytes sent since.
        got: u64,
    },
    /// A message is not as long as it was announced.
    #[error("length of the message: expected {expected} bytes, got {got}")]
    Length {
        /// Bytes of `BEGIN`.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A whole message does not have the checksum of `END`.
    #[error("checksum of the message: expected {expected:08x}, got {got:08x}")]
    Checksum {
        /// The checksum of what came.
        expected: u32,
        /// The checksum of `END`.
        got: u32,
    },
    /// Made with another key, for another session, or changed on its way.
    #[error("authentication code of {what} does not match\n  hint: both sides need the same key")]
    Mac {
        /// What it should have covered.
        what: &'static str,
    },
    /// The peer was silent, or took nothing, for too long.
    #[error("the peer stalled: {doing} took over {} ms", waited.as_millis())]
    Stalled {
        /// What this side was doing.
        doing: &'static str,
        /// The deadline that passed.
        waited: Duration,
    },
    /// The connection ended where something was still to come.
    #[error("the peer disconnected: {doing} ended at byte {offset}")]
    Disconnected {
        /// What this side was doing.
        doing: &'static str,
        /// Bytes that passed in that direction.
        offset: u64,
    },
    /// A message that began and did not come to its end was thrown away.
    #[error("message discarded after {got} of {total} bytes: {source}")]
    Incomplete {
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        total: u64,
        /// What ended it.
        source: Box<NetError>,
    },
    /// The session is over.
    #[error("the session has ended")]
    Ended,
    /// Every message has its answer.
    #[error("expected a message without an answer, got none")]
    Answered,
    /// Something that needs a peer who answers.
    #[error("expected a peer that answers {what}, got a file")]
    OneWay {
        /// What was to be answered.
        what: &'static str,
    },
    /// A text names no place to meet.
    #[error("expected `tcp:HOST:PORT`, `unix:PATH` or `file:PATH`, got `{got}`")]
    Address {
        /// The text.
        got: String,
    },
    /// A text is no line.
    #[error("expected a line such as `10Mbit,30ms`, got `{got}`")]
    Line {
        /// The text.
        got: String,
    },
    /// An address that other machines can reach, without the permission for it.
    #[error(
        "expected a loopback address, got `{address}`\n  \
         hint: `--allow-remote` and a key open the link to other machines"
    )]
    NotLoopback {
        /// The address.
        address: String,
    },
    /// An address that other machines can reach, without a key.
    #[error(
        "expected a key for `{address}`, got none\n  \
         hint: other machines are linked only with `--key-file` or `SMIDGEN_LINK_KEY`"
    )]
    NoKey {
        /// The address.
        address: String,
    },
    /// A key cannot be used.
    #[error("key in {place}: expected {expected}, got {got}\n  hint: {hint}")]
    Key {
        /// The file or the variable.
        place: String,
        /// What a key is.
        expected: &'static str,
        /// What is there; never the key itself.
        got: String,
        /// The cure.
        hint: String,
    },
    /// Something of this side cannot be said on the wire.
    #[error("`{field}`: expected {expected}, got {got}")]
    Unsayable {
        /// The field.
        field: &'static str,
        /// What fits.
        expected: String,
        /// What was asked for.
        got: String,
    },
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
}
