//! A container for people: what stands in it, and in what two of them differ.

use serde::Serialize;

use super::decode::Container;
use super::expected::hex;
use super::header::Header;
use super::index::Encoding;
use super::payload::Payload;
use super::plan::{KeySpace, TokenSpace};
use super::precision::Precision;
use super::scale::{ScaleType, Side};
use super::section::{ENTRY_BYTES, Entry, Kind};
use crate::KvShape;

/// A header with its sections, in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Major and minor.
    pub version: String,
    /// Bytes of the container.
    pub total_bytes: u64,
    /// Bytes of the header.
    pub header_bytes: usize,
    /// L of the sharer, K, E.
    pub shape: KvShape,
    /// Layers that travel.
    pub layers: usize,
    /// Sequences.
    pub batch: usize,
    /// T.
    pub seq_len: u32,
    /// Tokens sent; of the block with the most.
    pub selected: u32,
    /// Layers of a block.
    pub layers_per_block: usize,
    /// Who shares a scale.
    pub granularity: String,
    /// The type of scales.
    pub scale: ScaleType,
    /// Flags that are set.
    pub flags: Vec<&'static str>,
    /// Bits that mean something to their sender only.
    pub advisory: u16,
    /// 0, or 1 for what was sent on request.
    pub round: u8,
    /// The bytes it may have at most.
    pub cap: Option<u32>,
    /// The base of rotations.
    pub rope_theta: f32,
    /// Which positions indices count.
    pub token_space: TokenSpace,
    /// What has been done to keys.
    pub key_space: KeySpace,
    /// Fingerprints and the message's name, in hexadecimal; zeros say nothing.
    pub message: String,
    /// Of the sharer.
    pub sharer: String,
    /// Of its tokenizer.
    pub tokenizer: String,
    /// Of the prompt.
    pub prompt: String,
    /// Groups of tokens, of every block in which any of it travels.
    pub groups: Vec<GroupReport>,
    /// Bytes by what they are for.
    pub bytes: Parts,
    /// The section table.
    pub sections: Vec<SectionReport>,
}

/// A group of tokens in a block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// Which block.
    pub block: usize,
    /// Which group.
    pub group: usize,
    /// Its tokens.
    pub tokens: u32,
    /// How they are listed.
    pub index: Encoding,
    /// The precision of keys.
    pub keys: Option<Precision>,
    /// The precision of values.
    pub values: Option<Precision>,
}

/// Stored bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// Prefix, descriptor, section table, checksum.
    pub header: u64,
    /// Lists of layers and tokens.
    pub indices: u64,
    /// Codes of keys.
    pub keys: u64,
    /// Codes of values.
    pub values: u64,
    /// Scales and zero points.
    pub scales: u64,
    /// A note.
    pub note: u64,
    /// Zeros between sections.
    pub padding: u64,
}

/// An entry of the section table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SectionReport {
    /// What it holds.
    pub kind: Kind,
    /// The precision of a payload, or the encoding of an index.
    pub code: Option<String>,
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
    /// `raw` or `zstd`.
    pub codec: &'static str,
    /// CRC32C in hexadecimal.
    pub crc32c: String,
    /// Whether it is that of the bytes.
    pub intact: bool,
}

impl Report {
    /// What a header says, with the checksums of the sections in `bytes`, the container.
    pub fn new(header: &Header, bytes: &[u8]) -> Report {
        let outline = &header.outline;
        let flags = [
            (header.align8(), "align8"),
            (header.index_per_block(), "index-per-block"),
            (header.asymmetric(), "asymmetric"),
            (header.upgrade, "upgrade"),
        ];
        let parts = (0..outline.blocks()).flat_map(|b| (0..outline.groups).map(move |g| (b, g)));
        let parts = parts.filter(|(block, group)| !outline.part(*block, *group).is_empty());
        let group = |(block, group): (usize, usize)| {
            let part = outline.part(block, group);
            let index = part.index.map_or(Encoding::All, |(encoding, _)| encoding);
            let [keys, values] = part.precision;
            GroupReport { block, group, tokens: part.tokens, index, keys, values }
        };
        let about = &header.about;
        Report {
            version: format!("1.{}", header.minor),
            total_bytes: header.total_bytes,
            header_bytes: header.header_bytes(),
            shape: header.shape(),
            layers: outline.layers,
            batch: outline.batch,
            seq_len: header.seq_len,
            selected: header.selected,
            layers_per_block: outline.layers_per_block,
            granularity: outline.granularity.to_string(),
            scale: outline.scale,
            flags: flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect(),
            advisory: about.advisory,
            round: about.round,
            cap: about.cap,
            rope_theta: about.rope_theta,
            token_space: about.tokens,
            key_space: about.keys,
            message: hex(&about.message),
            sharer: hex(&about.sharer),
            tokenizer: hex(&about.tokenizer),
            prompt: hex(&about.prompt),
            groups: parts.map(group).collect(),
            bytes: Parts::of(header),
            sections: header.entries.iter().map(|entry| section(entry, bytes)).collect(),
        }
    }
}

impl Report {
    /// Bytes of the section table, a part of those of the header.
    pub fn table_bytes(&self) -> u64 {
        (self.sections.len() * ENTRY_BYTES) as u64
    }
}

impl Parts {
    fn of(header: &Header) -> Parts {
        let mut parts = Parts { header: header.header_bytes() as u64, ..Parts::default() };
        let mut end = parts.header;
        for entry in &header.entries {
            let part = match entry.kind {
                Kind::Layers | Kind::Index => &mut parts.indices,
                Kind::PayloadK => &mut parts.keys,
                Kind::PayloadV => &mut parts.values,
                Kind::ScaleK | Kind::ScaleV | Kind::ZeroK | Kind::ZeroV | Kind::Calib => {
                    &mut parts.scales
                }
                Kind::Meta => &mut parts.note,
            };
            *part += u64::from(entry.stored_bytes);
            parts.padding += entry.offset - end;
            end = entry.end();
        }
        parts
    }
}

fn section(entry: &Entry, bytes: &[u8]) -> SectionReport {
    let stored = usize::try_from(entry.offset).ok().zip(usize::try_from(entry.end()).ok());
    let stored = stored.and_then(|(start, end)| bytes.get(start..end));
    let code = match entry.kind {
        Kind::PayloadK | Kind::PayloadV => {
            Precision::by_number(entry.code).map(|precision| precision.name().into())
        }
        Kind::Index => Encoding::by_number(entry.code).map(|e| format!("{e:?}").to_lowercase()),
        _ => None,
    };
    SectionReport {
        kind: entry.kind,
        code,
        position: entry.position,
        group: entry.group,
        offset: entry.offset,
        stored_bytes: entry.stored_bytes,
        raw_bytes: entry.raw_bytes,
        codec: if entry.compressed { "zstd" } else { "raw" },
        crc32c: format!("{:08x}", entry.crc),
        intact: stored.is_some_and(|stored| crc32c::crc32c(stored) == entry.crc),
    }
}

/// In what the rows of two containers differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Fields of the headers that differ: name, one, other.
    pub fields: Vec<(String, String, String)>,
    /// Rows that both have, a layer and token of keys or of values.
    pub rows: u64,
    /// Rows that only the first has.
    pub only_first: u64,
    /// Rows that only the second has.
    pub only_second: u64,
    /// The largest distance between two values of one place.
    pub largest: f32,
    /// Root of the mean squared distance over that of the first one's values.
    pub nrmse: f64,
}

/// Compares two containers of the same shape by their values, and any two by their headers.
pub fn difference(first: &Payload, second: &Payload) -> Difference {
    let mut difference =
        Difference { fields: fields(&first.header, &second.header), ..Difference::default() };
    let shape = |payload: &Payload| (payload.header.shape(), payload.header.batch());
    if shape(first) != shape(second) {
        return difference;
    }
    let (mut distance, mut size) = (0.0, 0.0);
    for layer in 0..first.header.shape().layers as u16 {
        for side in Side::BOTH {
            let [one, other] = [first, second].map(|payload| payload.layer(layer, side));
            let count = |rows: &Option<_>| {
                rows.as_ref().map_or(0, |rows: &super::LayerRows<'_>| rows.tokens.len() as u64)
            };
            let (ones, others) = (count(&one), count(&other));
            let Some((one, other)) = one.zip(other) else {
                (difference.only_first, difference.only_second) =
                    (difference.only_first + ones, difference.only_second + others);
                continue;
            };
            let mut both = 0;
            for (place, token) in one.tokens.iter().enumerate() {
                let Ok(there) = other.tokens.binary_search(token) else { continue };
                both += 1;
                for batch in 0..first.header.batch() {
                    let pairs =
                        row(&one, first, batch, place).zip(row(&other, second, batch, there));
                    for (a, b) in pairs {
                        difference.largest = difference.largest.max((a - b).abs());
                        distance += f64::from(a - b).powi(2);
                        size += f64::from(*a).powi(2);
                    }
                }
            }
            difference.rows += both;
            difference.only_first += ones - both;
            difference.only_second += others - both;
        }
    }
    difference.nrmse = if distance > 0.0 { (distance / size).sqrt() } else { 0.0 };
    difference
}

fn row<'a>(
    rows: &super::LayerRows<'a>,
    payload: &Payload,
    batch: usize,
    place: usize,
) -> impl Iterator<Item = &'a f32> {
    let len = rows.values.len() / payload.header.batch() / rows.tokens.len();
    rows.values[(batch * rows.tokens.len() + place) * len..][..len].iter()
}

/// The fields of two headers that differ.
fn fields(first: &Header, second: &Header) -> Vec<(String, String, String)> {
    let objects = [first, second].map(|header| {
        let mut report = Report::new(header, &[]);
        // Sections are long, and what follows from the rest.
        report.sections.clear();
        serde_json::to_value(report).expect("a report has no keys but texts")
    });
    let [first, second] = &objects;
    let names = first.as_object().into_iter().flatten().map(|(name, _)| name);
    let differ = names.filter(|name| first[*name] != second[*name]);
    differ.map(|name| (name.clone(), first[name].to_string(), second[name].to_string())).collect()
}

impl Container<'_> {
    /// Values in it.
    pub fn values(&self) -> usize {
        let parts = self.blocks.iter().flat_map(|block| &block.parts);
        parts.flat_map(|part| [&part.keys, &part.values]).flatten().map(|codes| codes.len()).sum()
    }
}
