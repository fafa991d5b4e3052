//! There and back: sizes, errors, and the same bytes again.

use proptest::prelude::*;
use smidgen_link::wire::{
    self, EncodeError, Granularity, Group, Pair, PerBlock, Plan, Precision, ScaleType, Side,
    decode, encode, wire_bytes,
};
use smidgen_link::{KvShape, KvView};

use crate::common::{Cache, device, replaced, sample};

/// How far a value may come back from where it was, for values of at most `size` together.
fn bound(precision: Precision, scale: ScaleType, asymmetric: bool, size: f32) -> f32 {
    let top = match precision {
        Precision::Int8 => 127.0,
        Precision::Int6 => 31.0,
        Precision::Int4 => 7.0,
        Precision::Int2 => 1.0,
        Precision::Nf4 => 1.0,
        Precision::E4M3 => 448.0,
        Precision::E5M2 => 57344.0,
        Precision::F16 => return size * 5e-4 + 3e-8,
        Precision::Bf16 => return size * 4e-3,
        Precision::F32 => return 0.0,
    };
    let rounded = match precision {
        Precision::Nf4 => size * 0.16,
        Precision::E4M3 => size * 0.04,
        Precision::E5M2 => size * 0.08,
        // With a zero point the range is that of both signs, and 0 is rounded too.
        _ if asymmetric => 2.0 * size / (2.0 * top + 1.0) * 1.01,
        _ => size / top / 2.0 * 1.01,
    };
    // What the rounding of the scale takes from the largest; a step of subnormal scales is 2^-24.
    let clip = match scale {
        ScaleType::F16 => size / 1024.0 + top * 2f32.powi(-24),
        ScaleType::Bf16 => size / 128.0,
        ScaleType::F32 => size * 1e-6,
    };
    rounded + 2.0 * clip
}

/// The largest size of the values that share a scale with one, at most.
fn size_around(cache: &Cache, plan: &Plan, side: Side, layer: usize, token: u32) -> f32 {
    let (values, row) = match side {
        Side::Keys => (&cache.keys, cache.shape.key_row()),
        Side::Values => (&cache.values, cache.shape.value_row()),
    };
    let of_token = &values[(layer * cache.tokens + token as usize) * row..][..row];
    let wide = match plan.granularity {
        Granularity::Block | Granularity::Group(_) => of_token,
        Granularity::Channel(_) if side == Side::Values => of_token,
        _ => &values[..],
    };
    wide.iter().fold(0.0, |size, value| size.max(value.abs()))
}

fn check(cache: &Cache, plan: &Plan) -> Result<(), TestCaseError> {
    let size = wire_bytes(cache.shape, cache.tokens, plan);
    let bytes = match encode(&device(), cache.view(), plan) {
        Ok(bytes) => bytes,
        // A plan in which nothing travels.
        Err(error) => {
            prop_assert!(matches!(error, EncodeError::Plan { .. }), "{}", error);
            prop_assert_eq!(size.unwrap_err(), error);
            return Ok(());
        }
    };
    prop_assert_eq!(bytes.len() as u64, size.unwrap());
    let payload = decode(&device(), &bytes, &Default::default()).unwrap();
    prop_assert_eq!(&payload.layers, &plan.layers);
    for (place, layer) in plan.layers.iter().enumerate() {
        for side in Side::BOTH {
            check_layer(cache, plan, &payload, place / plan.layers_per_block, *layer, side)?;
        }
    }
    Ok(())
}

fn check_layer(
    cache: &Cache,
    plan: &Plan,
    payload: &wire::Payload,
    block: usize,
    layer: u16,
    side: Side,
) -> Result<(), TestCaseError> {
    let of_side = |group: &Group| {
        let pair = group.precision.of(block);
        if side == Side::Keys { pair.keys } else { pair.values }
    };
    let sent: Vec<(u32, Precision)> = {
        let groups = plan.groups.iter().filter_map(|group| Some((group, of_side(group)?)));
        let tokens = groups.flat_map(|(group, precision)| {
            group.tokens.of(block).iter().map(move |token| (*token, precision))
        });
        let mut sent: Vec<_> = tokens.collect();
        sent.sort_by_key(|(token, _)| *token);
        sent
    };
    let Some(rows) = payload.layer(layer, side) else {
        prop_assert!(sent.is_empty());
        return Ok(());
    };
    prop_assert!(rows.tokens.iter().eq(sent.iter().map(|(token, _)| token)));
    let view = cache.view();
    let mut received = rows.values.chunks_exact(rows.values.len() / plan.batch / sent.len());
    for batch in 0..plan.batch {
        let plane = usize::from(layer) * plan.batch + batch;
        for (token, precision) in &sent {
            let row = match side {
                Side::Keys => view.key(plane, *token as usize),
                Side::Values => view.value(plane, *token as usize),
            };
            let size = size_around(cache, plan, side, plane, *token);
            let asymmetric = plan.asymmetric && precision.is_integer();
            let bound = bound(*precision, plan.scale, asymmetric, size);
            for (got, value) in received.next().unwrap().iter().zip(row) {
                let far = (got - value).abs();
                prop_assert!(far <= bound, "{} for {}: {} > {}", got, value, far, bound);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_container_has_its_size_and_brings_everything_back((cache, plan) in sample()) {
        check(&cache, &plan)?;
    }

    /// What was received is sent again as it came: the quantiser changes nothing that it made itself.
    ///
    /// With bf16 scales: f16 ones may be subnormal and f32 ones one bit beside, and a zero point
    /// comes out otherwise where codes do not reach both ends.
    #[test]
    fn the_same_bytes_come_out_of_what_was_received((cache, plan) in sample()) {
        let plan = Plan { scale: ScaleType::Bf16, asymmetric: false, ..plan };
        let Ok(bytes) = encode(&device(), cache.view(), &plan) else { return Ok(()) };
        let payload = decode(&device(), &bytes, &Default::default()).unwrap();
        let again = replaced(&cache, &payload);
        prop_assert_eq!(encode(&device(), again.view(), &plan).unwrap(), bytes);
    }
}

#[test]
fn what_cannot_be_coded_is_named_with_its_place() {
    let cache = Cache::new(KvShape { layers: 3, kv_heads: 2, key_dim: 4, value_dim: 4 }, 5, 0);
    let group = |precision| Group::new(vec![1, 2, 4], Pair::both(precision));
    let error = |place: usize, value: f32, precision, granularity| {
        let mut cache = cache.clone();
        cache.values[place] = value;
        let plan = Plan { granularity, ..Plan::new(3, vec![group(precision)]) };
        encode(&device(), cache.view(), &plan).map(drop).map_err(|error| error.to_string())
    };
    // Layer 1, token 2, head 1, element 3.
    let place = ((5 + 2) * 2 + 1) * 4 + 3;
    for granularity in ["tensor", "layer", "head", "block", "group/2", "channel/2"] {
        let granularity = granularity.parse().unwrap();
        for precision in Precision::all() {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let message = error(place, value, precision, granularity).unwrap_err();
                let expected = format!(
                    "value of layer 1, token 2, head 1, element 3: {value} is no finite number"
                );
                assert_eq!(message, expected, "{precision} {granularity}");
            }
        }
    }
    // Token 3 is not sent, whatever it holds.
    assert_eq!(error(place + 8, f32::NAN, Precision::Int8, Granularity::Block), Ok(()));
    let message = error(place, 1e6, Precision::F16, Granularity::Block).unwrap_err();
    assert!(message.ends_with("1000000 is too large for f16 and its scale"), "{message}");
    assert!(error(place, 1e6, Precision::Int8, Granularity::Block).is_ok());
    assert!(
        error(place, 1e8, Precision::Int8, Granularity::Head).unwrap_err().contains("100000000")
    );
}

#[test]
fn scales_never_vanish_and_zeros_have_none() {
    let device = device();
    for (size, expected) in [(1e-12, 2f32.powi(-24)), (0.0, 0.0)] {
        let keys = [size; 8];
        let shape = KvShape { layers: 1, kv_heads: 1, key_dim: 8, value_dim: 8 };
        let view = KvView::new(shape, 1, &keys, &[0.0; 8]).unwrap();
        let plan = Plan::new(1, vec![Group::new(vec![0], Pair::both(Precision::Int8))]);
        let bytes = encode(&device, view, &plan).unwrap();
        let scale = &bytes[bytes.len() - 8 - 2 - 2..][..2];
        assert_eq!(half::f16::from_le_bytes([scale[0], scale[1]]).to_f32(), expected);
    }
}

#[test]
fn plans_that_cannot_be_say_why() {
    let cache = Cache::new(KvShape { layers: 3, kv_heads: 1, key_dim: 4, value_dim: 4 }, 5, 0);
    let plan = Plan::new(3, vec![Group::new(vec![1, 2], Pair::both(Precision::Int8))]);
    let other = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        encode(&device(), cache.view(), &plan).unwrap_err().to_string()
    };
    let none = Pair { keys: None, values: None };
    let group = |tokens: Vec<u32>| Group::new(tokens, Pair::both(Precision::Int4));
    type Case<'a> = (&'a dyn Fn(&mut Plan), &'a str);
    let cases: [Case<'_>; 12] = [
        (&|p| p.layers = vec![1, 1], "`layers`: expected increasing below 3, got [1, 1]"),
        (&|p| p.layers = vec![0, 3], "`layers`: expected increasing below 3"),
        (&|p| p.layers.clear(), "`layers`: expected 1 to 3, got 0"),
        (&|p| p.layers_per_block = 4, "`layers_per_block`: expected 1 to 3, got 4"),
        (&|p| p.groups.clear(), "`groups`: expected 1 to 16, got 0"),
        (&|p| p.groups[0] = group(vec![2, 1]), "`tokens`: expected indices that increase below 5"),
        (
            &|p| p.groups[0] = group(vec![5]),
            "`tokens`: expected indices that increase below 5, got 5",
        ),
        (&|p| p.groups[0] = group(vec![]), "`groups`: expected tokens with keys or values"),
        (&|p| p.groups.push(group(vec![2])), "`tokens`: expected no token in two groups, got 2"),
        (&|p| p.groups[0].precision = PerBlock::Same(none), "`groups`: expected tokens with keys"),
        (&|p| p.batch = 2, "`layers of the cache`: expected a multiple of 2 sequences, got 3"),
        (&|p| p.about.rope_theta = f32::NAN, "`rope_theta`"),
    ];
    for (change, message) in cases {
        let got = other(change);
        assert!(got.contains(message), "expected `{message}`, got `{got}`");
    }
    let bytes = wire_bytes(cache.shape, 5, &plan).unwrap();
    let message = other(&|p| p.about.cap = Some(bytes as u32 - 1));
    assert_eq!(message, format!("cap of {} bytes, the container has {bytes}", bytes - 1));
    let fits = {
        let mut plan = plan.clone();
        plan.about.cap = Some(bytes as u32);
        encode(&device(), cache.view(), &plan).unwrap().len() as u64
    };
    assert_eq!(fits, bytes);
}

/// Closed gates: of one layer only keys, of another only values.
#[test]
fn keys_or_values_alone_travel() {
    let shape = KvShape { layers: 3, kv_heads: 2, key_dim: 8, value_dim: 6 };
    let cache = Cache::new(shape, 6, 1);
    let both = Pair::both(Precision::Int8);
    let pairs = vec![Pair { values: None, ..both }, Pair { keys: None, ..both }, both];
    let group = Group { tokens: PerBlock::Same(vec![0, 2, 3]), precision: PerBlock::Each(pairs) };
    let plan = Plan { layers_per_block: 1, ..Plan::new(3, vec![group]) };
    let bytes = encode(&device(), cache.view(), &plan).unwrap();
    assert_eq!(bytes.len() as u64, wire_bytes(shape, 6, &plan).unwrap());
    assert_eq!(bytes[10], 1, "minor version");
    let payload = decode(&device(), &bytes, &Default::default()).unwrap();
    let there = |layer, side| payload.layer(layer, side).is_some();
    assert!(there(0, Side::Keys) && !there(0, Side::Values));
    assert!(!there(1, Side::Keys) && there(1, Side::Values));
    assert!(there(2, Side::Keys) && there(2, Side::Values));
    // Version 1.0 may not leave them out.
    let mut old = bytes.clone();
    old[10] = 0;
    let end = u32::from_le_bytes(old[12..16].try_into().unwrap()) as usize - 8;
    let sum = crc32c::crc32c(&old[..end]);
    old[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    let error = decode(&device(), &old, &Default::default()).unwrap_err().to_string();
    assert_eq!(error, "section `none` where `payload-k` has to be, at byte 112");
}
