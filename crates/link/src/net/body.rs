//! The fields of bodies: little-endian numbers, texts with a length before them, nothing left over.

use super::error::FrameError;
use super::frame::{Frame, Kind};

/// Longest text in a body; what is longer is cut when it is written.
pub(super) const MAX_TEXT_BYTES: usize = 512;

/// Reads a body from its first field to its last.
pub(super) struct Fields<'a> {
    kind: Kind,
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Fields<'a> {
    pub(super) fn of(frame: &Frame<'a>) -> Fields<'a> {
        Fields { kind: frame.kind, rest: frame.body, offset: frame.body_offset }
    }

    /// An error about the field that was read last, which had `len` bytes.
    pub(super) fn wrong(
        &self,
        field: &'static str,
        len: usize,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> FrameError {
        let offset = self.offset - len as u64;
        FrameError::Body {
            kind: self.kind,
            field,
            expected: expected.into(),
            got: got.to_string(),
            offset,
        }
    }

    pub(super) fn bytes(
        &mut self,
        field: &'static str,
        len: usize,
    ) -> Result<&'a [u8], FrameError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            let got = format!("{} bytes", self.rest.len());
            return Err(self.wrong(field, 0, format!("{len} bytes"), got));
        };
        (self.rest, self.offset) = (rest, self.offset + len as u64);
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], FrameError> {
        let bytes = self.bytes(field, N)?;
        Ok(bytes.try_into().expect("that many bytes were asked for"))
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A text of at most `most` bytes, after its length as u16.
    pub(super) fn text(&mut self, field: &'static str, most: usize) -> Result<&'a str, FrameError> {
        let len = usize::from(self.u16(field)?);
        if len > most {
            return Err(self.wrong(field, 2, format!("at most {most} bytes"), len));
        }
        let bytes = self.bytes(field, len)?;
        std::str::from_utf8(bytes).map_err(|error| self.wrong(field, len, "UTF-8", error))
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Fails where something is left.
    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let got = format!("{} bytes more", self.rest.len());
        Err(self.wrong("end", 0, "the end of the body", got))
    }
}

/// Appends a text for [`Fields::text`]; over [`MAX_TEXT_BYTES`] its end is lost.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut len = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..len]);
}

/// What the body of `frame` holds, where it is one number.
pub(super) fn only_u64(frame: &Frame<'_>, field: &'static str) -> Result<u64, FrameError> {
    let mut fields = Fields::of(frame);
    let value = fields.u64(field)?;
    fields.end()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &[u8]) -> Fields<'_> {
        Fields::of(&Frame { kind: Kind::Cancel, seq: 0, body_offset: 100, body })
    }

    #[test]
    fn texts_come_back_and_long_ones_end_at_a_character() {
        for (text, kept) in [
            ("", 0),
            ("a`b", 3),
            (&*"é".repeat(300), 512),
            (&*format!("a{}", "é".repeat(300)), 511),
        ] {
            let mut body = Vec::new();
            put_text(&mut body, text);
            let mut fields = fields(&body);
            assert_eq!(fields.text("reason", MAX_TEXT_BYTES).unwrap(), &text[..kept]);
            fields.end().unwrap();
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let mut short = fields(&[1, 0]);
        short.u8("a").unwrap();
        let error = short.u32("code").unwrap_err().to_string();
        assert_eq!(error, "`code` of CANCEL: expected 4 bytes, got 1 bytes at byte 101");
        let error = fields(&[3, 0, b'a', 0xff, b'b']).text("reason", 9).unwrap_err().to_string();
        assert!(error.starts_with("`reason` of CANCEL: expected UTF-8, got invalid"), "{error}");
        assert!(error.ends_with("at byte 102"), "{error}");
        let error = fields(&[3, 0, b'a']).text("reason", 2).unwrap_err().to_string();
        assert_eq!(error, "`reason` of CANCEL: expected at most 2 bytes, got 3 at byte 100");
        let error = fields(&[0; 3]).end().unwrap_err().to_string();
        assert_eq!(
            error,
            "`end` of CANCEL: expected the end of the body, got 3 bytes more at byte 100"
        );
    }
}
