//! Protocol buffers, as far as events need them: fields written one by one, and walked over.

/// The value of a field as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message being written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn varint(mut self, field: u64, value: u64) -> Message {
        self.head(field, VARINT);
        self.number(value);
        self
    }

    pub(super) fn double(mut self, field: u64, value: f64) -> Message {
        self.head(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn float(mut self, field: u64, value: f32) -> Message {
        self.head(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, field: u64, value: &[u8]) -> Message {
        self.head(field, BYTES);
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn message(self, field: u64, value: Message) -> Message {
        self.bytes(field, &value.0)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, field: u64, kind: u64) {
        self.number(field << 3 | kind);
    }

    /// Seven bits a byte, lowest first; the top bit says that more follow.
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The fields of a message, in the order of the file. Ends after the first `None` inside, which
/// stands for bytes that are no field.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let head = self.number()?;
        let value = match head & 7 {
            VARINT => Wire::Varint(self.number()?),
            FIXED64 => Wire::Fixed64(self.chunk()?),
            BYTES => {
                let len = usize::try_from(self.number()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(len)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            FIXED32 => Wire::Fixed32(self.chunk()?),
            _ => return None,
        };
        Some((head >> 3, value))
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Option<Vec<(u64, Wire<'_>)>> {
        Fields(bytes).collect()
    }

    #[test]
    fn what_is_written_is_walked_over() {
        let inner = Message::default().varint(1, u64::MAX).varint(2, 0);
        let bytes = Message::default()
            .double(1, 1.5)
            .float(16, -2.0)
            .bytes(3, b"ab")
            .message(5, inner)
            .finish();
        let found = fields(&bytes).unwrap();
        assert_eq!(found[0], (1, Wire::Fixed64(1.5_f64.to_le_bytes())));
        assert_eq!(found[1], (16, Wire::Fixed32((-2.0_f32).to_le_bytes())));
        assert_eq!(found[2], (3, Wire::Bytes(b"ab")));
        let (5, Wire::Bytes(inner)) = found[3] else { panic!("{found:?}") };
        let inner = fields(inner).unwrap();
        assert_eq!(inner, [(1, Wire::Varint(u64::MAX)), (2, Wire::Varint(0))]);
    }

    #[test]
    fn what_is_no_field_ends_the_walk() {
        let cut = Message::default().bytes(1, &[0; 200]).finish();
        for bytes in [&b"\x08"[..], b"\x09\0\0", b"\x0a\xff", b"\x0b", &[0xff; 11], &cut[..100]] {
            assert_eq!(fields(bytes), None, "{bytes:?}");
            assert!(Fields(bytes).count() <= bytes.len());
        }
    }
}
