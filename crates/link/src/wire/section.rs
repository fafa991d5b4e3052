//! The section table: what each part of a container is, where it lies, and its checksum.
//!
//! ```text
//! entry  0  2  kind            2  1  codec: 0 raw, 1 zstd     3  1  precision or encoding, else 0
//!        4  2  position of the block's first layer in the list of those sent, or 0xffff
//!        6  2  group, or 0xffff
//!        8  8  offset          16  4  stored bytes             20  4  raw bytes
//!       24  4  CRC32C of the stored bytes                      28  4  zero
//! ```

use super::error::{Fault, WireError};
use super::scale::Side;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The source layers that are sent, u16 each; absent where all are.
    Layers = 1,
    /// The tokens of a group; absent where all are.
    Index = 2,
    /// Codes of keys.
    PayloadK = 3,
    /// Scales of keys.
    ScaleK = 4,
    /// Codes of values.
    PayloadV = 5,
    /// Scales of values.
    ScaleV = 6,
    /// Zero points of keys.
    ZeroK = 7,
    /// Zero points of values.
    ZeroV = 8,
    /// Factors of channels. Known, but of no use in this version: no container may have it.
    Calib = 9,
    /// A note for people.
    Meta = 10,
}

impl Kind {
    const NAMES: [&str; 10] = [
        "layers",
        "index",
        "payload-k",
        "scale-k",
        "payload-v",
        "scale-v",
        "zero-k",
        "zero-v",
        "calib",
        "meta",
    ];
    const ALL: [Kind; 10] = [
        Kind::Layers,
        Kind::Index,
        Kind::PayloadK,
        Kind::ScaleK,
        Kind::PayloadV,
        Kind::ScaleV,
        Kind::ZeroK,
        Kind::ZeroV,
        Kind::Calib,
        Kind::Meta,
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        Kind::NAMES[self as usize - 1]
    }

    fn by_number(number: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Codes of this side.
    pub(super) fn payload(side: Side) -> Kind {
        if side == Side::Keys { Kind::PayloadK } else { Kind::PayloadV }
    }

    /// Scales of this side.
    pub(super) fn scale(side: Side) -> Kind {
        if side == Side::Keys { Kind::ScaleK } else { Kind::ScaleV }
    }

    /// Zero points of this side.
    pub(super) fn zero(side: Side) -> Kind {
        if side == Side::Keys { Kind::ZeroK } else { Kind::ZeroV }
    }
}

/// Says that an entry belongs to no block, or to no group.
pub(super) const NONE: u16 = 0xffff;
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 32;

/// An entry of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the section holds.
    pub kind: Kind,
    /// Whether the stored bytes are a zstd frame.
    pub compressed: bool,
    /// The number of the precision of a payload, or of the encoding of an index.
    pub code: u8,
    /// Where in the list of layers the block begins.
    pub position: Option<u16>,
    /// The group of tokens.
    pub group: Option<u16>,
    /// From the start of the container.
    pub offset: u64,
    /// Bytes in the container.
    pub stored_bytes: u32,
    /// Bytes before compression.
    pub raw_bytes: u32,
    /// CRC32C of the stored bytes.
    pub crc: u32,
}

impl Entry {
    /// Where the section ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.stored_bytes.into())
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.kind as u16).to_le_bytes());
        out.extend([u8::from(self.compressed), self.code]);
        out.extend(self.position.unwrap_or(NONE).to_le_bytes());
        out.extend(self.group.unwrap_or(NONE).to_le_bytes());
        out.extend(self.offset.to_le_bytes());
        out.extend(self.stored_bytes.to_le_bytes());
        out.extend(self.raw_bytes.to_le_bytes());
        out.extend(self.crc.to_le_bytes());
        out.extend([0; 4]);
    }

    /// Reads the entry that begins at byte `at` of the container.
    pub(super) fn read(bytes: &[u8; ENTRY_BYTES], at: u64) -> Result<Entry, WireError> {
        let u16_at = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        let u32_at = |i: usize| u32::from(u16_at(i)) | u32::from(u16_at(i + 2)) << 16;
        let fail = |i: u64, fault| Err(WireError::new(at + i, fault));
        let unknown = |field, got: u64| Fault::Unknown { field, got };
        let Some(kind) = Kind::by_number(u16_at(0)) else {
            return fail(0, unknown("kind", u16_at(0).into()));
        };
        if bytes[2] > 1 {
            return fail(2, unknown("codec", bytes[2].into()));
        }
        if u32_at(28) != 0 {
            let got = u32_at(28).into();
            return fail(28, Fault::Number { field: "reserved", expected: 0, got });
        }
        let some = |number: u16| (number != NONE).then_some(number);
        Ok(Entry {
            kind,
            compressed: bytes[2] == 1,
            code: bytes[3],
            position: some(u16_at(4)),
            group: some(u16_at(6)),
            offset: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            stored_bytes: u32_at(16),
            raw_bytes: u32_at(20),
            crc: u32_at(24),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_and_wrong_ones_are_named() {
        let entry = Entry {
            kind: Kind::PayloadV,
            compressed: true,
            code: 2,
            position: Some(7),
            group: None,
            offset: 0x1_2345_6789,
            stored_bytes: 3,
            raw_bytes: 4,
            crc: 0xdead_beef,
        };
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        let bytes: [u8; ENTRY_BYTES] = bytes.try_into().unwrap();
        assert_eq!(Entry::read(&bytes, 0), Ok(entry));
        for (at, value, message) in [
            (0, 11, "`kind`: 11 stands for nothing, at byte 100"),
            (2, 2, "`codec`: 2 stands for nothing, at byte 102"),
            (31, 1, "`reserved`: expected 0, got 16777216, at byte 128"),
        ] {
            let mut wrong = bytes;
            wrong[at] = value;
            assert_eq!(Entry::read(&wrong, 100).unwrap_err().to_string(), message);
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::by_number(kind as u16), Some(kind));
        }
    }
}
