//! Token shards: one side of the data in one memory-mapped file.
//!
//! Little-endian throughout. The counts stand at the end, so that a shard of any size is written
//! in one pass.
//!
//! ```text
//! magic "SMDGTOK1" | version u32 | token width u32 (2 or 4 bytes)
//! tokens, then zero to seven bytes up to a multiple of 8
//! documents + 1 offsets u64: the position of each document's opening token, then of the last token
//! tokens u64 | documents u64 | source bytes u64 | magic "SMDGEND1"
//! ```
//!
//! The stream is `<eot> text <eot> text ... <eot>`: the special token opens each document, and the
//! last one closes the stream, so that the end of every document is something to predict.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::Error;

const MAGIC: &[u8; 8] = b"SMDGTOK1";
const END_MAGIC: &[u8; 8] = b"SMDGEND1";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const FOOTER_BYTES: usize = 32;

/// Writes one shard in one pass.
pub(crate) struct ShardWriter<W> {
    out: W,
    wide: bool,
    eot: u32,
    tokens: u64,
    source_bytes: u64,
    offsets: Vec<u64>,
}

impl<W: Write> ShardWriter<W> {
    /// Token ids must be below `vocab_size`; up to 65,536 of them take two bytes each.
    pub(crate) fn new(mut out: W, vocab_size: usize, eot: u32) -> io::Result<Self> {
        let wide = vocab_size > 1 << 16;
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(if wide { 4_u32 } else { 2 }).to_le_bytes())?;
        Ok(Self { out, wide, eot, tokens: 0, source_bytes: 0, offsets: Vec::new() })
    }

    pub(crate) fn open_document(&mut self) -> io::Result<()> {
        self.offsets.push(self.tokens);
        self.put(self.eot)
    }

    /// A part of the open document: its ids, and how many bytes of text they stand for.
    pub(crate) fn extend(&mut self, ids: &[u32], source_bytes: usize) -> io::Result<()> {
        self.source_bytes += source_bytes as u64;
        ids.iter().try_for_each(|&id| self.put(id))
    }

    /// Closes the stream and gives the offsets back.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u64>> {
        let documents = self.offsets.len() as u64;
        self.offsets.push(self.tokens);
        self.put(self.eot)?;
        let width = if self.wide { 4 } else { 2 };
        let gap = (self.tokens * width).next_multiple_of(8) - self.tokens * width;
        self.out.write_all(&[0; 8][..gap as usize])?;
        let counts = [self.tokens, documents, self.source_bytes];
        for number in self.offsets.iter().chain(&counts) {
            self.out.write_all(&number.to_le_bytes())?;
        }
        self.out.write_all(END_MAGIC)?;
        Ok(self.offsets)
    }

    fn put(&mut self, id: u32) -> io::Result<()> {
        self.tokens += 1;
        if self.wide {
            return self.out.write_all(&id.to_le_bytes());
        }
        let narrow = u16::try_from(id).expect("ids are below the vocabulary size");
        self.out.write_all(&narrow.to_le_bytes())
    }
}

/// The tokens of one side, in place. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Shard {
    map: Mmap,
    path: PathBuf,
    /// Bytes per token, 2 or 4.
    width: usize,
    tokens: u64,
    documents: u64,
    source_bytes: u64,
    /// Where in the file the offsets begin.
    offsets_at: usize,
}

impl Shard {
    /// Maps a shard and checks its structure, though not its content (see `Dataset::open`).
    ///
    /// # Errors
    /// `Read`; `Shard` naming the field that is not as it should be.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let map = map(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::check(map, path).map_err(|what| Error::Shard { path: path.to_owned(), what })
    }

    fn check(map: Mmap, path: &Path) -> Result<Self, String> {
        let length = map.len();
        let least = HEADER_BYTES + 8 + FOOTER_BYTES;
        if length < least {
            return Err(format!("expected at least {least} bytes, got {length}"));
        }
        expect_magic("magic", &map[..8], MAGIC)?;
        let (version, width) = (read_u32(&map, 8), read_u32(&map, 12));
        if version != VERSION {
            return Err(format!("version: expected {VERSION}, got {version}"));
        }
        if width != 2 && width != 4 {
            return Err(format!("token width: expected 2 or 4, got {width}"));
        }
        let footer = length - FOOTER_BYTES;
        expect_magic("end magic", &map[footer + 24..], END_MAGIC)?;
        let number = |at| read_u64(&map, footer + at);
        let (tokens, documents, source_bytes) = (number(0), number(8), number(16));
        let offsets_at = layout(length, width, tokens, documents).ok_or_else(|| {
            format!("length: expected that of {tokens} tokens in {documents} documents, got {length} bytes")
        })?;
        let width = width as usize;
        let path = path.to_owned();
        let shard = Self { map, path, width, tokens, documents, source_bytes, offsets_at };
        shard.check_offsets()?;
        Ok(shard)
    }

    fn check_offsets(&self) -> Result<(), String> {
        let rising = (0..self.documents).all(|i| self.offset(i) < self.offset(i + 1));
        if rising && self.offset(0) == 0 && self.offset(self.documents) + 1 == self.tokens {
            return Ok(());
        }
        Err("document offsets: expected a rising list over all tokens, got another".to_owned())
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tokens, the special ones included.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Documents, or parts of a cut one.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes of the text that the tokens stand for.
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Bytes of the whole file, for its hash.
    pub(crate) fn file(&self) -> &[u8] {
        &self.map
    }

    /// Fills `out` with the tokens from `start` on.
    ///
    /// # Panics
    /// If they are not all there.
    pub fn read(&self, start: u64, out: &mut [u32]) {
        let end = start.checked_add(out.len() as u64).filter(|&end| end <= self.tokens);
        assert!(end.is_some(), "a reader stays within the {} tokens of its shard", self.tokens);
        let from = HEADER_BYTES + start as usize * self.width;
        let bytes = &self.map[from..from + out.len() * self.width];
        for (token, bytes) in out.iter_mut().zip(bytes.chunks_exact(self.width)) {
            *token = match *bytes {
                [a, b] => u32::from(u16::from_le_bytes([a, b])),
                [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
                _ => unreachable!("the width is 2 or 4"),
            };
        }
    }

    /// The position of the first token of document `index`; with `index` = documents, of the last
    /// token of all.
    pub fn offset(&self, index: u64) -> u64 {
        assert!(index <= self.documents, "a reader stays within the documents of its shard");
        read_u64(&self.map, self.offsets_at + index as usize * 8)
    }

    /// The document that the token at `position` belongs to. The last token of all belongs to none
    /// and answers `documents()`.
    pub fn document_at(&self, position: u64) -> u64 {
        let (mut low, mut high) = (0, self.documents + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.offset(middle) <= position { low = middle + 1 } else { high = middle }
        }
        low - 1
    }
}

#[allow(unsafe_code)]
fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the file lies in a run directory that its run has locked, and every writer of this
    // program replaces files by renaming, never in place. A stranger who cuts the file meanwhile
    // stops the process; no check of ours can prevent that.
    unsafe { Mmap::map(&file) }
}

/// Where the offsets begin, if a shard of these counts is exactly `length` bytes long.
fn layout(length: usize, width: u32, tokens: u64, documents: u64) -> Option<usize> {
    let offsets_at = tokens
        .checked_mul(u64::from(width))?
        .checked_next_multiple_of(8)?
        .checked_add(HEADER_BYTES as u64)?;
    let end = documents
        .checked_add(1)?
        .checked_mul(8)?
        .checked_add(offsets_at)?
        .checked_add(FOOTER_BYTES as u64)?;
    (end == length as u64).then_some(offsets_at as usize)
}

fn expect_magic(field: &str, got: &[u8], expected: &[u8]) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    Err(format!("{field}: expected {}, got {}", expected.escape_ascii(), got.escape_ascii()))
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const EOT: u32 = 0;

    /// A shard of the given documents (ids without the special token), in a folder of its own.
    pub(crate) fn shard(documents: &[Vec<u32>], vocab_size: usize) -> (tempfile::TempDir, Shard) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tokens");
        std::fs::write(&path, bytes(documents, vocab_size)).unwrap();
        let shard = Shard::open(&path).unwrap();
        (dir, shard)
    }

    fn bytes(documents: &[Vec<u32>], vocab_size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = ShardWriter::new(&mut out, vocab_size, EOT).unwrap();
        for ids in documents {
            writer.open_document().unwrap();
            writer.extend(ids, ids.len()).unwrap();
        }
        writer.finish().unwrap();
        out
    }

    fn opened(bytes: &[u8]) -> Result<Shard, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tokens");
        std::fs::write(&path, bytes).unwrap();
        Shard::open(&path)
    }

    #[test]
    fn reads_what_was_written_in_both_widths() {
        for vocab_size in [300, 1 << 16, (1 << 16) + 1] {
            let top = vocab_size as u32 - 1;
            let (_dir, shard) = shard(&[vec![5, top], vec![], vec![7]], vocab_size);
            let mut tokens = vec![9; shard.tokens() as usize];
            shard.read(0, &mut tokens);
            assert_eq!(tokens, [EOT, 5, top, EOT, EOT, 7, EOT]);
            assert_eq!((shard.documents(), shard.source_bytes()), (3, 3));
            let owners: Vec<_> = (0..7).map(|at| shard.document_at(at)).collect();
            assert_eq!(owners, [0, 0, 0, 1, 2, 2, 3]);
        }
    }

    #[test]
    fn every_cut_is_found() {
        let whole = bytes(&[vec![5, 6, 7], vec![8]], 300);
        for length in 0..whole.len() {
            let error = opened(&whole[..length]).unwrap_err();
            assert!(matches!(error, Error::Shard { .. } | Error::Read { .. }), "{length}: {error}");
        }
        assert!(opened(&[whole.as_slice(), b"more"].concat()).is_err());
    }

    #[test]
    fn foreign_files_name_the_field() {
        let mut other = bytes(&[vec![5, 6, 7]], 300);
        other[..8].copy_from_slice(b"NUMPYARR");
        let message = opened(&other).unwrap_err().to_string();
        assert!(message.contains("magic: expected SMDGTOK1, got NUMPYARR"), "{message}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_shard_or_an_error(random in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(opened(&random).is_err());
        }

        #[test]
        fn a_flipped_bit_never_panics(at in 0_usize..1000, bit in 0_u8..8) {
            let mut damaged = bytes(&[vec![5, 6, 7], vec![8]], 300);
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            if let Ok(shard) = opened(&damaged) {
                let mut tokens = vec![0; shard.tokens() as usize];
                shard.read(0, &mut tokens);
                for position in 0..shard.tokens() {
                    shard.document_at(position);
                }
            }
        }
    }
}
