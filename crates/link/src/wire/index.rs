//! Lists of token indices, strictly increasing: six encodings, of which the shortest is sent.
//!
//! | number | encoding | bytes for n of T tokens |
//! |---|---|---|
//! | 0 | all of them | 0 |
//! | 1 | u16 each | 2 n |
//! | 2 | u32 each | 4 n |
//! | 3 | a bit for each token, the first in the lowest bit | T / 8, rounded up |
//! | 4 | LEB128 of the first, then of each gap less 1 | n to 5 n |
//! | 5 | LEB128 of the number of ranges, then of each gap before one and of its length less 1 | from 3 |
//!
//! An encoder takes the shortest, of equal ones that with the lowest number. A reader never expands
//! a list: three bytes may say sixteen million tokens, so [`Index`] keeps the bytes and walks them.

use std::borrow::Cow;

/// How a list of indices is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Every token; no bytes.
    All = 0,
    /// Two bytes each.
    U16 = 1,
    /// Four bytes each.
    U32 = 2,
    /// A bit for each token of the sequence.
    Bitmap = 3,
    /// LEB128 of gaps.
    Gaps = 4,
    /// LEB128 of gaps and lengths.
    Ranges = 5,
}

/// What a list of indices may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// Bytes end within a number, or a bitmap does not have a bit for each token.
    #[error("the list is cut off")]
    Cut,
    /// A LEB128 number longer than it needs to be, or than 32 bits.
    #[error("a LEB128 number is longer than it needs to be")]
    Overlong,
    /// An index is not above the one before.
    #[error("indices do not increase")]
    Unsorted,
    /// An index is not below T.
    #[error("an index is outside of the sequence")]
    OutOfRange,
    /// A bit behind the last token is set.
    #[error("spare bits are not zero")]
    SpareBits,
    /// There are not as many indices as the payload has tokens.
    #[error("the list is not as long as its payload")]
    Count,
    /// An index stands in two groups.
    #[error("an index stands in two groups")]
    Overlap,
}

impl Encoding {
    const WRITTEN: [Encoding; 5] =
        [Encoding::U16, Encoding::U32, Encoding::Bitmap, Encoding::Gaps, Encoding::Ranges];

    /// The encoding with this number.
    pub fn by_number(number: u8) -> Option<Encoding> {
        let all = std::iter::once(Encoding::All).chain(Encoding::WRITTEN);
        all.into_iter().find(|encoding| *encoding as u8 == number)
    }

    /// The shortest encoding of a list that is not empty, and its bytes.
    pub(crate) fn shortest(tokens: &[u32], seq_len: usize) -> (Encoding, usize) {
        if tokens.len() == seq_len {
            return (Encoding::All, 0);
        }
        let lengths = Encoding::WRITTEN.into_iter().map(|e| (e, e.bytes(tokens, seq_len)));
        lengths.min_by_key(|(_, bytes)| *bytes).expect("there are encodings")
    }

    /// Bytes of a list; more than any other where it cannot be written so.
    fn bytes(self, tokens: &[u32], seq_len: usize) -> usize {
        match self {
            Encoding::All => 0,
            Encoding::U16 if tokens.last().is_some_and(|last| *last > 0xffff) => usize::MAX,
            Encoding::U16 => 2 * tokens.len(),
            Encoding::U32 => 4 * tokens.len(),
            Encoding::Bitmap => seq_len.div_ceil(8),
            Encoding::Gaps => gaps(tokens).map(leb_bytes).sum(),
            Encoding::Ranges => {
                let (mut bytes, mut count) = (0, 0);
                for (gap, length) in ranges(tokens) {
                    (bytes, count) = (bytes + leb_bytes(gap) + leb_bytes(length - 1), count + 1);
                }
                leb_bytes(count) + bytes
            }
        }
    }

    /// Appends a list.
    pub(super) fn write(self, tokens: &[u32], seq_len: usize, out: &mut Vec<u8>) {
        match self {
            Encoding::All => {}
            Encoding::U16 => out.extend(tokens.iter().flat_map(|t| (*t as u16).to_le_bytes())),
            Encoding::U32 => out.extend(tokens.iter().flat_map(|t| t.to_le_bytes())),
            Encoding::Bitmap => {
                let start = out.len();
                out.resize(start + seq_len.div_ceil(8), 0);
                tokens.iter().for_each(|t| out[start + *t as usize / 8] |= 1 << (t % 8));
            }
            Encoding::Gaps => gaps(tokens).for_each(|gap| put_leb(out, gap)),
            Encoding::Ranges => {
                put_leb(out, ranges(tokens).count() as u32);
                for (gap, length) in ranges(tokens) {
                    put_leb(out, gap);
                    put_leb(out, length - 1);
                }
            }
        }
    }

    /// The fewest and the most bytes of a list of `count` tokens.
    pub(super) fn possible_bytes(self, count: u64, seq_len: u64) -> (u64, u64) {
        match self {
            Encoding::All => (0, 0),
            Encoding::U16 => (2 * count, 2 * count),
            Encoding::U32 => (4 * count, 4 * count),
            Encoding::Bitmap => (seq_len.div_ceil(8), seq_len.div_ceil(8)),
            Encoding::Gaps => (count, 5 * count),
            Encoding::Ranges => (3, 5 + 10 * count),
        }
    }
}

/// The first index, then what lies between each two.
fn gaps(tokens: &[u32]) -> impl Iterator<Item = u32> {
    let mut next = 0;
    tokens.iter().map(move |token| {
        let gap = token - next;
        next = token + 1;
        gap
    })
}

/// What lies before each run of neighbours, and its length.
pub(super) fn ranges(tokens: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    let mut end = 0;
    tokens.chunk_by(|a, b| a + 1 == *b).map(move |run| {
        let gap = run[0] - end;
        end = run[0] + run.len() as u32;
        (gap, run.len() as u32)
    })
}

/// Bytes of a number in LEB128.
pub(crate) fn leb_bytes(number: u32) -> usize {
    (32 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a number in LEB128: seven bits a byte, the lowest first, the top bit set in all but the last.
pub(super) fn put_leb(out: &mut Vec<u8>, mut number: u32) {
    while number > 127 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number in LEB128 at `at` and moves behind it.
pub(super) fn take_leb(bytes: &[u8], at: &mut usize) -> Result<u32, IndexFault> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at).ok_or(IndexFault::Cut)?;
        *at += 1;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            let overlong = byte == 0 && shift > 0;
            let number = u32::try_from(number).ok().filter(|_| !overlong);
            return number.ok_or(IndexFault::Overlong);
        }
    }
    Err(IndexFault::Overlong)
}

/// A list of indices as it was received and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    encoding: Encoding,
    bytes: Box<[u8]>,
    count: usize,
    seq_len: u32,
}

impl Index {
    /// Every token.
    pub(super) fn all(seq_len: u32) -> Index {
        Index { encoding: Encoding::All, bytes: [].into(), count: seq_len as usize, seq_len }
    }

    /// The list in `bytes`, of `count` tokens. Bytes that nobody else needs are kept, not copied.
    ///
    /// # Errors
    /// What is wrong, and at which of the bytes.
    pub fn read(
        encoding: Encoding,
        bytes: Cow<'_, [u8]>,
        count: usize,
        seq_len: u32,
    ) -> Result<Index, (usize, IndexFault)> {
        if encoding == Encoding::Bitmap && bytes.len() != (seq_len as usize).div_ceil(8) {
            return Err((0, IndexFault::Cut));
        }
        let mut walk = Walk::new(encoding, &bytes, seq_len);
        let mut found = 0;
        while let Some(token) = walk.next() {
            token.map_err(|fault| (walk.at, fault))?;
            found += 1;
            if found > count {
                return Err((walk.at, IndexFault::Count));
            }
        }
        let spare = walk.spare().map_err(|fault| (walk.at, fault));
        if found != count {
            return Err((walk.at, IndexFault::Count));
        }
        spare?;
        Ok(Index { encoding, bytes: bytes.into_owned().into(), count, seq_len })
    }

    /// Bytes of the list of `count` tokens at the start of `bytes`.
    ///
    /// # Errors
    /// Where they end before it does, and at which of them.
    pub(super) fn bytes_of(
        encoding: Encoding,
        bytes: &[u8],
        count: usize,
        seq_len: u32,
    ) -> Result<usize, (usize, IndexFault)> {
        let mut at = 0;
        let mut leb = || take_leb(bytes, &mut at).map_err(|fault| (bytes.len(), fault));
        let len = match encoding {
            Encoding::All => 0,
            Encoding::U16 => 2 * count,
            Encoding::U32 => 4 * count,
            Encoding::Bitmap => (seq_len as usize).div_ceil(8),
            Encoding::Gaps => {
                (0..count).try_for_each(|_| leb().map(drop))?;
                at
            }
            Encoding::Ranges => {
                let ranges = leb()?;
                (0..2 * u64::from(ranges)).try_for_each(|_| leb().map(drop))?;
                at
            }
        };
        if len > bytes.len() { Err((bytes.len(), IndexFault::Cut)) } else { Ok(len) }
    }

    /// How it was written.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it is empty, which no list that was received is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The indices, increasing.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let walk = Walk::new(self.encoding, &self.bytes, self.seq_len);
        walk.map(|token| token.expect("a list is checked when it is read"))
    }
}

/// Walks a list that may be wrong.
struct Walk<'a> {
    encoding: Encoding,
    bytes: &'a [u8],
    at: usize,
    seq_len: u64,
    /// The lowest index that may come next.
    next: u64,
    /// What is left of the range, and how many ranges are left; the latter is unknown at the start.
    left: u64,
    ranges: Option<u32>,
}

impl<'a> Walk<'a> {
    fn new(encoding: Encoding, bytes: &'a [u8], seq_len: u32) -> Walk<'a> {
        let seq_len = seq_len.into();
        Walk { encoding, bytes, at: 0, seq_len, next: 0, left: 0, ranges: None }
    }

    fn step(&mut self) -> Result<Option<u64>, IndexFault> {
        match self.encoding {
            Encoding::All => Ok((self.next < self.seq_len).then_some(self.next)),
            Encoding::U16 => self.number::<2>(),
            Encoding::U32 => self.number::<4>(),
            Encoding::Bitmap => {
                let bit = |t: &u64| self.bytes[(t / 8) as usize] >> (t % 8) & 1 == 1;
                let end = self.seq_len.min(8 * self.bytes.len() as u64);
                Ok((self.next..end).find(bit))
            }
            Encoding::Gaps if self.at == self.bytes.len() => Ok(None),
            Encoding::Gaps => {
                let gap = take_leb(self.bytes, &mut self.at)?;
                Ok(Some(self.next + u64::from(gap)))
            }
            Encoding::Ranges => self.in_range(),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<Option<u64>, IndexFault> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let number = rest.first_chunk::<N>().ok_or(IndexFault::Cut)?;
        self.at += N;
        Ok(Some(number.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))))
    }

    fn in_range(&mut self) -> Result<Option<u64>, IndexFault> {
        if self.left > 0 {
            self.left -= 1;
            return Ok(Some(self.next));
        }
        let ranges = match self.ranges {
            None => take_leb(self.bytes, &mut self.at)?,
            Some(ranges) => ranges,
        };
        self.ranges = Some(ranges.saturating_sub(1));
        if ranges == 0 {
            return Ok(None);
        }
        let gap = take_leb(self.bytes, &mut self.at)?;
        self.left = take_leb(self.bytes, &mut self.at)?.into();
        Ok(Some(self.next + u64::from(gap)))
    }

    /// Whether nothing stands behind the end.
    fn spare(&self) -> Result<(), IndexFault> {
        match self.encoding {
            Encoding::Bitmap => {
                let spare = |t: &u64| self.bytes[(t / 8) as usize] >> (t % 8) & 1 == 1;
                let mut spares = self.seq_len..8 * self.bytes.len() as u64;
                if spares.any(|t| spare(&t)) { Err(IndexFault::SpareBits) } else { Ok(()) }
            }
            Encoding::Ranges if self.at != self.bytes.len() => Err(IndexFault::Count),
            _ => Ok(()),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<u32, IndexFault>;

    fn next(&mut self) -> Option<Result<u32, IndexFault>> {
        let token = match self.step() {
            Ok(token) => token?,
            Err(fault) => return Some(Err(fault)),
        };
        if token < self.next {
            return Some(Err(IndexFault::Unsorted));
        }
        if token >= self.seq_len {
            return Some(Err(IndexFault::OutOfRange));
        }
        self.next = token + 1;
        Some(Ok(token as u32))
    }
}

/// Whether no index stands in two of the lists, each of which increases.
pub(super) fn disjoint<'a>(lists: impl Iterator<Item = &'a Index>) -> bool {
    let mut heads: Vec<_> = lists.map(|list| list.tokens().peekable()).collect();
    loop {
        let Some(least) = heads.iter_mut().filter_map(|head| head.peek().copied()).min() else {
            return true;
        };
        let taken = heads.iter_mut().filter_map(|head| head.next_if_eq(&least)).count();
        if taken > 1 {
            return false;
        }
    }
}

#[cfg(test)]
mod tests;
