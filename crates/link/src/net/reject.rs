//! Why a peer was refused, in a form that both sides can read: `REJECT`.
//!
//! Body: u16 code, then three texts (u16 length, UTF-8): field, wanted, got.

use std::fmt;

use super::body::{Fields, MAX_TEXT_BYTES, put_text};
use super::error::{FrameError, NetError};
use super::frame::Frame;

/// Kinds of refusal, by number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: another model, tokenizer, fuser, version or role.
    Incompatible,
    /// 2: frames that are none, or none that has a place there.
    Protocol,
    /// 3: more than is taken.
    TooLarge,
    /// 4: more than was granted.
    Credit,
    /// 5: a message with another checksum or length than announced.
    Checksum,
    /// 6: a wrong or missing authentication code.
    Mac,
    /// 7: silence for too long.
    Timeout,
    /// 8: a container that its reader refuses.
    Container,
    /// 9: something that this peer does not do.
    Unsupported,
    /// 10: this peer failed by itself.
    Failed,
    /// A number of a later version.
    Other(u16),
}

impl Code {
    const KNOWN: [Code; 10] = [
        Code::Incompatible,
        Code::Protocol,
        Code::TooLarge,
        Code::Credit,
        Code::Checksum,
        Code::Mac,
        Code::Timeout,
        Code::Container,
        Code::Unsupported,
        Code::Failed,
    ];

    fn number(self) -> u16 {
        match self {
            Code::Other(number) => number,
            known => {
                let index = Code::KNOWN.iter().position(|code| *code == known);
                index.expect("every other code is in the list") as u16 + 1
            }
        }
    }

    fn from_number(number: u16) -> Code {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| Code::KNOWN.get(index)).copied().unwrap_or(Code::Other(number))
    }
}

/// A refusal: the field, what was wanted, what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// What kind of refusal.
    pub code: Code,
    /// The field or the frame it is about.
    pub field: String,
    /// What would have been right.
    pub wanted: String,
    /// What came.
    pub got: String,
}

impl Reject {
    /// A refusal in words; on the wire each text has room for 512 bytes.
    pub fn new(
        code: Code,
        field: impl ToString,
        wanted: impl ToString,
        got: impl ToString,
    ) -> Reject {
        let (field, wanted, got) = (field.to_string(), wanted.to_string(), got.to_string());
        Reject { code, field, wanted, got }
    }

    /// What the peer is told about an error of this side; nothing where it ended the session itself.
    pub(super) fn about(error: &NetError) -> Option<Reject> {
        let new = |code, field: &str, wanted: &dyn ToString, got: &dyn ToString| {
            Some(Reject::new(code, field, wanted.to_string(), got.to_string()))
        };
        match error {
            NetError::Mismatch { field, wanted, got } => {
                new(Code::Incompatible, field.name(), wanted, got)
            }
            NetError::Frame(error) => new(Code::Protocol, "frame", &"a valid frame", error),
            NetError::Unexpected { expected, got } => new(Code::Protocol, "order", expected, got),
            NetError::TooLarge { what, limit, got } => new(Code::TooLarge, what, limit, got),
            NetError::Credit { granted, got } => new(Code::Credit, "credit", granted, got),
            NetError::Length { expected, got } => new(Code::Checksum, "length", expected, got),
            NetError::Checksum { expected, got } => {
                let hex = |crc: &u32| format!("{crc:08x}");
                new(Code::Checksum, "checksum", &hex(expected), &hex(got))
            }
            NetError::Mac { what } => new(Code::Mac, what, &"the code of our key", &"another"),
            NetError::Stalled { doing, waited } => {
                let wanted = format!("an end within {} ms", waited.as_millis());
                new(Code::Timeout, doing, &wanted, &"silence")
            }
            NetError::Refused(reject) => Some(reject.clone()),
            NetError::Incomplete { source, .. } => Reject::about(source),
            NetError::Rejected(_) | NetError::Disconnected { .. } | NetError::Ended => None,
            other => new(Code::Failed, "session", &"its end", other),
        }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut out = self.code.number().to_le_bytes().to_vec();
        for text in [&self.field, &self.wanted, &self.got] {
            put_text(&mut out, text);
        }
        out
    }

    pub(super) fn read(frame: &Frame<'_>) -> Result<Reject, FrameError> {
        let mut fields = Fields::of(frame);
        let code = Code::from_number(fields.u16("code")?);
        let mut text = |field| Ok::<_, FrameError>(fields.text(field, MAX_TEXT_BYTES)?.to_owned());
        let reject =
            Reject { code, field: text("field")?, wanted: text("wanted")?, got: text("got")? };
        fields.end()?;
        Ok(reject)
    }
}

impl fmt::Display for Reject {
    /// A peer's text is shown escaped: it may hold anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [field, wanted, got] =
            [&self.field, &self.wanted, &self.got].map(|text| text.escape_debug());
        write!(f, "`{field}`: expected {wanted}, got {got}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::Kind;

    fn read(body: &[u8]) -> Result<Reject, FrameError> {
        Reject::read(&Frame { kind: Kind::Reject, seq: 0, body_offset: 0, body })
    }

    #[test]
    fn every_code_comes_back() {
        for (code, number) in Code::KNOWN.into_iter().zip(1..).chain([(Code::Other(900), 900)]) {
            let reject = Reject::new(code, "tokenizer", "aa", "bb");
            assert_eq!(reject.body()[..2], u16::to_le_bytes(number));
            assert_eq!(read(&reject.body()).unwrap(), reject);
        }
    }

    #[test]
    fn a_peers_text_cannot_reach_the_terminal_raw() {
        let reject = Reject::new(Code::Container, "a\u{1b}[2J", "1\n2", "3");
        assert_eq!(reject.to_string(), "`a\\u{1b}[2J`: expected 1\\n2, got 3");
        let mut long = reject.body();
        long.push(0);
        assert!(read(&long).is_err());
    }
}
