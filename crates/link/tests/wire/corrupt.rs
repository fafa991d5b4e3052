//! Bytes that are wrong: each is refused with its reason and place, and nothing is believed.

use smidgen_link::wire::{
    self, EncodeError, Fault, Granularity, Group, Header, IndexFault, Kind, Limits, Options, Pair,
    Plan, Precision, Reader, ScaleType, Side, WireError, encode, open,
};

use crate::common::device;

fn sample() -> Vec<u8> {
    let reference = wire::reference(1, 2, 2, 8, 12);
    let mixed = Pair { keys: Some(Precision::Int8), values: Some(Precision::Nf4) };
    let groups = vec![
        Group::new(vec![1, 2, 3, 8], mixed),
        Group::new(vec![0, 10], Pair::both(Precision::Int6)),
    ];
    let plan = Plan { layers_per_block: 1, align8: true, ..Plan::new(2, groups) };
    let plan = Plan { note: Some("a note".into()), asymmetric: true, ..plan };
    encode(&device(), reference.view(), &plan).unwrap()
}

fn fault(bytes: &[u8]) -> WireError {
    open(&device(), bytes, &Options::default()).map(drop).unwrap_err()
}

/// Makes the checksums of a changed container right again.
fn mend(bytes: &mut [u8]) {
    let u32_at = |b: &[u8], at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let sections = u16::from_le_bytes(bytes[28..30].try_into().unwrap()) as usize;
    for entry in (0..sections).map(|number| 112 + 32 * number) {
        let start = u32_at(bytes, entry + 8) as usize;
        let end = start + u32_at(bytes, entry + 16) as usize;
        let sum = crc32c::crc32c(&bytes[start..end]);
        bytes[entry + 24..entry + 28].copy_from_slice(&sum.to_le_bytes());
    }
    let at = 112 + 32 * sections;
    let sum = crc32c::crc32c(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = sample();
    open(&device(), &bytes, &Options::default()).unwrap();
    for bit in 0..8 * bytes.len() {
        let mut wrong = bytes.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        fault(&wrong);
    }
}

#[test]
fn what_is_cut_off_or_goes_on_is_found() {
    let bytes = sample();
    for len in 0..bytes.len() {
        let error = fault(&bytes[..len]);
        assert!(matches!(error.fault, Fault::Truncated { .. }), "{len}: {error}");
        assert_eq!(error.offset, len as u64);
    }
    let longer = [&bytes[..], &[0]].concat();
    let (expected, got) = (bytes.len() as u64, longer.len() as u64);
    assert_eq!(
        fault(&longer),
        WireError { offset: expected, fault: Fault::Trailing { expected, got } }
    );
}

/// Each change with right checksums, and what is said to it.
#[test]
fn what_a_checksum_does_not_find_is_found_by_its_meaning() {
    let bytes = sample();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let entry = |number: usize| 112 + 32 * number;
    let section = |number: usize| u32_at(entry(number) + 8) as usize;
    // Group 0: index, keys, their scales, values, their scales, zero points of keys.
    let cases = [
        (0, 0, "no container: the first bytes are not those of KVW, at byte 0"),
        (8, 2, "`major`: expected version 1, got 2, at byte 8"),
        (24, 0x10, "`reserved flags`: expected 0, got 16, at byte 24"),
        (28, 0, "`sections`: expected 1 to 4096, got 0, at byte 28"),
        (30, 65, "`descriptor bytes`: expected 64 to 64, got 65, at byte 30"),
        (12, 1, "`header bytes`: expected "),
        (16, 1, "`container bytes`: expected "),
        (72, 0, "`tokens of the sequence`: expected 1 to 16777216, got 0, at byte 72"),
        (76, 13, "`tokens sent`: expected 1 to 12, got 13, at byte 76"),
        (76, 5, "`tokens sent`: expected 6, got 5, at byte 76"),
        (80, 3, "`layers sent`: expected 1 to 2, got 3, at byte 80"),
        (84, 0, "`batch`: expected 1 to 1024, got 0, at byte 84"),
        (86, 0, "`kv heads`: expected 1 to 1024, got 0, at byte 86"),
        (88, 0, "`elements of a key`: expected 1 to 4096, got 0, at byte 88"),
        (92, 2, "`token space`: 2 stands for nothing, at byte 92"),
        (93, 3, "`key space`: 3 stands for nothing, at byte 93"),
        (94, 3, "`scale type`: 3 stands for nothing, at byte 94"),
        (95, 4, "`granularity`: 4 stands for nothing, at byte 95"),
        (98, 17, "`groups`: expected 1 to 16, got 17, at byte 98"),
        (98, 1, "`group`: expected 0 to 0, got 1"),
        (99, 2, "`round`: expected 0 to 1, got 2, at byte 99"),
        (103, 0xff, "`rope_theta`: expected a finite number from 0 on, at byte 100"),
        (108, 3, "`layers per block`: expected 1 to 2, got 3, at byte 108"),
        (entry(0), 9, "section `calib` where `payload-k` has to be, at byte 112"),
        (entry(0), 3, "`position`: 65535 stands for nothing, at byte 116"),
        (entry(0) + 3, 7, "`index encoding`: 7 stands for nothing, at byte 115"),
        (entry(1) + 2, 2, "`codec`: 2 stands for nothing, at byte 146"),
        (entry(1) + 3, 11, "`precision`: 11 stands for nothing, at byte 147"),
        (entry(1) + 4, 1, "has to be"),
        (entry(1) + 6, 2, "`group`: expected 0 to 1, got 2, at byte 150"),
        (entry(1) + 8, 1, "`offset`: expected "),
        (entry(1) + 20, 65, "bytes of section `payload-k`: expected 64, got 65, at byte 164"),
        (entry(2) + 20, 1, "bytes of section `scale-k`: expected 16, got 1, at byte 196"),
        (entry(1) + 28, 1, "`reserved`: expected 0, got 1, at byte 172"),
        (section(0), 0xff, "token indices: "),
        (
            section(2) + 1,
            0x80,
            "a scale is not a finite number from 0 on, or a code times it is not finite, at byte ",
        ),
        (
            section(2) + 1,
            0x7c,
            "a scale is not a finite number from 0 on, or a code times it is not finite, at byte ",
        ),
    ];
    let mut others = Vec::new();
    for (at, value, message) in cases {
        let mut wrong = bytes.clone();
        assert_ne!(wrong[at], value, "byte {at} is so already");
        wrong[at] = value;
        // These say where checksums lie.
        if ![12, 28, 30].contains(&at) {
            mend(&mut wrong);
        }
        let error = fault(&wrong).to_string();
        if !error.contains(message) {
            others.push(format!("byte {at}: expected `{message}`, got `{error}`"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

fn of_one_token(precision: Precision, keys: [f32; 3]) -> Vec<u8> {
    let shape = smidgen_link::KvShape { layers: 1, kv_heads: 1, key_dim: 3, value_dim: 3 };
    let view = smidgen_link::KvView::new(shape, 1, &keys, &[1.0; 3]).unwrap();
    let plan = Plan::new(1, vec![Group::new(vec![0], Pair::both(precision))]);
    encode(&device(), view, &plan).unwrap()
}

/// Codes no encoder makes: refused, or let pass by a lenient reader where they have a value.
#[test]
fn codes_that_nobody_makes() {
    // No index, so the first section is that of keys.
    let at = 112 + 32 * 4 + 8;
    let lenient = Options { lenient: true, ..Options::default() };
    for (precision, keys, byte, value, row, lets_pass) in [
        (Precision::Int8, [1.0; 3], 1, 0x80, "a code that no encoder makes", true),
        (Precision::Int4, [1.0; 3], 0, 0x87, "a code that no encoder makes", true),
        (Precision::Int4, [1.0; 3], 1, 0x17, "spare bits of a row are not zero", false),
        (Precision::Nf4, [1.0; 3], 1, 0x1f, "spare bits of a row are not zero", false),
        (Precision::Int6, [1.0; 3], 2, 0xff, "spare bits of a row are not zero", false),
        (Precision::Int8, [0.0; 3], 2, 1, "a code other than that of 0 under a scale of 0", false),
        (
            Precision::Nf4,
            [0.0; 3],
            0,
            0x78,
            "a code other than that of 0 under a scale of 0",
            false,
        ),
        (Precision::E4M3, [1.0; 3], 1, 0xff, "an element that is no finite number", false),
        (Precision::E5M2, [1.0; 3], 2, 0x7c, "an element that is no finite number", false),
    ] {
        let mut bytes = of_one_token(precision, keys);
        open(&device(), &bytes, &Options::default()).unwrap();
        bytes[at + byte] = value;
        mend(&mut bytes);
        let error = fault(&bytes);
        assert_eq!((error.offset, error.fault.to_string()), (at as u64, row.to_string()));
        assert_eq!(open(&device(), &bytes, &lenient).is_ok(), lets_pass, "{precision} {row}");
    }
    let shape = smidgen_link::KvShape { layers: 1, kv_heads: 1, key_dim: 1, value_dim: 1 };
    for (precision, infinity) in [
        (Precision::F16, &[0x00, 0x7c][..]),
        (Precision::Bf16, &[0x80, 0xff]),
        (Precision::F32, &[0, 0, 0xc0, 0x7f]),
    ] {
        let view = smidgen_link::KvView::new(shape, 1, &[1.0], &[1.0]).unwrap();
        let plan = Plan::new(1, vec![Group::new(vec![0], Pair::both(precision))]);
        let mut bytes = encode(&device(), view, &plan).unwrap();
        let end = bytes.len();
        bytes[end - infinity.len()..].copy_from_slice(infinity);
        mend(&mut bytes);
        assert!(fault(&bytes).to_string().starts_with("an element that is no finite number"));
    }
}

/// A finite scale under which the largest code is none: nobody makes it, and nobody takes it.
#[test]
fn no_scale_makes_a_code_infinite() {
    let shape = smidgen_link::KvShape { layers: 1, kv_heads: 1, key_dim: 4, value_dim: 4 };
    let scaled = || Precision::all().filter(|precision| precision.is_scaled());
    let granularities = ["block", "tensor", "group/2", "channel/1"];
    for (precision, granularity) in scaled().flat_map(|p| granularities.map(|g| (p, g))) {
        for (scale, asymmetric) in ScaleType::ALL.into_iter().flat_map(|s| [(s, false), (s, true)])
        {
            let group = Group::new(vec![0], Pair::both(precision));
            let granularity = granularity.parse().unwrap();
            let plan = Plan { scale, asymmetric, granularity, ..Plan::new(1, vec![group]) };
            let made = |size: f32| {
                let keys = [size, -size, size * 0.3, 0.0];
                let view = smidgen_link::KvView::new(shape, 1, &keys, &[1.0; 4]).unwrap();
                encode(&device(), view, &plan)
            };
            let mut taken = 0;
            for size in [1.0, 0.25, 0.3, 0.5, 0.9, 0.97, 0.99, 0.999, 1.0 - 1e-6, 1.0] {
                let size = f32::MAX * size;
                let Ok(bytes) = made(size) else {
                    let error = made(size).unwrap_err();
                    assert!(matches!(error, EncodeError::TooLarge { .. }), "{error}");
                    continue;
                };
                let payload = wire::decode(&device(), &bytes, &Options::default()).unwrap();
                let keys = payload.layer(0, Side::Keys).unwrap().values;
                assert!(keys.iter().all(|key| key.is_finite()), "{precision} {granularity}");
                taken += 1;
            }
            assert_eq!(taken > 0, scale != ScaleType::F16, "{precision} {scale:?} {asymmetric}");

            let mut bytes = made(1.0).unwrap();
            let header = Header::parse(&bytes, &Limits::default()).unwrap();
            let scales = header.sections().iter().find(|entry| entry.kind == Kind::ScaleK).unwrap();
            let largest: &[u8] = match scale {
                ScaleType::F16 => &[0xff, 0x7b],
                ScaleType::Bf16 => &[0x7f, 0x7f],
                ScaleType::F32 => &[0xff, 0xff, 0x7f, 0x7f],
            };
            let at = scales.offset as usize;
            bytes[at..at + largest.len()].copy_from_slice(largest);
            mend(&mut bytes);
            let harmless = scale == ScaleType::F16 || precision == Precision::Nf4;
            // Signed int2 has no code but -1, 0 and 1.
            let harmless = harmless || precision == Precision::Int2 && !asymmetric;
            if harmless {
                open(&device(), &bytes, &Options::default()).unwrap();
            } else {
                let error = fault(&bytes);
                assert_eq!((error.offset, error.fault), (scales.offset, Fault::Scale));
            }
        }
    }
}

#[test]
fn lists_of_two_groups_may_not_meet() {
    let reference = wire::reference(1, 1, 1, 2, 300);
    let group = |tokens: &[u32]| Group::new(tokens.to_vec(), Pair::both(Precision::Int8));
    let plan = Plan::new(1, vec![group(&[290]), group(&[291])]);
    let bytes = encode(&device(), reference.view(), &plan).unwrap();
    // Both lists are one u16; the second one's is made that of the first.
    let second = bytes.windows(2).rposition(|two| two == 291u16.to_le_bytes()).unwrap();
    let mut wrong = bytes;
    wrong[second..second + 2].copy_from_slice(&290u16.to_le_bytes());
    mend(&mut wrong);
    assert_eq!(fault(&wrong).fault, Fault::Index(IndexFault::Overlap));
}

#[test]
fn blocks_come_in_order_and_whole() {
    let bytes = sample();
    let header = Header::parse(&bytes, &Default::default()).unwrap();
    let first: [u8; 48] = bytes[..48].try_into().unwrap();
    assert_eq!(Header::bytes_needed(&first).unwrap(), header.header_bytes());
    assert_eq!(
        Header::parse(&bytes[..header.header_bytes()], &Default::default()).unwrap(),
        header
    );
    assert_eq!(header.blocks(), 2);
    let device = device();
    let slice = |block: usize| {
        let range = header.block_bytes(block);
        &bytes[range.start as usize..range.end as usize]
    };
    let reader = || Reader::new(header.clone(), &Options::default());
    let mut whole = reader();
    let mut layers = Vec::new();
    while let Some((number, range)) = whole.next_block() {
        assert_eq!(range, header.block_bytes(number));
        let block = whole.block(&device, number, slice(number)).unwrap();
        layers.extend(block.layers);
        assert_eq!(block.parts.len(), 2);
    }
    assert_eq!((layers, whole.note()), (vec![0, 1], Some("a note")));
    let error = reader().block(&device, 1, slice(1)).map(drop).unwrap_err();
    assert_eq!(error.fault, Fault::Order { expected: 0, got: 1 });
    let mut twice = reader();
    twice.block(&device, 0, slice(0)).unwrap();
    assert!(twice.block(&device, 0, slice(0)).is_err());
    assert!(matches!(
        reader().block(&device, 0, &slice(0)[1..]).map(drop).unwrap_err().fault,
        Fault::Truncated { .. }
    ));
    // After an error there is no going on.
    let mut broken = slice(0).to_vec();
    broken[1] ^= 1;
    let mut reader = reader();
    assert!(reader.block(&device, 0, &broken).is_err());
    assert!(reader.next_block().is_none() && reader.block(&device, 1, slice(1)).is_err());
}

#[test]
fn a_container_for_somebody_else_is_refused_by_field() {
    let bytes = sample();
    let header = Header::parse(&bytes, &Default::default()).unwrap();
    let expected = wire::Expected {
        shape: header.shape(),
        seq_len: 12,
        batch: 1,
        about: wire::About { sharer: [1; 8], ..header.about },
    };
    assert_eq!(header.check(&expected), Ok(()), "zeros say nothing");
    let other = |change: &dyn Fn(&mut wire::Expected)| {
        let mut expected = expected.clone();
        change(&mut expected);
        header.check(&expected).unwrap_err().to_string()
    };
    assert_eq!(other(&|e| e.shape.layers = 3), "`layers of the sharer`: expected 3, got 2");
    assert_eq!(other(&|e| e.shape.key_dim = 9), "`elements of a key`: expected 9, got 8");
    assert_eq!(other(&|e| e.seq_len = 13), "`tokens of the sequence`: expected 13, got 12");
    assert_eq!(other(&|e| e.about.rope_theta = 5e5), "`rope theta`: expected 500000, got 10000");
    assert_eq!(
        other(&|e| e.about.keys = wire::KeySpace::PreRope),
        "`key space`: expected pre-rope, got post-rope"
    );
    let reference = wire::reference(1, 2, 2, 8, 12);
    let group = Group::new(vec![1], Pair::both(Precision::Int8));
    let mut plan = Plan { granularity: Granularity::Head, ..Plan::new(2, vec![group]) };
    plan.about.sharer = [2; 8];
    let bytes = encode(&device(), reference.view(), &plan).unwrap();
    let header = Header::parse(&bytes, &Default::default()).unwrap();
    assert_eq!(
        header.check(&expected).unwrap_err().to_string(),
        "`sharer`: expected 0101010101010101, got 0202020202020202"
    );
}
