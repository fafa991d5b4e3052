//! What reading takes of the heap: nothing for a claim, and what was promised for what is there.

#[path = "../../store/tests/common/heap.rs"]
mod heap;

use smidgen_codec::{Ledger, Tag};
use smidgen_link::wire::{
    self, Encoding, Fault, Granularity, Group, Header, Limits, Options, Pair, Plan, Precision,
    Schema, encode, from_compact, open, to_compact,
};
use smidgen_link::{Error, KvShape, KvView};
use smidgen_tensor::Device;

use self::heap::{at_most, within};

fn device() -> Device {
    Device::cpu(Ledger::new(), 1)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Makes the checksum of a changed header right again.
fn mend(bytes: &mut [u8]) {
    let end = 112 + 32 * usize::from(u16::from_le_bytes([bytes[28], bytes[29]]));
    let sum = crc32c::crc32c(&bytes[..end]);
    put(bytes, end, &sum.to_le_bytes());
}

/// Headers that claim the largest sizes there are, with right checksums and nothing behind them.
#[test]
fn claims_larger_than_what_is_there_cost_nothing() {
    let reference = wire::reference(1, 2, 2, 8, 12);
    let group = |tokens, precision| Group::new(tokens, Pair::both(precision));
    let groups =
        vec![group(vec![1, 2, 3, 8], Precision::Int8), group(vec![0, 10], Precision::Int6)];
    let plan = Plan { layers_per_block: 1, align8: true, ..Plan::new(2, groups) };
    let bytes = encode(&device(), reference.view(), &plan).unwrap();
    let device = device();
    let read = |bytes: &[u8]| open(&device, bytes, &Options::default()).map(drop);
    read(&bytes).unwrap();
    for (at, claim) in [
        (72, &u32::MAX.to_le_bytes()[..]),
        (72, &(1u32 << 24).to_le_bytes()),
        (84, &1024u16.to_le_bytes()),
        (86, &1024u16.to_le_bytes()),
        (88, &4096u16.to_le_bytes()),
        (16, &(1u64 << 30).to_le_bytes()),
        (16, &u64::MAX.to_le_bytes()),
        (112 + 32 + 20, &u32::MAX.to_le_bytes()),
        (112 + 32 + 16, &u32::MAX.to_le_bytes()),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, claim);
        mend(&mut wrong);
        at_most(16 << 10, || read(&wrong)).unwrap_err();
    }
}

/// A few lines of tokens, made two megabytes of bits, which zstd makes small.
#[test]
fn a_list_of_tokens_that_was_compressed_is_held_once() {
    let seq_len = 1 << 24;
    let shape = KvShape { layers: 1, kv_heads: 1, key_dim: 1, value_dim: 1 };
    let zeros = vec![0.0; seq_len];
    let view = KvView::new(shape, seq_len, &zeros, &zeros).unwrap();
    let tokens: Vec<u32> = (0..20_000u32)
        .map(|i| 838 * i + (i.wrapping_mul(i).wrapping_mul(0x9e37_79b1) >> 16) % 800)
        .collect();
    let group = Group::new(tokens.clone(), Pair::both(Precision::Int8));
    let granularity = Granularity::Tensor;
    let plan = Plan { granularity, note: Some("x".repeat(200_000)), ..Plan::new(1, vec![group]) };
    let plain = encode(&device(), view, &plan).unwrap();
    let header = Header::parse(&plain, &Limits::default()).unwrap();
    let index = header.sections()[0];
    let mut bits = vec![0u8; seq_len / 8];
    tokens.iter().for_each(|token| bits[*token as usize / 8] |= 1 << (token % 8));
    let small = zstd::bulk::compress(&bits, 3).unwrap();

    let (start, end) = (index.offset as usize, index.end() as usize);
    let mut bytes = [&plain[..start], &small[..], &plain[end..]].concat();
    let total = bytes.len() as u64;
    put(&mut bytes, 16, &total.to_le_bytes());
    put(&mut bytes, 112 + 2, &[1, Encoding::Bitmap as u8]);
    put(&mut bytes, 112 + 16, &(small.len() as u32).to_le_bytes());
    put(&mut bytes, 112 + 20, &(bits.len() as u32).to_le_bytes());
    put(&mut bytes, 112 + 24, &crc32c::crc32c(&small).to_le_bytes());
    for (number, entry) in header.sections().iter().enumerate().skip(1) {
        let offset = entry.offset - index.stored_bytes as u64 + small.len() as u64;
        put(&mut bytes, 112 + 32 * number + 8, &offset.to_le_bytes());
    }
    mend(&mut bytes);
    // Twice the list would be more than that.
    assert!(2 * bits.len() > 8 * bytes.len() + (1 << 20));
    let container = within(bytes.len(), || open(&device(), &bytes, &Options::default()).unwrap());
    assert!(container.blocks[0].parts[0].index.tokens().eq(tokens));
}

/// Sixteen groups of a token each, in each of 1024 blocks: a hundred bytes, and 65536 sections.
#[test]
fn a_compact_message_of_too_many_sections_is_refused_before_they_are_listed() {
    let reference = wire::reference(1, 1024, 1, 1, 16);
    let group = Group::new((0..16).collect(), Pair::both(Precision::Int8));
    let plan = Plan { layers_per_block: 1, ..Plan::new(1024, vec![group]) };
    let bytes = encode(&device(), reference.view(), &plan).unwrap();
    let header = Header::parse(&bytes, &Limits::default()).unwrap();
    let schema = Schema::new(&header, &plan.layers, &[Precision::Int8]);
    let made = |message: &[u8]| from_compact(&schema, message, &Limits::default());
    // As many as there may be.
    let message = to_compact(&schema, &bytes).unwrap();
    assert_eq!(header.sections().len(), 4096);
    assert!(within(message.len(), || made(&message)).unwrap() == bytes);

    let mut message = [&[0x57, 0xa1, 1, 0], &schema.id().to_le_bytes()[..]].concat();
    let groups = (0..16).flat_map(|token| [1, 1, Encoding::U16 as u8, 1, token, 0]);
    message.extend([0, 0, 0, 0, 16, 16].into_iter().chain(groups));
    let total = message.len() as u32 + 4;
    put(&mut message, 8, &total.to_le_bytes());
    message.extend(crc32c::crc32c(&message).to_le_bytes());
    let refused = at_most(64 << 10, || made(&message)).unwrap_err();
    let (least, most, got) = (1, 4096, 16 * 4 * 1024);
    assert_eq!(refused.fault, Fault::Range { field: "sections", least, most, got });
}

/// Two bits become 32: that is on the ledger to the byte, and refused before it is made.
#[test]
fn arrays_take_what_the_ledger_has_for_them() {
    let reference = wire::reference(1, 4, 4, 64, 1000);
    let group = Group::new((0..1000).collect(), Pair::both(Precision::Int2));
    let bytes = encode(&device(), reference.view(), &Plan::new(4, vec![group])).unwrap();
    let device = |ledger: &Ledger| Device::cpu(ledger.clone(), 1);
    let container =
        within(bytes.len(), || open(&device(&Ledger::new()), &bytes, &Options::default()).unwrap());
    let dense_bytes = 4 * 2 * 4 * 4 * 64 * 1000;
    assert!(dense_bytes > 8 * bytes.len() + (1 << 20));

    let short = device(&Ledger::limited(dense_bytes - 1));
    let refused = at_most(1 << 10, || container.blocks[0].dense(&short)).unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    let ledger = Ledger::limited(dense_bytes);
    let enough = device(&ledger);
    // A list of its tokens beside it.
    let dense = at_most(dense_bytes + (64 << 10), || container.blocks[0].dense(&enough)).unwrap();
    assert_eq!(ledger.live_bytes(Tag::Kv), dense_bytes);
    drop(dense);
    assert_eq!(ledger.live_bytes(Tag::Kv), 0);
}
