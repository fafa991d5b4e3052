//! The header of a container: prefix, descriptor, section table, checksum.
//!
//! ```text
//! prefix  0  8  magic 89 "KVW" 0D 0A 1A 0A      8  2  major = 1        10  2  minor
//!        12  4  header bytes, 112 + 32 sections + 8                    16  8  bytes of the container
//!        24  4  flags: bit 0 align8, 1 index per block, 2 asymmetric, 3 upgrade; 16-31 advisory
//!        28  2  sections                       30  2  descriptor bytes = 64
//!        32 16  message
//! descr   0  8  sharer       8  8  tokenizer   16  8  prompt: the first bytes of SHA-256, or zeros
//!        24  4  T           28  4  tokens sent (of the block with the most)
//!        32  2  layers sent 34  2  of layers   36  2  batch            38  2  kv heads
//!        40  2  E of keys   42  2  E of values 44  1  token space      45  1  key space
//!        46  1  scale type  47  1  granularity 48  2  its size         50  1  groups    51  1  round
//!        52  4  rope theta  56  4  cap, ffffffff for none              60  4  layers per block
//! tail    0  4  CRC32C of all before            4  4  zero
//! ```
//!
//! Minor version 0 has keys and values of every group in every block. Version 1, written only then,
//! says that some do not travel: their sections are not there. A reader of version 0 finds a section
//! missing and refuses.
//!
//! Reading is strict and in this order: prefix, bounds of the header, its checksum, sizes, section
//! table against the sizes. Nothing is believed before its checksum, and no claim larger than the
//! bytes that back it costs memory.

use super::error::{Fault, WireError};
use super::outline::{
    DESCRIPTOR_BYTES, FIXED_BYTES, Outline, PREFIX_BYTES, TAIL_BYTES, header_bytes,
};
use super::plan::{About, KeySpace, TokenSpace};
use super::scale::{Granularity, ScaleType};
use super::section::{ENTRY_BYTES, Entry};
use super::table;
use crate::KvShape;

pub(super) const MAGIC: [u8; 8] = *b"\x89KVW\r\n\x1a\n";
const ALIGN8: u32 = 1;
const INDEX_PER_BLOCK: u32 = 2;
const ASYMMETRIC: u32 = 4;
const UPGRADE: u32 = 8;
const RESERVED: u32 = 0xfff0;
/// The most bytes of a header, and of sections in it.
const MOST_HEADER_BYTES: u64 = 256 << 10;
pub(super) const MOST_SECTIONS: usize = 4096;

/// What a reader accepts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a container.
    pub bytes: u64,
    /// T.
    pub seq_len: u32,
    /// Layers of the sharer.
    pub layers: u16,
    /// Sequences.
    pub batch: u16,
    /// Heads.
    pub kv_heads: u16,
    /// Elements of a head.
    pub head_dim: u16,
    /// Groups of tokens.
    pub groups: u8,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bytes: 1 << 30,
            seq_len: 1 << 24,
            layers: 1024,
            batch: 1024,
            kv_heads: 1024,
            head_dim: 4096,
            groups: 16,
        }
    }
}

/// The header of a container, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// 0, or 1 where some keys or values do not travel.
    pub minor: u16,
    /// Bytes of the whole container.
    pub total_bytes: u64,
    /// Whether it adds to one before.
    pub upgrade: bool,
    /// Fields for the reader to compare.
    pub about: About,
    /// T.
    pub seq_len: u32,
    /// Tokens sent; of the block with the most.
    pub selected: u32,
    pub(super) descriptor_bytes: u16,
    pub(super) outline: Outline,
    pub(super) entries: Vec<Entry>,
}

/// Bytes of a header that are taken one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    /// The next bytes; the caller has seen that they are there.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = self.bytes[self.at..].first_chunk().expect("the length has been checked");
        self.at += N;
        *field
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// An error of the field that was taken last, of `width` bytes.
    fn fail<T>(&self, width: usize, fault: Fault) -> Result<T, WireError> {
        Err(WireError::new((self.at - width) as u64, fault))
    }

    /// The last field, if it lies between two numbers.
    fn within(
        &self,
        field: &'static str,
        width: usize,
        got: impl Into<u64>,
        least: u64,
        most: impl Into<u64>,
    ) -> Result<usize, WireError> {
        let (got, most) = (got.into(), most.into());
        if (least..=most).contains(&got) {
            return Ok(got as usize);
        }
        self.fail(width, Fault::Range { field, least, most, got })
    }

    /// The last field, if it is this number.
    fn equal(
        &self,
        field: &'static str,
        width: usize,
        got: impl Into<u64>,
        expected: u64,
    ) -> Result<(), WireError> {
        match got.into() {
            got if got == expected => Ok(()),
            got => self.fail(width, Fault::Number { field, expected, got }),
        }
    }

    /// The last byte as one of a list.
    fn known<T: Copy>(&self, field: &'static str, got: u8, all: &[T]) -> Result<T, WireError> {
        let unknown = Fault::Unknown { field, got: got.into() };
        all.get(usize::from(got)).copied().map_or_else(|| self.fail(1, unknown), Ok)
    }
}

/// The fields of the prefix that say how to read the rest.
struct Prefix {
    minor: u16,
    header_bytes: usize,
    total_bytes: u64,
    flags: u32,
    sections: usize,
    descriptor_bytes: u16,
    message: [u8; 16],
}

impl Prefix {
    fn read(bytes: &[u8]) -> Result<Prefix, WireError> {
        if bytes.len() < PREFIX_BYTES {
            let (expected, got) = (PREFIX_BYTES as u64, bytes.len() as u64);
            return Err(WireError::new(got, Fault::Truncated { expected, got }));
        }
        let mut fields = Fields { bytes, at: 0 };
        if fields.take() != MAGIC {
            return fields.fail(8, Fault::Magic);
        }
        let major = fields.u16();
        if major != 1 {
            return fields.fail(2, Fault::Version(major));
        }
        let minor = fields.u16();
        let header_len = u64::from(fields.u32());
        let total_bytes = fields.u64();
        let flags = fields.u32();
        fields.equal("reserved flags", 4, flags & RESERVED, 0)?;
        let sections = fields.u16();
        let sections = fields.within("sections", 2, sections, 1, MOST_SECTIONS as u64)?;
        let descriptor_bytes = fields.u16();
        // A later version may say more behind the fields of this one.
        let most = if minor > 0 { u16::MAX } else { DESCRIPTOR_BYTES as u16 };
        let least = DESCRIPTOR_BYTES as u64;
        fields.within("descriptor bytes", 2, descriptor_bytes, least, most)?;
        let message = fields.take();
        let header_bytes =
            header_bytes(sections) - DESCRIPTOR_BYTES + usize::from(descriptor_bytes);
        let header_field = Fields { bytes, at: 16 };
        header_field.equal("header bytes", 4, header_len, header_bytes as u64)?;
        let most = total_bytes.min(MOST_HEADER_BYTES);
        header_field.within("header bytes", 4, header_len, 0, most)?;
        if header_bytes > bytes.len() {
            let (expected, got) = (header_bytes as u64, bytes.len() as u64);
            return Err(WireError::new(got, Fault::Truncated { expected, got }));
        }
        Ok(Prefix { minor, header_bytes, total_bytes, flags, sections, descriptor_bytes, message })
    }

    fn check_sum(&self, bytes: &[u8]) -> Result<(), WireError> {
        let at = self.header_bytes - TAIL_BYTES;
        let mut tail = Fields { bytes, at };
        let (expected, got) = (tail.u32(), crc32c::crc32c(&bytes[..at]));
        if expected != got {
            return tail.fail(4, Fault::Checksum { what: "header", expected, got });
        }
        let rest = tail.u32();
        tail.equal("reserved", 4, rest, 0)
    }
}

impl Header {
    /// Reads the header at the start of `bytes`, which may end behind it.
    ///
    /// # Errors
    /// Whatever is wrong first; see the order above.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Header, WireError> {
        let prefix = Prefix::read(bytes)?;
        prefix.check_sum(bytes)?;
        let total = Fields { bytes, at: 24 };
        total.within("container bytes", 8, prefix.total_bytes, 0, limits.bytes)?;
        let mut header = Header::read_descriptor(&prefix, bytes, limits)?;
        let at = PREFIX_BYTES + usize::from(prefix.descriptor_bytes);
        let table = bytes[at..][..ENTRY_BYTES * prefix.sections].as_chunks().0;
        let places = (at as u64..).step_by(ENTRY_BYTES);
        let entries = table.iter().zip(places).map(|(entry, at)| Entry::read(entry, at));
        header.entries = entries.collect::<Result<_, _>>()?;
        table::check(&mut header, at as u64)?;
        Ok(header)
    }

    /// Reads the flags and the descriptor of bytes without sections behind them, which a schema has.
    /// There have to be 112 of them.
    pub(super) fn parse_alone(bytes: &[u8], limits: &Limits) -> Result<Header, WireError> {
        let mut fields = Fields { bytes, at: 24 };
        let prefix = Prefix {
            minor: 0,
            header_bytes: 0,
            total_bytes: 0,
            flags: fields.u32(),
            sections: 0,
            descriptor_bytes: DESCRIPTOR_BYTES as u16,
            message: [0; 16],
        };
        Header::read_descriptor(&prefix, bytes, limits)
    }

    /// How many bytes the header has that begins with these, as soon as it says so.
    ///
    /// # Errors
    /// As for [`Header::parse`], as far as the first 48 bytes tell.
    pub fn bytes_needed(first: &[u8; PREFIX_BYTES]) -> Result<usize, WireError> {
        match Prefix::read(first) {
            Ok(prefix) => Ok(prefix.header_bytes),
            Err(WireError { fault: Fault::Truncated { expected, .. }, .. }) => {
                Ok(expected as usize)
            }
            Err(error) => Err(error),
        }
    }

    fn read_descriptor(
        prefix: &Prefix,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Header, WireError> {
        let mut fields = Fields { bytes, at: PREFIX_BYTES };
        let mut about = About {
            message: prefix.message,
            sharer: fields.take(),
            tokenizer: fields.take(),
            prompt: fields.take(),
            advisory: (prefix.flags >> 16) as u16,
            ..About::default()
        };
        let seq_len = fields.u32();
        fields.within("tokens of the sequence", 4, seq_len, 1, limits.seq_len)?;
        let selected = fields.u32();
        fields.within("tokens sent", 4, selected, 1, seq_len)?;
        let (layers, of_layers) = (fields.u16(), fields.u16());
        let of_layers = fields.within("layers of the sharer", 2, of_layers, 1, limits.layers)?;
        let layers = Fields { bytes, at: fields.at - 2 }.within(
            "layers sent",
            2,
            layers,
            1,
            of_layers as u64,
        )?;
        let batch = fields.u16();
        let batch = fields.within("batch", 2, batch, 1, limits.batch)?;
        let heads = fields.u16();
        let heads = fields.within("kv heads", 2, heads, 1, limits.kv_heads)?;
        let mut dim = |field| {
            let dim = fields.u16();
            fields.within(field, 2, dim, 1, limits.head_dim)
        };
        let dims = [dim("elements of a key")?, dim("elements of a value")?];
        let space = fields.u8();
        about.tokens =
            fields.known("token space", space, &[TokenSpace::Receiver, TokenSpace::Sharer])?;
        let space = fields.u8();
        about.keys = fields.known("key space", space, &KeySpace::ALL)?;
        let scale = fields.u8();
        let scale = fields.known("scale type", scale, &ScaleType::ALL)?;
        let (number, size) = (fields.u8(), fields.u16());
        let Some(granularity) = Granularity::by_number(number, size) else {
            let got = u64::from(number) | u64::from(size) << 8;
            return fields.fail(3, Fault::Unknown { field: "granularity", got });
        };
        let groups = fields.u8();
        let groups = fields.within("groups", 1, groups, 1, limits.groups)?;
        about.round = fields.u8();
        fields.within("round", 1, about.round, 0, 1u8)?;
        about.rope_theta = f32::from_bits(fields.u32());
        if !(about.rope_theta.is_finite() && about.rope_theta >= 0.0) {
            return fields.fail(4, Fault::Theta);
        }
        let cap = fields.u32();
        about.cap = (cap != u32::MAX).then_some(cap);
        let layers_per_block = fields.u32();
        let layers_per_block =
            fields.within("layers per block", 4, layers_per_block, 1, layers as u64)?;
        let outline = Outline {
            align8: prefix.flags & ALIGN8 != 0,
            index_per_block: prefix.flags & INDEX_PER_BLOCK != 0,
            asymmetric: prefix.flags & ASYMMETRIC != 0,
            layers,
            of_layers,
            batch,
            heads,
            dims,
            layers_per_block,
            granularity,
            scale,
            groups,
            parts: Vec::new(),
            note_bytes: None,
        };
        Ok(Header {
            minor: prefix.minor,
            total_bytes: prefix.total_bytes,
            upgrade: prefix.flags & UPGRADE != 0,
            about,
            seq_len,
            selected,
            descriptor_bytes: prefix.descriptor_bytes,
            outline,
            entries: Vec::new(),
        })
    }

    /// Appends the header; the descriptor is that of this version.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (outline, about) = (&self.outline, &self.about);
        let start = out.len();
        let flags = [
            (outline.align8, ALIGN8),
            (outline.index_per_block, INDEX_PER_BLOCK),
            (outline.asymmetric, ASYMMETRIC),
            (self.upgrade, UPGRADE),
        ];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum::<u32>();
        out.extend(MAGIC);
        out.extend([1u16.to_le_bytes(), self.minor.to_le_bytes()].concat());
        out.extend((self.header_bytes() as u32).to_le_bytes());
        out.extend(self.total_bytes.to_le_bytes());
        out.extend((flags | u32::from(about.advisory) << 16).to_le_bytes());
        out.extend((self.entries.len() as u16).to_le_bytes());
        out.extend((DESCRIPTOR_BYTES as u16).to_le_bytes());
        out.extend(about.message);
        for fingerprint in [about.sharer, about.tokenizer, about.prompt] {
            out.extend(fingerprint);
        }
        out.extend(self.seq_len.to_le_bytes());
        out.extend(self.selected.to_le_bytes());
        let [key_dim, value_dim] = outline.dims;
        for size in
            [outline.layers, outline.of_layers, outline.batch, outline.heads, key_dim, value_dim]
        {
            out.extend((size as u16).to_le_bytes());
        }
        out.extend([about.tokens as u8, about.keys as u8]);
        out.extend([outline.scale as u8, outline.granularity.number()]);
        out.extend(outline.granularity.size().to_le_bytes());
        out.extend([outline.groups as u8, about.round]);
        out.extend(about.rope_theta.to_le_bytes());
        out.extend(about.cap.unwrap_or(u32::MAX).to_le_bytes());
        out.extend((outline.layers_per_block as u32).to_le_bytes());
        self.entries.iter().for_each(|entry| entry.write(out));
        let sum = crc32c::crc32c(&out[start..]);
        out.extend(sum.to_le_bytes());
        out.extend([0; 4]);
    }

    /// Bytes of the header.
    pub fn header_bytes(&self) -> usize {
        let further = usize::from(self.descriptor_bytes) - DESCRIPTOR_BYTES;
        header_bytes(self.entries.len()) + further
    }

    /// The sections, in order.
    pub fn sections(&self) -> &[Entry] {
        &self.entries
    }

    /// L of the sharer, K and E.
    pub fn shape(&self) -> KvShape {
        let [key_dim, value_dim] = self.outline.dims;
        let (layers, kv_heads) = (self.outline.of_layers, self.outline.heads);
        KvShape { layers, kv_heads, key_dim, value_dim }
    }

    /// Layers that travel.
    pub fn layers(&self) -> usize {
        self.outline.layers
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.outline.batch
    }

    /// Groups of tokens.
    pub fn groups(&self) -> usize {
        self.outline.groups
    }

    /// Who shares a scale.
    pub fn granularity(&self) -> Granularity {
        self.outline.granularity
    }

    /// The type of scales.
    pub fn scale_type(&self) -> ScaleType {
        self.outline.scale
    }

    /// Whether integers have zero points.
    pub fn asymmetric(&self) -> bool {
        self.outline.asymmetric
    }

    /// Whether sections begin at multiples of 8.
    pub fn align8(&self) -> bool {
        self.outline.align8
    }

    /// Whether each block has lists of tokens of its own.
    pub fn index_per_block(&self) -> bool {
        self.outline.index_per_block
    }

    /// Layers of a block.
    pub fn layers_per_block(&self) -> usize {
        self.outline.layers_per_block
    }

    /// Blocks of layers, each of which can be used when it has arrived.
    pub fn blocks(&self) -> usize {
        self.outline.blocks()
    }
}

const _: () = assert!(FIXED_BYTES == 112);
