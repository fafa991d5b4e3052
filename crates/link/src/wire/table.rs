//! The section table against the sizes of the descriptor: what has to be there, where, how long.
//!
//! The entries say which precision each payload has and how many bytes; from that follow the tokens
//! of each group, and from these the whole list of sections, which then has to be the one that stands
//! there. So all sizes are known, and backed by bytes, before any of them is used.

use super::error::{Fault, WireError};
use super::header::Header;
use super::index::Encoding;
use super::outline::{Outline, Part, Planned};
use super::precision::Precision;
use super::scale::Side;
use super::section::{ENTRY_BYTES, Entry, Kind};

/// A zstd section may become at most so many times its bytes, and as much more.
const MOST_RATIO: u64 = 64;
const RATIO_SLACK: u64 = 1024;
/// All zstd sections of a container together: so many times its bytes, and as much more. Less than
/// eight times the input and a megabyte, which is what a reader may ask for at all.
const MOST_EXPANSION: u64 = 7;
const EXPANSION_SLACK: u64 = 512 << 10;

/// Checks the entries of `header`, which begin at byte `at`, and fills in its outline.
pub(super) fn check(header: &mut Header, at: u64) -> Result<(), WireError> {
    let place = |number: usize| at + (ENTRY_BYTES * number) as u64;
    let Header { outline, entries, .. } = header;
    // Each block has a payload, so there are not more blocks than sections.
    if outline.blocks() > entries.len() {
        let (least, got) = (outline.blocks() as u64, entries.len() as u64);
        let fault = Fault::Range { field: "sections", least, most: u16::MAX.into(), got };
        return Err(WireError::new(28, fault));
    }
    outline.parts = vec![Part::default(); outline.blocks() * outline.groups];
    for (number, entry) in entries.iter().enumerate() {
        note(outline, entry)
            .map_err(|(byte, fault)| WireError::new(place(number) + byte, fault))?;
    }
    share_tokens(outline);
    check_parts(header, at)?;
    compare(header, place)?;
    check_places(header, place)
}

/// Takes from an entry what it says of its part. An error is at a byte of the entry.
fn note(outline: &mut Outline, entry: &Entry) -> Result<(), (u64, Fault)> {
    let side = match entry.kind {
        Kind::PayloadK => Side::Keys,
        Kind::PayloadV => Side::Values,
        Kind::Meta => {
            outline.note_bytes = Some(entry.raw_bytes);
            return if entry.raw_bytes > 0 { Ok(()) } else { Err((20, empty(Kind::Meta))) };
        }
        Kind::Index => return note_index(outline, entry),
        // The others have one length and no say.
        _ => return Ok(()),
    };
    let precision = Precision::by_number(entry.code)
        .ok_or((3, Fault::Unknown { field: "precision", got: entry.code.into() }))?;
    let (block, group) = place_of(outline, entry)?;
    let part = block * outline.groups + group;
    outline.parts[part].tokens = 1;
    outline.parts[part].precision[side as usize] = Some(precision);
    // What one token has, so many times.
    let grid = outline.grid(block, group, side);
    let bytes = grid.checked_rows();
    let bytes = bytes.and_then(|rows| rows.checked_mul(precision.row_bytes(grid.dim) as u64));
    let bytes = bytes.ok_or((20, Fault::Overflow))?;
    let raw = u64::from(entry.raw_bytes);
    let tokens = raw / bytes;
    if tokens == 0 || !raw.is_multiple_of(bytes) {
        let expected = bytes * tokens.max(1);
        return Err((20, Fault::Length { kind: entry.kind, expected, got: raw }));
    }
    outline.parts[part].tokens = tokens as u32;
    Ok(())
}

fn empty(kind: Kind) -> Fault {
    Fault::Length { kind, expected: 1, got: 0 }
}

fn note_index(outline: &mut Outline, entry: &Entry) -> Result<(), (u64, Fault)> {
    let unknown = Fault::Unknown { field: "index encoding", got: entry.code.into() };
    let encoding = Encoding::by_number(entry.code).filter(|encoding| *encoding != Encoding::All);
    let index = Some((encoding.ok_or((3, unknown))?, entry.raw_bytes));
    if outline.index_per_block {
        let (block, group) = place_of(outline, entry)?;
        outline.parts[block * outline.groups + group].index = index;
        return Ok(());
    }
    let group = group_of(outline, entry)?;
    outline.parts.iter_mut().skip(group).step_by(outline.groups).for_each(|p| p.index = index);
    Ok(())
}

fn group_of(outline: &Outline, entry: &Entry) -> Result<usize, (u64, Fault)> {
    let got = entry.group.map_or(u64::from(u16::MAX), u64::from);
    let most = outline.groups as u64 - 1;
    let fault = Fault::Range { field: "group", least: 0, most, got };
    if got <= most { Ok(got as usize) } else { Err((6, fault)) }
}

fn place_of(outline: &Outline, entry: &Entry) -> Result<(usize, usize), (u64, Fault)> {
    let position = entry.position.map_or(usize::from(u16::MAX), usize::from);
    let begins = position < outline.layers && position.is_multiple_of(outline.layers_per_block);
    if !begins {
        return Err((4, Fault::Unknown { field: "position", got: position as u64 }));
    }
    Ok((position / outline.layers_per_block, group_of(outline, entry)?))
}

/// A group whose tokens all blocks share has them in each, also where nothing of it travels.
fn share_tokens(outline: &mut Outline) {
    if outline.index_per_block {
        return;
    }
    for group in 0..outline.groups {
        let parts = || outline.parts.iter().skip(group).step_by(outline.groups);
        let tokens = parts().map(|part| part.tokens).find(|tokens| *tokens > 0).unwrap_or(0);
        let parts = outline.parts.iter_mut().skip(group).step_by(outline.groups);
        parts.for_each(|part| part.tokens = tokens);
    }
}

fn check_parts(header: &Header, at: u64) -> Result<(), WireError> {
    let outline = &header.outline;
    let missing =
        |kind: Kind| WireError::new(at, Fault::Section { expected: kind.name(), got: "none" });
    if header.minor == 0 && outline.has_gaps() {
        let gap = |side: Side| outline.parts.iter().any(|p| p.precision[side as usize].is_none());
        return Err(missing(if gap(Side::Keys) { Kind::PayloadK } else { Kind::PayloadV }));
    }
    let blocks = || outline.parts.chunks(outline.groups);
    let unused = |group: usize| blocks().all(|parts| parts[group].is_empty());
    if blocks().any(|parts| parts.iter().all(Part::is_empty)) || (0..outline.groups).any(unused) {
        return Err(missing(Kind::PayloadK));
    }
    if outline.selected() != u64::from(header.selected) {
        let (expected, got) = (outline.selected(), header.selected.into());
        return Err(WireError::new(76, Fault::Number { field: "tokens sent", expected, got }));
    }
    Ok(())
}

/// Compares the entries with the sections that have to be there.
fn compare(header: &Header, place: impl Fn(usize) -> u64) -> Result<(), WireError> {
    let Header { outline, entries, seq_len, .. } = header;
    let sections = outline.sections().ok_or(WireError::new(0, Fault::Overflow))?;
    let ends = [sections.len(), entries.len()].into_iter().max().unwrap_or(0);
    for number in 0..ends {
        let fail = |byte, fault| Err(WireError::new(place(number) + byte, fault));
        let (Some(planned), Some(entry)) = (sections.get(number), entries.get(number)) else {
            let expected = sections.get(number).map_or("end", |planned| planned.kind.name());
            let got = entries.get(number).map_or("end", |entry| entry.kind.name());
            return fail(0, Fault::Section { expected, got });
        };
        if entry.kind != planned.kind {
            let (expected, got) = (planned.kind.name(), entry.kind.name());
            return fail(0, Fault::Section { expected, got });
        }
        let numbers = [
            ("precision or encoding", 3, planned.code.into(), entry.code.into()),
            ("position", 4, position(outline, planned).into(), number_of(entry.position)),
            ("group", 6, planned.group.map_or(0xffff, |g| g as u64), number_of(entry.group)),
        ];
        for (field, byte, expected, got) in numbers {
            if expected != got {
                return fail(byte, Fault::Number { field, expected, got });
            }
        }
        let (kind, got) = (entry.kind, u64::from(entry.raw_bytes));
        if planned.bytes != got {
            return fail(20, Fault::Length { kind, expected: planned.bytes, got });
        }
        if kind == Kind::Index {
            let part = outline.part(planned.block, planned.group.unwrap_or(0));
            let (encoding, _) = part.index.expect("the section comes from it");
            let (least, most) = encoding.possible_bytes(part.tokens.into(), (*seq_len).into());
            if !(least..=most).contains(&got) {
                return fail(20, Fault::Range { field: "bytes of the index", least, most, got });
            }
        }
    }
    // A group without a list has every token.
    let all = |part: &&Part| part.index.is_none() && !part.is_empty();
    match outline.parts.iter().filter(all).find(|part| part.tokens != *seq_len) {
        None => Ok(()),
        Some(part) => {
            let (expected, got) = ((*seq_len).into(), part.tokens.into());
            Err(WireError::new(72, Fault::Number { field: "tokens without index", expected, got }))
        }
    }
}

fn number_of(field: Option<u16>) -> u64 {
    field.unwrap_or(u16::MAX).into()
}

/// What the entry of a section says of its block.
fn position(outline: &Outline, planned: &Planned) -> u16 {
    if planned.in_block { (planned.block * outline.layers_per_block) as u16 } else { u16::MAX }
}

/// The entry of a section that is not compressed.
pub(super) fn entry(outline: &Outline, planned: &Planned, offset: u64, crc: u32) -> Entry {
    Entry {
        kind: planned.kind,
        compressed: false,
        code: planned.code,
        position: planned.in_block.then(|| position(outline, planned)),
        group: planned.group.map(|group| group as u16),
        offset,
        stored_bytes: planned.bytes as u32,
        raw_bytes: planned.bytes as u32,
        crc,
    }
}

/// Checks that sections lie one behind the other to the end, and what compressed ones become.
fn check_places(header: &Header, place: impl Fn(usize) -> u64) -> Result<(), WireError> {
    let mut end = header.header_bytes() as u64;
    let mut expanded = 0;
    for (number, entry) in header.entries.iter().enumerate() {
        let fail = |byte, fault| Err(WireError::new(place(number) + byte, fault));
        let begin = header.outline.begin(end).unwrap_or(u64::MAX);
        if entry.offset != begin {
            let (expected, got) = (begin, entry.offset);
            return fail(8, Fault::Number { field: "offset", expected, got });
        }
        let (stored, raw) = (u64::from(entry.stored_bytes), u64::from(entry.raw_bytes));
        if !entry.compressed && stored != raw {
            let (expected, got) = (raw, stored);
            return fail(16, Fault::Number { field: "stored bytes", expected, got });
        }
        if entry.compressed {
            expanded += raw;
            if raw > most_raw(stored) {
                let (claimed, allowed) = (raw, most_raw(stored));
                return fail(20, Fault::Expansion { claimed, allowed });
            }
        }
        end = entry.end();
    }
    if end != header.total_bytes {
        let (expected, got) = (end, header.total_bytes);
        let fault = Fault::Number { field: "container bytes", expected, got };
        return Err(WireError::new(16, fault));
    }
    let allowed = most_expanded(header.total_bytes);
    if expanded > allowed {
        return Err(WireError::new(16, Fault::Expansion { claimed: expanded, allowed }));
    }
    Ok(())
}

/// What a zstd section of so many bytes may become.
pub(super) fn most_raw(stored: u64) -> u64 {
    MOST_RATIO * stored + RATIO_SLACK
}

/// What all zstd sections of a container of so many bytes may become.
pub(super) fn most_expanded(total: u64) -> u64 {
    MOST_EXPANSION.saturating_mul(total).saturating_add(EXPANSION_SLACK)
}
