//! Sections as zstd frames, where that makes them smaller.
//!
//! Each section for itself, so that a block still stands alone; what does not shrink stays as it is,
//! and so does what would become too many times its size for a careful reader.

use super::error::{Fault, WireError};
use super::header::{Header, Limits};
use super::section::Entry;
use super::table::{most_expanded, most_raw};

/// The container with its sections compressed at `level`, one that has been made here.
pub(super) fn compressed(container: &[u8], level: i32) -> Vec<u8> {
    let limits = Limits { bytes: u64::MAX, ..Limits::default() };
    let mut header = Header::parse(container, &limits).expect("it was made right");
    let mut bodies: Vec<Vec<u8>> = Vec::with_capacity(header.entries.len());
    // Counted by what stands before each section, and so by less than a reader counts by.
    let (mut so_far, mut expanded) = (header.header_bytes() as u64, 0);
    for entry in &mut header.entries {
        let raw = &container[entry.offset as usize..entry.end() as usize];
        let small = zstd::bulk::compress(raw, level).ok();
        let small = small.filter(|small| {
            let (stored, raw) = (small.len() as u64, raw.len() as u64);
            let fits = expanded + raw <= most_expanded(so_far + stored);
            stored < raw && raw <= most_raw(stored) && fits
        });
        expanded += small.as_ref().map_or(0, |_| raw.len() as u64);
        so_far += small.as_ref().map_or(raw.len(), Vec::len) as u64;
        entry.compressed = small.is_some();
        bodies.push(small.unwrap_or_else(|| raw.to_vec()));
    }
    let mut end = header.header_bytes() as u64;
    for (entry, body) in header.entries.iter_mut().zip(&bodies) {
        entry.offset = header.outline.begin(end).expect("smaller than before");
        entry.stored_bytes = body.len() as u32;
        entry.crc = crc32c::crc32c(body);
        end = entry.end();
    }
    header.total_bytes = end;
    let mut out = Vec::with_capacity(end as usize);
    header.write(&mut out);
    for (entry, body) in header.entries.iter().zip(&bodies) {
        out.resize(entry.offset as usize, 0);
        out.extend(body);
    }
    out
}

/// The bytes of a compressed section, whose claim has been checked.
pub(super) fn expand(entry: &Entry, stored: &[u8]) -> Result<Vec<u8>, WireError> {
    let raw = zstd::bulk::decompress(stored, entry.raw_bytes as usize).ok();
    let raw = raw.filter(|raw| raw.len() == entry.raw_bytes as usize);
    raw.ok_or(WireError::new(entry.offset, Fault::Compressed))
}
