//! The readers of caches that travel: header, whole container, its arrays, a container as it arrives,
//! lists of tokens, compact form.
//!
//! The bound on memory is one for reading and checking. Arrays are as large as they are, and on the
//! ledger before they are made; they are tried with containers so small that they stay within it.

use std::path::Path;
use std::sync::LazyLock;

use smidgen_codec::Ledger;
use smidgen_link::net::Sink;
use smidgen_link::remote::Intake;
use smidgen_link::wire::{
    About, Encoding, Expected, Granularity, Group, Header, Index, Limits, Options, Pair, PerBlock,
    Plan, Precision, Schema, decode, encode, from_compact, open, reference, to_compact,
};
use smidgen_link::{KvShape, KvView};
use smidgen_tensor::Device;

use super::targets::{Target, as_it_is};

pub(super) const HEADER: Target =
    Target { name: "kvw-header", seeds: all_containers, mend: new_checksums, read: read_header };
pub(super) const CONTAINER: Target =
    Target { name: "kvw", seeds: all_containers, mend: new_checksums, read: read_container };
pub(super) const DENSE: Target =
    Target { name: "kvw-dense", seeds: containers, mend: new_checksums, read: read_arrays };
pub(super) const INTAKE: Target =
    Target { name: "link-intake", seeds: arrivals, mend: new_checksums_behind, read: read_arrival };
pub(super) const INDEX: Target =
    Target { name: "kvw-index", seeds: indices, mend: as_it_is, read: read_index };
pub(super) const COMPACT: Target =
    Target { name: "kvw-compact", seeds: messages, mend: new_last_checksum, read: read_message };

thread_local! {
    static DEVICE: Device = Device::cpu(Ledger::new(), 1);
}

/// Small ones of every precision, granularity and flag.
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

/// Small ones, and some of hundreds of kilobytes, for which the bound is more than its slack.
fn all_containers() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = containers()?;
    all.extend([half_a_megabyte()?, compressed()?, thousand_blocks()?]);
    Ok(all)
}

fn half_a_megabyte() -> anyhow::Result<Vec<u8>> {
    let reference = reference(2, 8, 4, 64, 120);
    let some = |from: u32| (from..120).step_by(2).collect::<Vec<_>>();
    let mixed = Pair { keys: Some(Precision::Int8), values: Some(Precision::F16) };
    let groups = vec![Group::new(some(0), mixed), Group::new(some(1), Pair::both(Precision::Int4))];
    let plan = Plan { layers_per_block: 4, ..Plan::new(8, groups) };
    Ok(DEVICE.with(|device| encode(device, reference.view(), &plan))?)
}

/// Six rows of seven are the same: zstd makes that nearly as small as a reader lets it.
fn compressed() -> anyhow::Result<Vec<u8>> {
    let (layers, kv_heads, dim, tokens) = (4, 4, 64, 1000);
    let reference = reference(3, layers, kv_heads, dim, tokens);
    let repeated = |values: &[f32]| {
        let rows = values.chunks_exact(dim).enumerate();
        rows.flat_map(|(row, own)| if row % 7 == 0 { own } else { &values[..dim] })
            .copied()
            .collect::<Vec<f32>>()
    };
    let (keys, values) = (repeated(reference.view().keys), repeated(reference.view().values));
    let shape = KvShape { layers, kv_heads, key_dim: dim, value_dim: dim };
    let view = KvView::new(shape, tokens, &keys, &values)?;
    let group = Group::new((0..999).collect(), Pair::both(Precision::Int8));
    let plan = Plan { layers_per_block: 2, zstd: Some(3), ..Plan::new(layers, vec![group]) };
    Ok(DEVICE.with(|device| encode(device, view, &plan))?)
}

/// As many sections as there may be, and little in them.
fn thousand_blocks() -> anyhow::Result<Vec<u8>> {
    let group = Group::new((0..16).collect(), Pair::both(Precision::Int8));
    let plan = Plan { layers_per_block: 1, ..Plan::new(1024, vec![group]) };
    Ok(DEVICE.with(|device| encode(device, reference(4, 1024, 1, 1, 16).view(), &plan))?)
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
    DEVICE.with(|device| open(device, input, &Options::default()).is_ok())
}

fn read_arrays(_: &Path, input: &[u8]) -> bool {
    DEVICE.with(|device| decode(device, input, &Options::default())).is_ok()
}

/// The longest piece less 1, then a container.
fn arrivals() -> anyhow::Result<Vec<Vec<u8>>> {
    let pieces = [0, 6, 254].into_iter().cycle();
    Ok(pieces.zip(containers()?).map(|(piece, bytes)| [&[piece], &bytes[..]].concat()).collect())
}

fn new_checksums_behind(input: &mut [u8]) {
    if let [_, container @ ..] = input {
        new_checksums(container);
    }
}

/// As the receiver of a sharer whose cache is that of all seeds. The header ends where it says.
fn read_arrival(_: &Path, input: &[u8]) -> bool {
    let [piece, container @ ..] = input else { return false };
    let header_bytes = container.get(12..16).and_then(|len| len.first_chunk());
    let header_bytes = header_bytes.map_or(0, |len| u32::from_le_bytes(*len) as usize);
    let (header, rest) = container.split_at(header_bytes.min(container.len()));
    let shape = KvShape { layers: 3, kv_heads: 2, key_dim: 12, value_dim: 12 };
    let expected = Expected { shape, seq_len: 20, batch: 1, about: About::default() };
    let mut intake = DEVICE.with(|device| Intake::new(device.clone(), expected));
    let arrived = intake
        .begin(container.len() as u64, header)
        .and_then(|()| rest.chunks(1 + usize::from(*piece)).try_for_each(|p| intake.chunk(p)))
        .and_then(|()| intake.end(0));
    if arrived.is_err() {
        intake.discard();
    }
    arrived.is_ok() && intake.take().is_some()
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

/// Of two blocks, and of as many as there may be.
static SCHEMAS: LazyLock<[Schema; 2]> = LazyLock::new(|| {
    let schema = |container: anyhow::Result<Vec<u8>>, layers: &[u16]| {
        let container = container.expect("the seeds are right");
        let header = Header::parse(&container, &Limits::default()).expect("it was made right");
        Schema::new(&header, layers, &[Precision::Int8, Precision::Int4])
    };
    let all: Vec<u16> = (0..1024).collect();
    [schema(plain_container(&[1, 2, 9], Precision::Int8), &[0, 2]), schema(thousand_blocks(), &all)]
});

fn plain_container(tokens: &[u32], precision: Precision) -> anyhow::Result<Vec<u8>> {
    let group = Group::new(tokens.to_vec(), Pair::both(precision));
    let plan = Plan { layers: vec![0, 2], layers_per_block: 1, ..Plan::new(3, vec![group]) };
    let reference = reference(1, 3, 2, 12, 20);
    Ok(DEVICE.with(|device| encode(device, reference.view(), &plan))?)
}

/// The number of its schema, then a message; or 2, then a schema.
fn messages() -> anyhow::Result<Vec<Vec<u8>>> {
    let [small, large] = &*SCHEMAS;
    let message = |tokens: &[u32], precision| -> anyhow::Result<Vec<u8>> {
        Ok(to_compact(small, &plain_container(tokens, precision)?)?)
    };
    let all: Vec<u32> = (0..20).collect();
    let seeds = [
        (0, message(&[1, 2, 9], Precision::Int8)?),
        (0, message(&[4], Precision::Int4)?),
        (0, message(&all, Precision::Int4)?),
        (1, to_compact(large, &thousand_blocks()?)?),
        (2, small.to_bytes()),
        (2, large.to_bytes()),
    ];
    Ok(seeds.into_iter().map(|(what, bytes)| [&[what], &bytes[..]].concat()).collect())
}

fn new_last_checksum(input: &mut [u8]) {
    let Some((body, slot)) = input.split_last_chunk_mut::<4>() else { return };
    *slot = crc32c::crc32c(body.get(1..).unwrap_or_default()).to_le_bytes();
}

fn read_message(_: &Path, input: &[u8]) -> bool {
    match input {
        [number @ 0..=1, message @ ..] => {
            let container =
                from_compact(&SCHEMAS[usize::from(*number)], message, &Limits::default());
            container.is_ok_and(|container| read_container(Path::new(""), &container))
        }
        [_, schema @ ..] => Schema::from_bytes(schema, &Limits::default()).is_ok(),
        [] => false,
    }
}
