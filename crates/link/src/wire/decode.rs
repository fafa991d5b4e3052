//! A container back to codes and values, strictly: block by block as it arrives, or all at once.
//!
//! The order is that of [`Header`], then for each block its padding, its checksums, its lists of
//! tokens, its scales, its codes. What a [`Block`] gives out has passed all of it, so decoding cannot
//! fail any more. Memory is the caller's, but for compressed sections and lists of tokens, which
//! together stay below eight times the input and a megabyte. Checksums and codes that are not
//! compressed are checked in one pass over memory; what is found of codes is told in its turn.
//!
//! [`Block::dense`] is no part of that bound: two bits become 32. What it makes is on the ledger, to
//! the byte, before it is made.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use smidgen_tensor::Device;

use super::checksum::joined;
use super::codes::Codes;
use super::compress;
use super::error::{Fault, WireError};
use super::header::{Header, Limits};
use super::index::{Encoding, Index, IndexFault, disjoint};
use super::scale::Side;
use super::section::{Entry, Kind};

/// Bytes of a task: small enough for the second cache.
const CHUNK_BYTES: usize = 1 << 16;

/// How strictly to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What is accepted at most.
    pub limits: Limits,
    /// Codes that have a value though no encoder makes them, such as -8 of `int4`, are accepted.
    pub lenient: bool,
}

/// Reads the blocks of a container in order, each as soon as its bytes are there.
#[derive(Debug)]
pub struct Reader {
    header: Header,
    lenient: bool,
    layers: Vec<u16>,
    /// The lists that all blocks share, once the first block has been read.
    shared: Vec<Arc<Index>>,
    next: usize,
    note: Option<String>,
}

/// A block of layers, read and checked.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    /// Which block.
    pub number: usize,
    /// The source layers in it.
    pub layers: Vec<u16>,
    /// Its groups of tokens; those of which nothing travels here are left out.
    pub parts: Vec<BlockPart<'a>>,
}

/// A group of tokens in a block of layers.
#[derive(Clone, Debug)]
pub struct BlockPart<'a> {
    /// Which group.
    pub group: usize,
    /// Its tokens.
    pub index: Arc<Index>,
    /// Its keys, if they travel.
    pub keys: Option<Codes<'a>>,
    /// Its values, if they travel.
    pub values: Option<Codes<'a>>,
}

impl<'a> BlockPart<'a> {
    /// Keys or values.
    pub fn side(&self, side: Side) -> Option<&Codes<'a>> {
        if side == Side::Keys { self.keys.as_ref() } else { self.values.as_ref() }
    }
}

/// The bytes of a block, which begin at `start` of the container.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    start: u64,
    bytes: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn stored(&self, entry: &Entry) -> &'a [u8] {
        &self.bytes[(entry.offset - self.start) as usize..][..entry.stored_bytes as usize]
    }

    fn raw(&self, entry: &Entry) -> Result<Cow<'a, [u8]>, WireError> {
        let stored = self.stored(entry);
        if !entry.compressed {
            return Ok(Cow::Borrowed(stored));
        }
        compress::expand(entry, stored).map(Cow::Owned)
    }
}

/// Keys or values of a group, not checked, and the places of their payload, scales and zero points
/// among the sections of the block.
type Unchecked<'a> = (Codes<'a>, [Option<usize>; 3]);

impl Reader {
    /// A reader behind a header that has been parsed.
    pub fn new(header: Header, options: &Options) -> Reader {
        let (lenient, layers, shared) = (options.lenient, Vec::new(), Vec::new());
        Reader { header, lenient, layers, shared, next: 0, note: None }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The source layers that travel; known when the first block has been read.
    pub fn layers(&self) -> &[u16] {
        &self.layers
    }

    /// The note for people; known when the last block has been read.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The block that comes next, and where in the container its bytes are; `None` after the last.
    pub fn next_block(&self) -> Option<(usize, Range<u64>)> {
        (self.next < self.header.blocks()).then(|| (self.next, self.header.block_bytes(self.next)))
    }

    /// Reads the block that is next from its bytes.
    ///
    /// # Errors
    /// Whatever is wrong first; the reader is then of no further use.
    pub fn block<'a>(
        &mut self,
        device: &Device,
        number: usize,
        bytes: &'a [u8],
    ) -> Result<Block<'a>, WireError> {
        let order = |expected: usize| {
            let (expected, got) = (expected as u64, number as u64);
            WireError::new(0, Fault::Order { expected, got })
        };
        if number != self.next || number >= self.header.blocks() {
            return Err(order(self.next));
        }
        let range = self.header.block_bytes(number);
        let (expected, got) = (range.end - range.start, bytes.len() as u64);
        if got < expected {
            return Err(WireError::new(range.start + got, Fault::Truncated { expected, got }));
        }
        if got > expected {
            return Err(WireError::new(range.end, Fault::Trailing { expected, got }));
        }
        // Whatever goes wrong, there is no going on behind it.
        self.next = usize::MAX;
        let bytes = Bytes { start: range.start, bytes };
        let block = self.checked(device, number, bytes)?;
        self.next = number + 1;
        Ok(block)
    }

    fn checked<'a>(
        &mut self,
        device: &Device,
        number: usize,
        bytes: Bytes<'a>,
    ) -> Result<Block<'a>, WireError> {
        let entries: Vec<Entry> = self.header.entries[self.header.block_sections(number)].to_vec();
        check_padding(&entries, bytes)?;
        let stored = self.stored_codes(number, &entries, bytes)?;
        let faults = check_sums(device, &entries, bytes, &stored, self.lenient)?;
        self.read_alone(number, &entries, bytes)?;
        let indices = self.indices(number, &entries, bytes)?;
        let mut parts = Vec::new();
        for (group, index) in indices.into_iter().enumerate() {
            if self.header.outline.part(number, group).is_empty() {
                continue;
            }
            let side = |side| self.codes(device, number, group, side, &entries, bytes, &faults);
            let (keys, values) = (side(Side::Keys)?, side(Side::Values)?);
            parts.push(BlockPart { group, index, keys, values });
        }
        let first = number * self.header.layers_per_block();
        let layers = &self.layers[first..first + self.header.outline.block_layers(number)];
        Ok(Block { number, layers: layers.to_vec(), parts })
    }

    /// The sections that belong to no block: layers in front of the first, a note behind the last.
    fn read_alone(
        &mut self,
        number: usize,
        entries: &[Entry],
        bytes: Bytes<'_>,
    ) -> Result<(), WireError> {
        let find = |kind| entries.iter().find(|entry| entry.kind == kind);
        let of_layers = self.header.outline.of_layers as u16;
        if let Some(entry) = find(Kind::Layers) {
            let raw = bytes.raw(entry)?;
            self.layers = raw.as_chunks().0.iter().map(|two| u16::from_le_bytes(*two)).collect();
            let increase = self.layers.is_sorted_by(|a, b| a < b);
            if !increase || self.layers.last().is_some_and(|last| *last >= of_layers) {
                return Err(WireError::new(entry.offset, Fault::Layers(of_layers)));
            }
        } else if number == 0 {
            self.layers = (0..of_layers).collect();
        }
        if let Some(entry) = find(Kind::Meta) {
            let text = String::from_utf8(bytes.raw(entry)?.into_owned());
            self.note = Some(text.map_err(|_| WireError::new(entry.offset, Fault::Note))?);
        }
        Ok(())
    }

    /// The list of each group.
    fn indices(
        &mut self,
        number: usize,
        entries: &[Entry],
        bytes: Bytes<'_>,
    ) -> Result<Vec<Arc<Index>>, WireError> {
        let outline = &self.header.outline;
        if number > 0 && !outline.index_per_block {
            return Ok(self.shared.clone());
        }
        let mut lists = Vec::with_capacity(outline.groups);
        for group in 0..outline.groups {
            let listed =
                |entry: &&Entry| entry.kind == Kind::Index && entry.group == Some(group as u16);
            let Some(entry) = entries.iter().find(listed) else {
                lists.push(Arc::new(Index::all(self.header.seq_len)));
                continue;
            };
            let raw = bytes.raw(entry)?;
            let encoding = Encoding::by_number(entry.code).expect("the table has been checked");
            let tokens = outline.part(number, group).tokens as usize;
            let index = Index::read(encoding, raw, tokens, self.header.seq_len);
            let index = index.map_err(|(at, fault)| {
                WireError::new(entry.offset + at as u64, Fault::Index(fault))
            })?;
            lists.push(Arc::new(index));
        }
        let there = |(group, _): &(usize, &Arc<Index>)| {
            !outline.index_per_block || !outline.part(number, *group).is_empty()
        };
        let there = lists.iter().enumerate().filter(there).map(|(_, list)| list.as_ref());
        if lists.len() > 1 && !disjoint(there) {
            return Err(WireError::new(bytes.start, Fault::Index(IndexFault::Overlap)));
        }
        if !outline.index_per_block {
            self.shared.clone_from(&lists);
        }
        Ok(lists)
    }

    /// Keys or values of a group.
    fn unchecked<'a>(
        &self,
        number: usize,
        group: usize,
        side: Side,
        entries: &[Entry],
        bytes: Bytes<'a>,
    ) -> Result<Option<Unchecked<'a>>, WireError> {
        let outline = &self.header.outline;
        let Some(precision) = outline.part(number, group).precision[side as usize] else {
            return Ok(None);
        };
        let kinds = [Kind::payload(side), Kind::scale(side), Kind::zero(side)];
        let places = kinds.map(|kind| {
            let listed = |e: &Entry| e.group == Some(group as u16) && e.kind == kind;
            entries.iter().position(listed)
        });
        let raw =
            |place: Option<usize>| place.map_or(Ok(Cow::default()), |p| bytes.raw(&entries[p]));
        let codes = Codes {
            grid: outline.grid(number, group, side),
            granularity: outline.granularity.of(side),
            scale: outline.scale,
            precision,
            element: precision.element(outline.asymmetric),
            codes: raw(places[0])?,
            scales: raw(places[1])?,
            zeros: raw(places[2])?,
        };
        Ok(Some((codes, places)))
    }

    /// For each section the codes in it, where nothing about them is compressed.
    fn stored_codes<'a>(
        &self,
        number: usize,
        entries: &[Entry],
        bytes: Bytes<'a>,
    ) -> Result<Vec<Option<Codes<'a>>>, WireError> {
        let mut stored = vec![None; entries.len()];
        if entries.iter().any(|entry| entry.compressed) {
            return Ok(stored);
        }
        for group in 0..self.header.outline.groups {
            for side in Side::BOTH {
                let codes = self.unchecked(number, group, side, entries, bytes)?;
                if let Some((codes, [Some(payload), ..])) = codes {
                    stored[payload] = Some(codes);
                }
            }
        }
        Ok(stored)
    }

    /// Keys or values of a group, checked; `faults` are those of codes that have been looked at.
    #[allow(clippy::too_many_arguments)]
    fn codes<'a>(
        &self,
        device: &Device,
        number: usize,
        group: usize,
        side: Side,
        entries: &[Entry],
        bytes: Bytes<'a>,
        faults: &[Checked],
    ) -> Result<Option<Codes<'a>>, WireError> {
        let found = self.unchecked(number, group, side, entries, bytes)?;
        let Some((codes, [payload, scale, zero])) = found else { return Ok(None) };
        codes.check_scales(self.lenient).map_err(|(of_zero, at, fault)| {
            let place = if of_zero { zero } else { scale };
            let start = place.map_or(0, |place| entries[place].offset);
            WireError::new(start + at as u64, fault)
        })?;
        let payload = payload.expect("the table has been checked");
        let check = match &faults[payload] {
            Some(check) => check.clone(),
            None => check_codes(device, &codes, self.lenient),
        };
        check.map_err(|(at, fault)| {
            // Of a compressed section there is no such byte.
            let at = if entries[payload].compressed { 0 } else { at as u64 };
            WireError::new(entries[payload].offset + at, fault)
        })?;
        Ok(Some(codes))
    }
}

impl Header {
    /// The sections of a block, with those in front of the first and behind the last.
    fn block_sections(&self, number: usize) -> Range<usize> {
        let position = |block: usize| (block * self.layers_per_block()) as u16;
        // Sections that say no position stand in the first block, or behind all.
        let starts = |block: usize| {
            let of_block = |entry: &Entry| entry.position == Some(position(block));
            self.entries.iter().position(of_block).unwrap_or(self.entries.len())
        };
        let start = if number == 0 { 0 } else { starts(number) };
        let last = number + 1 == self.blocks();
        start..if last { self.entries.len() } else { starts(number + 1) }
    }

    /// Where in the container the bytes of a block are: from the end of what is before it.
    pub fn block_bytes(&self, number: usize) -> Range<u64> {
        let sections = self.block_sections(number);
        let start = match sections.start {
            0 => self.header_bytes() as u64,
            first => self.entries[first - 1].end(),
        };
        start..self.entries[sections.end - 1].end()
    }
}

fn check_padding(entries: &[Entry], bytes: Bytes<'_>) -> Result<(), WireError> {
    let mut end = bytes.start;
    for entry in entries {
        let between =
            &bytes.bytes[(end - bytes.start) as usize..(entry.offset - bytes.start) as usize];
        if let Some(at) = between.iter().position(|byte| *byte != 0) {
            return Err(WireError::new(end + at as u64, Fault::Padding));
        }
        end = entry.end();
    }
    Ok(())
}

/// Whether the codes of a section may be, and where the first is that may not; none before they have
/// been looked at.
type Checked = Option<Result<(), (usize, Fault)>>;

/// A part of a section, from this row on where it holds codes, and what was found in it.
struct Part<'a> {
    section: usize,
    first_row: usize,
    bytes: &'a [u8],
    found: Mutex<(u32, Checked)>,
}

/// Compares the checksums of all sections, and looks at the codes of some while they are in the cache;
/// large sections in parts over all threads.
fn check_sums(
    device: &Device,
    entries: &[Entry],
    bytes: Bytes<'_>,
    stored: &[Option<Codes<'_>>],
    lenient: bool,
) -> Result<Vec<Checked>, WireError> {
    let parts = |(section, entry): (usize, &Entry)| {
        let row_bytes = stored[section].as_ref().map_or(1, Codes::row_bytes);
        let rows = (CHUNK_BYTES / row_bytes).max(1);
        let chunks = bytes.stored(entry).chunks(rows * row_bytes).enumerate();
        let part = move |(at, bytes)| Part {
            section,
            first_row: at * rows,
            bytes,
            found: Mutex::default(),
        };
        chunks.map(part).collect::<Vec<_>>()
    };
    let parts: Vec<Part<'_>> = entries.iter().enumerate().flat_map(parts).collect();
    device.team().run(parts.len(), |task| {
        let Part { section, first_row, bytes, found } = &parts[task];
        let sum = crc32c::crc32c(bytes);
        let checked = stored[*section].as_ref().map(|codes| {
            let rows = *first_row..first_row + bytes.len() / codes.row_bytes();
            codes.check_rows(device.level(), rows, lenient)
        });
        *found.lock().expect("each part has one task") = (sum, checked);
    });
    let (mut sums, mut faults) = (vec![0; entries.len()], vec![None; entries.len()]);
    for Part { section, bytes, found, .. } in parts {
        let (sum, checked) = found.into_inner().expect("no task panicked");
        sums[section] = joined(sums[section], sum, bytes.len());
        // The first fault of a section counts.
        if !matches!(faults[section], Some(Err(_))) {
            faults[section] = checked;
        }
    }
    for (entry, got) in entries.iter().zip(sums) {
        if entry.crc != got {
            let (what, expected) = (entry.kind.name(), entry.crc);
            return Err(WireError::new(entry.offset, Fault::Checksum { what, expected, got }));
        }
    }
    Ok(faults)
}

/// Checks the codes of a payload over all threads; the first fault counts.
fn check_codes(device: &Device, codes: &Codes<'_>, lenient: bool) -> Result<(), (usize, Fault)> {
    let rows = codes.grid.rows();
    let step = (CHUNK_BYTES / codes.precision.row_bytes(codes.grid.dim)).max(1);
    let tasks = rows.div_ceil(step);
    let first = Mutex::new(None);
    device.team().run(tasks, |task| {
        let rows = task * step..rows.min((task + 1) * step);
        if let Err((at, fault)) = codes.check_rows(device.level(), rows, lenient) {
            let mut first = first.lock().expect("no task panicked");
            if first.as_ref().is_none_or(|(other, _)| at < *other) {
                *first = Some((at, fault));
            }
        }
    });
    first.into_inner().expect("no task panicked").map_or(Ok(()), Err)
}

/// A whole container, read and checked.
#[derive(Debug)]
pub struct Container<'a> {
    /// Its header.
    pub header: Header,
    /// The source layers that travel.
    pub layers: Vec<u16>,
    /// Its blocks.
    pub blocks: Vec<Block<'a>>,
    /// A text for people.
    pub note: Option<String>,
}

/// Reads and checks a whole container.
///
/// # Errors
/// Whatever is wrong first, in the order of this module and of [`Header`].
pub fn open<'a>(
    device: &Device,
    bytes: &'a [u8],
    options: &Options,
) -> Result<Container<'a>, WireError> {
    let header = Header::parse(bytes, &options.limits)?;
    let (expected, got) = (header.total_bytes, bytes.len() as u64);
    if got < expected {
        return Err(WireError::new(got, Fault::Truncated { expected, got }));
    }
    if got > expected {
        return Err(WireError::new(expected, Fault::Trailing { expected, got }));
    }
    let mut reader = Reader::new(header, options);
    let mut blocks = Vec::with_capacity(reader.header.blocks());
    while let Some((number, range)) = reader.next_block() {
        let bytes = &bytes[range.start as usize..range.end as usize];
        blocks.push(reader.block(device, number, bytes)?);
    }
    let Reader { header, layers, note, .. } = reader;
    Ok(Container { header, layers, blocks, note })
}
