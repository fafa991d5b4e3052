//! Frames: what a stream between two peers is made of.
//!
//! u32 body length (at most 1 MiB), u8 type, u8 flags 0, u16 reserved 0, u32 number, u32 checksum,
//! body; little-endian. The checksum is CRC32C over the first twelve bytes and the body. Numbers
//! count from zero in each direction. 16 bytes around each body.
//! A reader takes room for a body as it arrives: an announced length alone costs nothing.

use std::fmt;
use std::io::{self, Read};

use super::error::FrameError;

/// Bytes before each body.
pub const HEAD_BYTES: usize = 16;
/// The longest body that any frame has.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// How much of a body is read before room for more is taken.
const STEP_BYTES: usize = 64 << 10;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who speaks, for which model, and a nonce.
    Hello = 1,
    /// Fields that compact containers leave out: u32 number, then the fields.
    Schema,
    /// The peer's `HELLO` is right: first credit, and a proof of the key.
    Accept,
    /// The session ends here, and why.
    Reject,
    /// A message begins: u64 length of the container, then its header.
    Begin,
    /// More bytes of the container.
    Chunk,
    /// The container is whole: its CRC32C.
    End,
    /// The receiver asks for more of what was sent.
    Request,
    /// The message is withdrawn, or there is none.
    Cancel,
    /// What the receiver counted; answers a message.
    Stats,
    /// Nothing follows.
    Bye,
    /// The receiver takes more: u64 bytes granted since `ACCEPT`, that first credit included.
    Credit,
    /// The authentication code of the message or request before it.
    Mac,
    /// A question for the time.
    Ping,
    /// Its answer.
    Pong,
}

impl Kind {
    /// Every type, in the order of their numbers.
    pub const ALL: [Kind; 15] = [
        Kind::Hello,
        Kind::Schema,
        Kind::Accept,
        Kind::Reject,
        Kind::Begin,
        Kind::Chunk,
        Kind::End,
        Kind::Request,
        Kind::Cancel,
        Kind::Stats,
        Kind::Bye,
        Kind::Credit,
        Kind::Mac,
        Kind::Ping,
        Kind::Pong,
    ];

    fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_uppercase())
    }
}

/// A frame whose checksum and number are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub kind: Kind,
    /// Its number.
    pub seq: u32,
    /// Where its body stands in the stream.
    pub body_offset: u64,
    /// At most [`MAX_BODY_BYTES`].
    pub body: &'a [u8],
}

/// Puts a frame into `out`, in place of what was there; its body is `parts` one after another.
///
/// # Errors
/// [`FrameError::TooLong`] for a body over [`MAX_BODY_BYTES`].
pub fn encode(kind: Kind, seq: u32, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if len > MAX_BODY_BYTES {
        return Err(FrameError::TooLong { limit: MAX_BODY_BYTES, got: len as u64, offset: 0 });
    }
    out.clear();
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&seq.to_le_bytes());
    let crc = parts.iter().fold(crc32c::crc32c(out), |crc, part| crc32c::crc32c_append(crc, part));
    out.extend_from_slice(&crc.to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

/// The first twelve bytes of a frame and its checksum, apart.
struct Head {
    bytes: [u8; HEAD_BYTES],
    body_len: usize,
    kind: Kind,
    seq: u32,
    crc: u32,
}

impl Head {
    /// Fails at the first field that cannot be, in their order.
    fn check(
        bytes: [u8; HEAD_BYTES],
        offset: u64,
        limit: usize,
        seq: u32,
    ) -> Result<Head, FrameError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let body_len = word(0) as usize;
        if body_len > limit {
            return Err(FrameError::TooLong { limit, got: body_len as u64, offset });
        }
        let kind = Kind::from_number(bytes[4])
            .ok_or(FrameError::Kind { got: bytes[4], offset: offset + 4 })?;
        if bytes[5] != 0 {
            let (field, got) = ("flags", u16::from(bytes[5]));
            return Err(FrameError::Reserved { field, got, offset: offset + 5 });
        }
        let reserved = u16::from_le_bytes([bytes[6], bytes[7]]);
        if reserved != 0 {
            let (field, got) = ("reserved bytes", reserved);
            return Err(FrameError::Reserved { field, got, offset: offset + 6 });
        }
        let got = word(8);
        if got != seq {
            return Err(FrameError::Seq { expected: seq, got, offset: offset + 8 });
        }
        Ok(Head { bytes, body_len, kind, seq, crc: word(12) })
    }
}

/// Reads the frames of one direction, one after another.
#[derive(Debug)]
pub struct FrameReader {
    limit: usize,
    seq: u32,
    offset: u64,
    /// Of the frame that was read last, as its body.
    last: (Kind, u32, u64),
    body: Vec<u8>,
}

impl FrameReader {
    /// A reader at the beginning of a stream, for bodies of at most `limit` bytes.
    pub fn new(limit: usize) -> FrameReader {
        let limit = limit.min(MAX_BODY_BYTES);
        FrameReader { limit, seq: 0, offset: 0, last: (Kind::Bye, 0, 0), body: Vec::new() }
    }

    /// From now on takes bodies of at most `limit` bytes.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(MAX_BODY_BYTES);
    }

    /// Bytes of the stream so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame.
    ///
    /// # Errors
    /// [`FrameError`]; the reader is then of no more use.
    pub fn read(&mut self, source: &mut dyn Read) -> Result<Frame<'_>, FrameError> {
        self.advance(source)?;
        Ok(self.last())
    }

    /// The frame that [`FrameReader::advance`] read.
    pub(super) fn last(&self) -> Frame<'_> {
        let (kind, seq, body_offset) = self.last;
        Frame { kind, seq, body_offset, body: &self.body }
    }

    /// [`FrameReader::read`] for a caller that looks at the frame later.
    pub(super) fn advance(&mut self, source: &mut dyn Read) -> Result<(), FrameError> {
        let start = self.offset;
        let mut bytes = [0; HEAD_BYTES];
        self.fill(source, &mut bytes, start)?;
        let head = Head::check(bytes, start, self.limit, self.seq)?;
        self.read_body(source, head.body_len)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head.bytes[..12]), &self.body);
        if crc != head.crc {
            return Err(FrameError::Crc { expected: crc, got: head.crc, offset: start + 12 });
        }
        // After the last number no frame is right any more: the first one would be read again.
        self.seq = self.seq.checked_add(1).ok_or(FrameError::Seq {
            expected: 0,
            got: head.seq,
            offset: start + 8,
        })?;
        self.last = (head.kind, head.seq, start + HEAD_BYTES as u64);
        Ok(())
    }

    fn read_body(&mut self, source: &mut dyn Read, len: usize) -> Result<(), FrameError> {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        while body.len() < len {
            let have = body.len();
            body.resize(len.min(have + STEP_BYTES), 0);
            self.fill(source, &mut body[have..], u64::MAX).map_err(|error| match error {
                FrameError::Cut { expected, offset } => {
                    // What was not even asked for is missing too.
                    FrameError::Cut { expected: expected + len - body.len(), offset }
                }
                other => other,
            })?;
        }
        self.body = body;
        Ok(())
    }

    /// Fills `part`; an end of the stream at `boundary` is between two frames.
    fn fill(
        &mut self,
        source: &mut dyn Read,
        mut part: &mut [u8],
        boundary: u64,
    ) -> Result<(), FrameError> {
        while !part.is_empty() {
            let offset = self.offset;
            match source.read(part) {
                Ok(0) if offset == boundary => return Err(FrameError::Ended { offset }),
                Ok(0) => return Err(FrameError::Cut { expected: part.len(), offset }),
                Ok(count) => {
                    self.offset += count as u64;
                    part = &mut part[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FrameError::Io { offset, source }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, seq: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(kind, seq, &[body], &mut out).unwrap();
        out
    }

    fn error_of(mut bytes: &[u8]) -> FrameError {
        FrameReader::new(100).read(&mut bytes).unwrap_err()
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = frame(Kind::End, 7, b"abcd");
        assert_eq!(bytes[..12], [4, 0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0]);
        let mut covered = bytes[..12].to_vec();
        covered.extend_from_slice(b"abcd");
        assert_eq!(bytes[12..16], crc32c::crc32c(&covered).to_le_bytes());
        assert_eq!(&bytes[16..], b"abcd");
        assert_eq!(Kind::ALL.map(|kind| kind as u8), std::array::from_fn(|i| i as u8 + 1));
        assert_eq!(Kind::Hello.to_string(), "HELLO");
    }

    #[test]
    fn frames_come_back_in_their_order() {
        let bodies = [&b""[..], b"x", &[7; 200_000], &[1; MAX_BODY_BYTES]];
        let numbered = || (0u32..).zip(bodies);
        let stream: Vec<u8> =
            numbered().flat_map(|(seq, body)| frame(Kind::Chunk, seq, body)).collect();
        let (mut reader, mut source) = (FrameReader::new(MAX_BODY_BYTES), &stream[..]);
        for (seq, body) in numbered() {
            let frame = reader.read(&mut source).unwrap();
            assert_eq!((frame.kind, frame.seq, frame.body), (Kind::Chunk, seq, body));
        }
        let end = stream.len() as u64;
        assert!(
            matches!(reader.read(&mut source), Err(FrameError::Ended { offset }) if offset == end)
        );
    }

    #[test]
    fn each_wrong_field_is_named_with_its_place() {
        let change = |at: usize, value: u8| {
            let mut bytes = frame(Kind::Bye, 0, b"body");
            bytes[at] = value;
            error_of(&bytes).to_string()
        };
        for (at, value, text) in [
            (1, 1, "frame body: expected at most 100 bytes, got 260 at byte 0"),
            (4, 0, "frame type: expected 1 to 15, got 0 at byte 4"),
            (4, 16, "frame type: expected 1 to 15, got 16 at byte 4"),
            (5, 2, "flags of a frame: expected 0, got 2 at byte 5"),
            (7, 1, "reserved bytes of a frame: expected 0, got 256 at byte 6"),
            (8, 3, "frame number: expected 0, got 3 at byte 8"),
        ] {
            assert_eq!(change(at, value), text);
        }
        assert!(change(16, 0).starts_with("frame checksum: expected"));
        assert!(change(12, 0).ends_with("at byte 12"));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let whole = frame(Kind::Chunk, 0, b"some body");
        assert!(matches!(error_of(&[]), FrameError::Ended { offset: 0 }));
        for len in 1..whole.len() {
            let missing = if len < 16 { 16 - len } else { whole.len() - len };
            let error = error_of(&whole[..len]);
            assert!(
                matches!(error, FrameError::Cut { expected, offset }
                    if expected == missing && offset == len as u64),
                "{len}: {error}"
            );
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            error_of(&bytes);
        }
    }

    #[test]
    fn a_body_over_the_limit_is_not_made() {
        let mut out = Vec::new();
        let error = encode(Kind::Chunk, 0, &[&[0; MAX_BODY_BYTES], &[0]], &mut out).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { got: 0x10_0001, .. }));
    }
}
