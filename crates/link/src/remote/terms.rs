//! What the two programs tell each other in `HELLO`, beyond the block that peers compare.
//!
//! Version 1, integers little-endian, bits from the lowest, spare bits 0:
//!
//! ```text
//! sharer    u8 1, u8 1, u8 whether the text follows, u8 tokens in front without bytes,
//!           u32 bytes of the text B, B bits: 1 where a token ends behind this byte,
//!           B bytes of text, or 32 of its SHA-256
//! receiver  u8 1, u8 2, u16 layers of the sharer L, 2 L bits: keys and values of each that are read
//! ```
//!
//! Every length follows from a field in front of it and is compared with what came before memory is
//! taken. Each token but those in front has a byte of its own, so there are never more than bytes; and
//! the reader says how many it takes, since eight bytes of a list may claim 64 tokens of a cache.

use smidgen_store::sha256_bytes;

use super::compat::digest;
use crate::net::{Code, Reject};

const VERSION: u8 = 1;
const SHARER: u8 = 1;
const RECEIVER: u8 = 2;

/// A text, or a name for one that the other side has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// All of it.
    Text(String),
    /// Its SHA-256.
    Digest([u8; 32]),
}

impl Said {
    /// A name for a text.
    pub fn digest_of(text: &str) -> [u8; 32] {
        digest("text", &sha256_bytes(text.as_bytes())).expect("a SHA-256 in hexadecimal")
    }
}

/// What a sharer read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharerTerms {
    /// The text.
    pub said: Said,
    /// Where each of its tokens ends in the text, in bytes; ascending, the last at its end.
    pub ends: Vec<u32>,
}

/// What a receiver reads of a sharer's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverTerms {
    /// `[L]`: keys and values that an open gate reads.
    pub needed: Vec<[bool; 2]>,
}

impl SharerTerms {
    /// The bytes of `HELLO`.
    ///
    /// # Panics
    /// Where ends do not ascend byte by byte behind at most 255 tokens without bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let front = self.ends.iter().take_while(|end| **end == 0).count();
        let len = self.ends.last().copied().unwrap_or(0);
        let mut is_end = vec![false; len as usize];
        self.ends[front..].iter().for_each(|end| is_end[*end as usize - 1] = true);
        let follows = matches!(self.said, Said::Text(_));
        let front = u8::try_from(front).expect("a model has few tokens in front of a text");
        let mut out = vec![VERSION, SHARER, u8::from(follows), front];
        out.extend_from_slice(&len.to_le_bytes());
        put_bits(&mut out, &is_end);
        match &self.said {
            Said::Text(text) => out.extend_from_slice(text.as_bytes()),
            Said::Digest(digest) => out.extend_from_slice(digest),
        }
        out
    }

    /// Reads them, for a cache of at most `most` tokens.
    ///
    /// # Errors
    /// A refusal that the peer is told, naming the field.
    pub fn read(bytes: &[u8], most: usize) -> Result<SharerTerms, Reject> {
        let mut fields = Fields::begin(bytes, SHARER)?;
        let follows = match fields.array("terms: whether the text follows")? {
            [flag @ 0..=1] => flag == 1,
            [other] => return Err(wrong("terms: whether the text follows", "0 or 1", other)),
        };
        let [front] = fields.array("terms: tokens in front")?;
        let len = u32::from_le_bytes(fields.array("terms: bytes of the text")?);
        let is_end = fields.bits("terms: ends of tokens", len as usize)?;
        if is_end.clone().last() == Some(false) {
            return Err(wrong("terms: ends of tokens", "one behind the last byte", "none"));
        }
        let count = usize::from(front) + is_end.clone().filter(|is_end| *is_end).count();
        if count == 0 {
            return Err(wrong("terms: ends of tokens", "at least one", "none"));
        }
        if count > most {
            let wanted = format!("at most {most} tokens");
            return Err(Reject::new(Code::TooLarge, "terms: ends of tokens", wanted, count));
        }
        let said = if follows {
            let text = fields.take("terms: text", len as usize)?;
            let text =
                str::from_utf8(text).map_err(|error| wrong("terms: text", "UTF-8", error))?;
            Said::Text(text.to_owned())
        } else {
            Said::Digest(fields.array("terms: digest")?)
        };
        fields.end()?;
        let mut ends = Vec::with_capacity(count);
        ends.resize(front.into(), 0);
        ends.extend((1..).zip(is_end).filter_map(|(end, is_end)| is_end.then_some(end)));
        Ok(SharerTerms { said, ends })
    }
}

impl ReceiverTerms {
    /// The bytes of `HELLO`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION, RECEIVER];
        out.extend_from_slice(&(self.needed.len() as u16).to_le_bytes());
        put_bits(&mut out, self.needed.as_flattened());
        out
    }

    /// Reads them, for a cache of so many layers.
    ///
    /// # Errors
    /// A refusal that the peer is told, naming the field.
    pub fn read(bytes: &[u8], layers: usize) -> Result<ReceiverTerms, Reject> {
        let mut fields = Fields::begin(bytes, RECEIVER)?;
        let got = usize::from(u16::from_le_bytes(fields.array("terms: layers")?));
        if got != layers {
            return Err(wrong("terms: layers", layers, got));
        }
        let bits: Vec<bool> = fields.bits("terms: halves of layers", 2 * layers)?.collect();
        fields.end()?;
        Ok(ReceiverTerms { needed: bits.as_chunks().0.to_vec() })
    }
}

fn wrong(field: &str, wanted: impl ToString, got: impl ToString) -> Reject {
    Reject::new(Code::Protocol, field, wanted, got)
}

fn put_bits(out: &mut Vec<u8>, bits: &[bool]) {
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    out.extend(bits.chunks(8).map(byte));
}

/// What is left of terms that are being read.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Behind version and role.
    fn begin(bytes: &'a [u8], wanted: u8) -> Result<Fields<'a>, Reject> {
        let mut fields = Fields { rest: bytes };
        let [version] = fields.array("terms: version")?;
        if version != VERSION {
            return Err(Reject::new(Code::Incompatible, "terms: version", VERSION, version));
        }
        match fields.array("terms: role")? {
            [role] if role == wanted => Ok(fields),
            [role] => Err(wrong("terms: role", wanted, role)),
        }
    }

    fn take(&mut self, field: &str, count: usize) -> Result<&'a [u8], Reject> {
        let taken = self.rest.split_at_checked(count);
        let (taken, rest) =
            taken.ok_or_else(|| wrong(field, format!("{count} bytes"), self.rest.len()))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Reject> {
        Ok(self.take(field, N)?.try_into().expect("so many were taken"))
    }

    fn bits(
        &mut self,
        field: &str,
        count: usize,
    ) -> Result<impl Iterator<Item = bool> + Clone + use<'a>, Reject> {
        let bytes = self.take(field, count.div_ceil(8))?;
        let bit = move |at: usize| bytes[at / 8] >> (at % 8) & 1 == 1;
        if (count..8 * bytes.len()).any(bit) {
            return Err(wrong(field, "spare bits of 0", "1"));
        }
        Ok((0..count).map(bit))
    }

    fn end(&self) -> Result<(), Reject> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(wrong("terms", "their end", format!("{more} bytes more"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharer() -> SharerTerms {
        SharerTerms { said: Said::Text("Räder roll".into()), ends: vec![0, 1, 3, 7, 8, 11] }
    }

    fn read(bytes: &[u8]) -> Result<SharerTerms, Reject> {
        SharerTerms::read(bytes, 1 << 14)
    }

    fn receiver() -> ReceiverTerms {
        let needed = vec![[true; 2], [false; 2], [true, false], [false, true], [true; 2]];
        ReceiverTerms { needed }
    }

    #[test]
    fn terms_are_bytes_of_the_page_and_come_back() {
        let bytes = sharer().to_bytes();
        assert_eq!(bytes[..10], [1, 1, 1, 1, 11, 0, 0, 0, 0b1100_0101, 0b100]);
        assert_eq!(&bytes[10..], "Räder roll".as_bytes());
        assert_eq!(read(&bytes).unwrap(), sharer());
        let unsaid = SharerTerms { said: Said::Digest(Said::digest_of("Räder roll")), ..sharer() };
        assert_eq!(unsaid.to_bytes().len(), 10 + 32);
        assert_eq!(read(&unsaid.to_bytes()).unwrap(), unsaid);
        let bytes = receiver().to_bytes();
        assert_eq!(bytes, [1, 2, 5, 0, 0b1001_0011, 0b11]);
        assert_eq!(ReceiverTerms::read(&bytes, 5).unwrap(), receiver());
    }

    #[test]
    fn every_truncation_and_every_byte_too_many_is_refused() {
        let unsaid = SharerTerms { said: Said::Digest([7; 32]), ..sharer() };
        for bytes in [sharer().to_bytes(), unsaid.to_bytes()] {
            for len in 0..bytes.len() {
                read(&bytes[..len]).unwrap_err();
            }
            read(&[&bytes[..], &[0]].concat()).unwrap_err();
        }
        let bytes = receiver().to_bytes();
        (0..bytes.len()).for_each(|len| drop(ReceiverTerms::read(&bytes[..len], 5).unwrap_err()));
        ReceiverTerms::read(&[&bytes[..], &[0]].concat(), 5).unwrap_err();
    }

    #[test]
    fn what_cannot_be_is_named() {
        let bytes = sharer().to_bytes();
        let named = |at: usize, byte: u8, field: &str| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            let reject = read(&bytes).unwrap_err();
            assert_eq!(reject.field, format!("terms: {field}"), "{reject}");
        };
        named(0, 2, "version");
        named(1, 2, "role");
        named(2, 2, "whether the text follows");
        // 2 GiB of text are asked for in 21 bytes; nothing is taken for them.
        named(7, 0x80, "ends of tokens");
        named(9, 0, "ends of tokens");
        named(9, 0b1100, "ends of tokens");
        named(11, 0xff, "text");
        let empty = [1, 1, 1, 0, 0, 0, 0, 0];
        assert_eq!(read(&empty).unwrap_err().got, "none");
        let other = ReceiverTerms::read(&receiver().to_bytes(), 6).unwrap_err();
        assert_eq!(other.to_string(), "`terms: layers`: expected 6, got 5");
        let spare = ReceiverTerms::read(&[1, 2, 1, 0, 0b100], 1).unwrap_err();
        assert_eq!(spare.field, "terms: halves of layers");
    }

    /// 64 KiB of ends behind a digest claim half a million tokens.
    #[test]
    fn more_tokens_than_are_taken_are_counted_and_refused() {
        let said = Said::Digest([7; 32]);
        let all = SharerTerms { said, ends: (0..=8 * 65_000).collect() }.to_bytes();
        assert!(all.len() < 64 << 10);
        let refused = read(&all).unwrap_err();
        assert_eq!(refused.code, Code::TooLarge);
        let words = "`terms: ends of tokens`: expected at most 16384 tokens, got 520001";
        assert_eq!(refused.to_string(), words);
        assert_eq!(SharerTerms::read(&all, 520_001).unwrap().ends.len(), 520_001);
        // The one in front counts too.
        let bytes = sharer().to_bytes();
        assert!(SharerTerms::read(&bytes, 6).is_ok() && SharerTerms::read(&bytes, 5).is_err());
    }

    /// Whatever the bytes, reading them gives terms that are written again as they were.
    #[test]
    fn any_bytes_are_read_or_refused() {
        let bytes = sharer().to_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                if let Ok(terms) = read(&other) {
                    assert_eq!(terms.to_bytes(), other);
                }
            }
        }
    }
}
