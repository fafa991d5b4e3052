//! The readers of caches that travel: header, whole container, lists of tokens, compact form.

use std::path::Path;

use smidgen_codec::Ledger;
use smidgen_link::wire::{
    Encoding, Granularity, Group, Header, Index, Limits, Options, Pair, PerBlock, Plan, Precision,
    Schema, decode, encode, from_compact, reference, to_compact,
};
use smidgen_tensor::Device;

use super::targets::{Target, as_it_is};

pub(super) const HEADER: Target =
    Target { name: "kvw-header", seeds: containers, mend: new_checksums, read: read_header };
pub(super) const CONTAINER: Target =
    Target { name: "kvw", seeds: containers, mend: new_checksums, read: read_container };
pub(super) const INDEX: Target =
    Target { name: "kvw-index", seeds: indices, mend: as_it_is, read: read_index };
pub(super) const COMPACT: Target =
    Target { name: "kvw-compact", seeds: messages, mend: new_last_checksum, read: read_message };

thread_local! {
    static DEVICE: Device = Device::cpu(Ledger::new(), 1);
}

/// Of every precision, granularity and flag.
fn containers() -> anyhow::Result<Vec<Vec<u8>>> {
    let reference = reference(1, 3, 2, 12, 20);
    let group = |tokens: &[u32], precision| Group::new(tokens.to_vec(), Pair::both(precision));
    let plan = |groups| Plan { layers_per_block: 2, ..Plan::new(3, groups) };
    let mixed = Pair { keys: Some(Precision::Int8), values: Some(Precision::Int4) };
    let two = || vec![Group::new(vec![1, 2, 3, 9], mixed), group(&[0, 11, 19], Precision::Nf4)];
    let mut plans = vec![
        plan(vec![group(&(0..20).collect::<Vec<_>>(), Precision::Int8)]),
        Plan { align8: true, note: Some("a note".into()), ..plan(two()) },
        Plan { asymmetric: true, ..plan(two()) },
        Plan { layers: vec![0, 2], zstd: Some(3), ..plan(two()) },
    ];
    for granularity in ["tensor", "layer", "head", "group/4", "group/5", "channel/2"] {
        let granularity: Granularity = granularity.parse()?;
        plans.push(Plan { granularity, ..plan(two()) });
    }
    let others = Precision::all().skip(3);
    plans.extend(others.map(|precision| plan(vec![group(&[4, 6, 7], precision)])));
    let halves = [
        Pair { keys: None, values: Some(Precision::Int2) },
        Pair { keys: Some(Precision::Int6), values: None },
    ];
    let each = Group {
        tokens: PerBlock::Each(vec![vec![0, 1], vec![7]]),
        precision: PerBlock::Each(halves.to_vec()),
    };
    plans.push(plan(vec![each]));
    let encoded = |plan: Plan| Ok(DEVICE.with(|device| encode(device, reference.view(), &plan))?);
    plans.into_iter().map(encoded).collect()
}

/// The checksums of all sections that lie inside, then that of the header.
fn new_checksums(input: &mut [u8]) {
    let number = |input: &[u8], at: usize| {
        let bytes = input.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
    };
    let Some(sections) = number(input, 28).map(|word| word & 0xffff) else { return };
    for entry in (0..sections).map(|section| 112 + 32 * section) {
        let range = number(input, entry + 8).zip(number(input, entry + 16));
        let stored = range.and_then(|(start, len)| input.get(start..start.checked_add(len)?));
        let Some(sum) = stored.map(crc32c::crc32c) else { continue };
        if let Some(slot) = input.get_mut(entry + 24..entry + 28) {
            slot.copy_from_slice(&sum.to_le_bytes());
        }
    }
    let at = 112 + 32 * sections;
    let Some(sum) = input.get(..at).map(crc32c::crc32c) else { return };
    if let Some(slot) = input.get_mut(at..at + 4) {
        slot.copy_from_slice(&sum.to_le_bytes());
    }
}

fn read_header(_: &Path, input: &[u8]) -> bool {
    Header::parse(input, &Limits::default()).is_ok()
}

fn read_container(_: &Path, input: &[u8]) -> bool {
    DEVICE.with(|device| decode(device, input, &Options::default())).is_ok()
}

/// Number of the encoding, tokens, T, then the list.
fn indices() -> anyhow::Result<Vec<Vec<u8>>> {
    let head = |encoding: Encoding, tokens: u8| vec![encoding as u8, tokens, 0, 40, 0, 0, 0];
    let seed = |encoding, tokens, list: &[u8]| [&head(encoding, tokens)[..], list].concat();
    Ok(vec![
        seed(Encoding::All, 40, &[]),
        seed(Encoding::U16, 3, &[0, 0, 7, 0, 39, 0]),
        seed(Encoding::U32, 2, &[1, 0, 0, 0, 30, 0, 0, 0]),
        seed(Encoding::Bitmap, 7, &[0xe3, 0, 0, 0x40, 0x80]),
        seed(Encoding::Gaps, 3, &[5, 0, 20]),
        seed(Encoding::Ranges, 6, &[2, 3, 1, 10, 3]),
    ])
}

fn read_index(_: &Path, input: &[u8]) -> bool {
    let Some((head, list)) = input.split_first_chunk::<7>() else { return false };
    let Some(encoding) = Encoding::by_number(head[0]) else { return false };
    let tokens = usize::from(u16::from_le_bytes([head[1], head[2]]));
    let seq_len = u32::from_le_bytes([head[3], head[4], head[5], head[6]]);
    let index = Index::read(encoding, list.into(), tokens, seq_len);
    index.is_ok_and(|index| index.tokens().count() == tokens)
}

/// The schema of all seeds.
fn schema() -> anyhow::Result<Schema> {
    let container = plain_container(&[1, 2, 9], Precision::Int8)?;
    let header = Header::parse(&container, &Limits::default())?;
    Ok(Schema::new(&header, &[0, 2], &[Precision::Int8, Precision::Int4]))
}

fn plain_container(tokens: &[u32], precision: Precision) -> anyhow::Result<Vec<u8>> {
    let group = Group::new(tokens.to_vec(), Pair::both(precision));
    let plan = Plan { layers: vec![0, 2], layers_per_block: 1, ..Plan::new(3, vec![group]) };
    let reference = reference(1, 3, 2, 12, 20);
    Ok(DEVICE.with(|device| encode(device, reference.view(), &plan))?)
}

/// Whether the first byte asks for a schema or a message, then that.
fn messages() -> anyhow::Result<Vec<Vec<u8>>> {
    let schema = schema()?;
    let message = |tokens: &[u32], precision| -> anyhow::Result<Vec<u8>> {
        Ok(to_compact(&schema, &plain_container(tokens, precision)?)?)
    };
    let all: Vec<u32> = (0..20).collect();
    let seeds = [
        message(&[1, 2, 9], Precision::Int8)?,
        message(&[4], Precision::Int4)?,
        message(&all, Precision::Int4)?,
    ];
    let mut seeds = seeds.map(|message| [&[0], &message[..]].concat()).to_vec();
    seeds.push([&[1], &schema.to_bytes()[..]].concat());
    Ok(seeds)
}

fn new_last_checksum(input: &mut [u8]) {
    let Some((body, slot)) = input.split_last_chunk_mut::<4>() else { return };
    *slot = crc32c::crc32c(body.get(1..).unwrap_or_default()).to_le_bytes();
}

fn read_message(_: &Path, input: &[u8]) -> bool {
    thread_local! {
        static SCHEMA: Schema = schema().expect("the seeds are right");
    }
    match input {
        [0, message @ ..] => SCHEMA.with(|schema| {
            let container = from_compact(schema, message, &Limits::default());
            container.is_ok_and(|container| read_container(Path::new(""), &container))
        }),
        [_, schema @ ..] => Schema::from_bytes(schema, &Limits::default()).is_ok(),
        [] => false,
    }
}
