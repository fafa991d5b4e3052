//! The schema-bound form of a container, for messages so small that a header would be most of them.
//!
//! One side publishes a [`Schema`]: what all its messages have in common. A message then is
//!
//! ```text
//! 0  2  a157     2  1  version 1     3  1  zero     4  4  schema     8  4  bytes of the message
//! LEB128 T, LEB128 groups, per group: u8 precision of keys, u8 of values (0: they do not travel),
//! u8 encoding of the tokens, LEB128 how many, their bytes; then codes, scales and zero points in the
//! order of a container; at last CRC32C of all before
//! ```
//!
//! That is 24 to 30 bytes beside the payload, in place of about 300. The container that a message
//! stands for can be made again to the byte, so there is one decoder. What a schema cannot say does
//! not travel so: a message's own id, prompt, cap or note, compression, tokens or precisions that
//! differ between blocks.

use sha2::{Digest, Sha256};

use super::error::{EncodeError, Fault, Incompatible, WireError};
use super::expected::Expected;
use super::header::{Header, Limits, MOST_SECTIONS};
use super::index::{Encoding, Index, leb_bytes, put_leb, take_leb};
use super::outline::{DESCRIPTOR_BYTES, Outline, PREFIX_BYTES, Part};
use super::plan::{About, Plan};
use super::precision::Precision;
use super::section::{Entry, Kind};
use super::size::Places;
use super::table;
use crate::KvShape;

const MAGIC: [u8; 2] = 0xa157_u16.to_le_bytes();
const VERSION: u8 = 1;
/// Bytes before T.
pub(crate) const HEAD_BYTES: usize = 12;
/// Bytes of the checksum.
const SUM_BYTES: usize = 4;

/// What all messages of a link have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// A header without sections, its varying fields at 1 or absent.
    header: Header,
    layers: Vec<u16>,
    precisions: Vec<Precision>,
}

/// Why a container cannot be written in the compact form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// The container is not right.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Something that the schema does not have.
    #[error("`{0}` is not as the schema has it, so the message cannot be compact")]
    Differs(&'static str),
}

impl Schema {
    /// The schema of a container's messages, whose elements may be in one of `precisions`.
    pub fn new(header: &Header, layers: &[u16], precisions: &[Precision]) -> Schema {
        let about =
            About { message: [0; 16], prompt: [0; 8], cap: None, advisory: 0, ..header.about };
        let outline = Outline {
            index_per_block: false,
            groups: 1,
            parts: Vec::new(),
            note_bytes: None,
            ..header.outline.clone()
        };
        let mut precisions = precisions.to_vec();
        precisions.sort_by_key(|precision| precision.number());
        precisions.dedup();
        let header = Header {
            minor: 0,
            total_bytes: 0,
            upgrade: header.upgrade,
            about,
            seq_len: 1,
            selected: 1,
            descriptor_bytes: DESCRIPTOR_BYTES as u16,
            outline,
            entries: Vec::new(),
        };
        Schema { header, layers: layers.to_vec(), precisions }
    }

    /// The bytes to publish: the prefix and descriptor of a header, layers, precisions, checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.header.write(&mut out);
        out.truncate(PREFIX_BYTES + DESCRIPTOR_BYTES);
        out.extend((self.layers.len() as u16).to_le_bytes());
        out.extend(self.layers.iter().flat_map(|layer| layer.to_le_bytes()));
        out.push(self.precisions.len() as u8);
        out.extend(self.precisions.iter().map(|precision| precision.number()));
        let sum = crc32c::crc32c(&out);
        out.extend(sum.to_le_bytes());
        out
    }

    /// Reads published bytes.
    ///
    /// # Errors
    /// Whatever is wrong with them.
    pub fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Schema, WireError> {
        let body = checked_sum(bytes, PREFIX_BYTES + DESCRIPTOR_BYTES + 3)?;
        let header = Header::parse_alone(body, limits)?;
        let fail = |at: usize, fault| Err(WireError::new(at as u64, fault));
        let at = PREFIX_BYTES + DESCRIPTOR_BYTES;
        let count = usize::from(u16::from_le_bytes([body[at], body[at + 1]]));
        let (expected, got) = (header.layers(), count);
        if expected != got {
            let [expected, got] = [expected as u64, got as u64];
            return fail(at, Fault::Number { field: "layers", expected, got });
        }
        let rest = &body[at + 2..];
        let Some((listed, rest)) = rest.split_at_checked(2 * count) else {
            let (expected, got) = ((at + 2 + 2 * count) as u64, body.len() as u64);
            return fail(body.len(), Fault::Truncated { expected, got });
        };
        let of_layers = header.outline.of_layers as u16;
        let layers: Vec<u16> =
            listed.as_chunks().0.iter().map(|two| u16::from_le_bytes(*two)).collect();
        let increase = layers.is_sorted_by(|a, b| a < b);
        if !increase || layers.last().is_some_and(|last| *last >= of_layers) {
            return fail(at + 2, Fault::Layers(of_layers));
        }
        let at = at + 2 + listed.len();
        let count = rest.first().copied().unwrap_or(0);
        let numbers = rest.get(1..).unwrap_or_default();
        if numbers.len() != usize::from(count) {
            let (expected, got) = (count.into(), numbers.len() as u64);
            return fail(at, Fault::Number { field: "precisions", expected, got });
        }
        let known = |(number, at): (&u8, usize)| {
            let unknown = Fault::Unknown { field: "precision", got: (*number).into() };
            Precision::by_number(*number).ok_or(WireError::new(at as u64, unknown))
        };
        let precisions = numbers.iter().zip(at + 1..).map(known).collect::<Result<Vec<_>, _>>()?;
        let schema = Schema::new(&header, &layers, &precisions);
        // One way to write it, so that its number is that of its bytes.
        if schema.to_bytes() != bytes {
            return fail(0, Fault::Unknown { field: "schema", got: 0 });
        }
        Ok(schema)
    }

    /// The number by which messages name it: the first bytes of the SHA-256 of its own.
    pub fn id(&self) -> u32 {
        let sum = Sha256::digest(self.to_bytes());
        u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])
    }

    /// Checks what all its messages say of themselves against what this side has, but for how long
    /// they are and what they are about, which no schema says.
    ///
    /// # Errors
    /// The first field that differs.
    pub fn check(&self, expected: &Expected) -> Result<(), Incompatible> {
        Header { seq_len: expected.seq_len as u32, ..self.header.clone() }.check(expected)
    }

    /// The precisions elements may be in.
    pub fn precisions(&self) -> &[Precision] {
        &self.precisions
    }
}

/// All but a checksum at the end, if it is right and at least so many bytes are before it.
fn checked_sum(bytes: &[u8], least: usize) -> Result<&[u8], WireError> {
    let split = bytes.split_last_chunk::<SUM_BYTES>().filter(|(body, _)| body.len() >= least);
    let Some((body, sum)) = split else {
        let (expected, got) = ((least + SUM_BYTES) as u64, bytes.len() as u64);
        return Err(WireError::new(got, Fault::Truncated { expected, got }));
    };
    let (expected, got) = (u32::from_le_bytes(*sum), crc32c::crc32c(body));
    if expected != got {
        let fault = Fault::Checksum { what: "message", expected, got };
        return Err(WireError::new(body.len() as u64, fault));
    }
    Ok(body)
}

/// Whether a section is one of those that follow the groups in a compact message.
fn is_body(kind: Kind) -> bool {
    !matches!(kind, Kind::Layers | Kind::Index | Kind::Meta)
}

/// Whether bytes begin a compact message, and no container.
pub(crate) fn is_compact(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Writes a container in the compact form.
///
/// # Errors
/// [`CompactError::Differs`] for what the schema does not have.
pub fn to_compact(schema: &Schema, container: &[u8]) -> Result<Vec<u8>, CompactError> {
    let header = Header::parse(container, &Limits::default())?;
    let (expected, got) = (header.total_bytes, container.len() as u64);
    if expected > got {
        return Err(WireError::new(got, Fault::Truncated { expected, got }).into());
    }
    let raw = |entry: &Entry| &container[entry.offset as usize..entry.end() as usize];
    let outline = &header.outline;
    let layers = match header.entries.iter().find(|entry| entry.kind == Kind::Layers) {
        None => (0..outline.of_layers as u16).collect(),
        Some(entry) => raw(entry).as_chunks().0.iter().map(|l| u16::from_le_bytes(*l)).collect(),
    };
    check_fits(schema, &header, layers)?;
    let mut out = Vec::from(MAGIC);
    out.extend([VERSION, 0]);
    out.extend(schema.id().to_le_bytes());
    out.extend([0; 4]);
    put_leb(&mut out, header.seq_len);
    put_leb(&mut out, outline.groups as u32);
    for group in 0..outline.groups {
        let part = outline.part(0, group);
        out.extend(part.precision.map(|precision| precision.map_or(0, Precision::number)));
        out.push(part.index.map_or(0, |(encoding, _)| encoding as u8));
        put_leb(&mut out, part.tokens);
        let of_group = |e: &&Entry| e.kind == Kind::Index && e.group == Some(group as u16);
        header.entries.iter().find(of_group).into_iter().for_each(|entry| out.extend(raw(entry)));
    }
    let body = header.entries.iter().filter(|entry| is_body(entry.kind));
    body.for_each(|entry| out.extend(raw(entry)));
    let total = (out.len() + SUM_BYTES) as u32;
    out[8..HEAD_BYTES].copy_from_slice(&total.to_le_bytes());
    let sum = crc32c::crc32c(&out);
    out.extend(sum.to_le_bytes());
    Ok(out)
}

fn check_fits(schema: &Schema, header: &Header, layers: Vec<u16>) -> Result<(), CompactError> {
    let differs = |field| Err(CompactError::Differs(field));
    let outline = &header.outline;
    let all = Schema::new(header, &layers, &schema.precisions);
    if all != *schema {
        return differs("descriptor");
    }
    if header.about != schema.header.about {
        return differs("message, prompt, cap or advisory flags");
    }
    if header.entries.iter().any(|entry| entry.compressed) {
        return differs("compression");
    }
    if outline.note_bytes.is_some() || outline.index_per_block {
        return differs(if outline.index_per_block { "tokens of each block" } else { "note" });
    }
    let same = |parts: &[Part]| parts == &outline.parts[..outline.groups];
    if !outline.parts.chunks(outline.groups).all(same) {
        return differs("precisions of each block");
    }
    let used = outline.parts.iter().flat_map(|part| part.precision).flatten();
    if used.into_iter().any(|precision| !schema.precisions.contains(&precision)) {
        return differs("precision");
    }
    Ok(())
}

/// Makes the container again that a compact message stands for; read it with [`open`](super::open).
///
/// # Errors
/// Whatever is wrong with the message itself.
pub fn from_compact(
    schema: &Schema,
    message: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>, WireError> {
    let body = checked_sum(message, HEAD_BYTES + 2)?;
    let fail = |at: usize, fault| Err(WireError::new(at as u64, fault));
    if !body.starts_with(&MAGIC) {
        return fail(0, Fault::Magic);
    }
    if body[2] != VERSION {
        return fail(2, Fault::Version(body[2].into()));
    }
    let u32_at =
        |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    if u32_at(4) != schema.id() {
        return fail(4, Fault::Schema { expected: schema.id(), got: u32_at(4) });
    }
    for (field, at, expected, got) in [
        ("reserved", 3, 0, u64::from(body[3])),
        ("message bytes", 8, message.len() as u64, u32_at(8).into()),
    ] {
        if expected != got {
            return fail(at, Fault::Number { field, expected, got });
        }
    }
    let mut at = HEAD_BYTES;
    let leb = |at: &mut usize, field, most: u64| {
        let start = *at;
        let fail = |fault| WireError::new(start as u64, fault);
        let got = take_leb(body, at).map_err(|fault| fail(fault.into()))?;
        let in_range = (1..=most).contains(&got.into());
        let range = Fault::Range { field, least: 1, most, got: got.into() };
        if in_range { Ok(got) } else { Err(fail(range)) }
    };
    let seq_len = leb(&mut at, "tokens of the sequence", limits.seq_len.into())?;
    let groups = leb(&mut at, "groups", limits.groups.into())?;
    let mut first = Vec::new();
    let mut lists: Vec<&[u8]> = Vec::new();
    for _ in 0..groups {
        let Some(&[keys, values, encoding]) = body[at..].first_chunk() else {
            let (expected, got) = ((at + 3) as u64, body.len() as u64);
            return fail(body.len(), Fault::Truncated { expected, got });
        };
        let precision = [(keys, at), (values, at + 1)].map(|(number, at)| {
            let known = Precision::by_number(number).filter(|p| schema.precisions.contains(p));
            let unknown = Fault::Unknown { field: "precision", got: number.into() };
            let unknown = WireError::new(at as u64, unknown);
            if known.is_none() && number > 0 { Err(unknown) } else { Ok(known) }
        });
        let [keys, values] = precision;
        let unknown = Fault::Unknown { field: "index encoding", got: encoding.into() };
        let Some(encoding) = Encoding::by_number(encoding) else { return fail(at + 2, unknown) };
        at += 3;
        let tokens = leb(&mut at, "tokens of a group", seq_len.into())?;
        let bytes = Index::bytes_of(encoding, &body[at..], tokens as usize, seq_len)
            .map_err(|(byte, fault)| WireError::new((at + byte) as u64, fault.into()))?;
        let index = (encoding != Encoding::All).then_some((encoding, bytes as u32));
        first.push(Part { tokens, index, precision: [keys?, values?] });
        lists.push(&body[at..at + bytes]);
        at += bytes;
    }
    let (shared, blocks) = (&schema.header.outline, schema.header.outline.blocks());
    // A few bytes of groups stand for as many sections in each block.
    let in_block: usize = first.iter().map(|part| shared.sections_of(part).max(1)).sum();
    let (most, got) = (MOST_SECTIONS as u64, (in_block * blocks) as u64);
    if got > most {
        return fail(HEAD_BYTES, Fault::Range { field: "sections", least: 1, most, got });
    }
    let parts = first.repeat(blocks);
    let outline = Outline { groups: groups as usize, parts, ..shared.clone() };
    container(schema, seq_len, outline, &lists, &body[at..], at)
}

/// The container of these lists of tokens and codes, which begin at byte `at` of the message.
fn container(
    schema: &Schema,
    seq_len: u32,
    outline: Outline,
    lists: &[&[u8]],
    mut codes: &[u8],
    at: usize,
) -> Result<Vec<u8>, WireError> {
    let overflow = WireError::new(at as u64, Fault::Overflow);
    let places = Places::of(&outline).map_err(|_| overflow)?;
    let body = places.sections.iter().filter(|section| is_body(section.kind));
    let (expected, got) = (body.map(|section| section.bytes).sum(), codes.len() as u64);
    if expected != got {
        let fault = Fault::Number { field: "bytes of codes and scales", expected, got };
        return Err(WireError::new(at as u64, fault));
    }
    let layers: Vec<u8> = schema.layers.iter().flat_map(|layer| layer.to_le_bytes()).collect();
    let mut out = vec![0; places.total as usize];
    let mut entries = Vec::with_capacity(places.sections.len());
    for (planned, offset) in places.sections.iter().zip(&places.offsets) {
        let bytes = match (planned.kind, planned.group) {
            (Kind::Layers, _) => &layers[..],
            (Kind::Index, Some(group)) => lists[group],
            _ => {
                let (taken, rest) = codes.split_at(planned.bytes as usize);
                codes = rest;
                taken
            }
        };
        let start = *offset as usize;
        out[start..start + bytes.len()].copy_from_slice(bytes);
        let entry = table::entry(&outline, planned, *offset, crc32c::crc32c(bytes));
        entries.push(entry);
    }
    let header = Header {
        minor: u16::from(outline.has_gaps()),
        total_bytes: places.total,
        seq_len,
        selected: outline.selected() as u32,
        outline,
        entries,
        ..schema.header.clone()
    };
    let mut bytes = Vec::with_capacity(header.header_bytes());
    header.write(&mut bytes);
    out[..bytes.len()].copy_from_slice(&bytes);
    Ok(out)
}

/// The bytes that the container of a plan has in the compact form, if it can be written so.
///
/// # Errors
/// Where the plan cannot be.
pub fn compact_bytes(shape: KvShape, seq_len: usize, plan: &Plan) -> Result<u64, EncodeError> {
    let outline = plan.outline(shape, seq_len)?;
    let body = Places::of(&outline)?.sections.into_iter().filter(|s| s.kind != Kind::Layers);
    let body: u64 = body.map(|section| section.bytes).sum();
    let groups = outline.parts[..outline.groups].iter();
    let groups: usize = groups.map(|part| 3 + leb_bytes(part.tokens)).sum();
    let head = HEAD_BYTES + leb_bytes(seq_len as u32) + leb_bytes(outline.groups as u32);
    Ok((head + groups + SUM_BYTES) as u64 + body)
}
