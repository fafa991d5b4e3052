//! The same message compressed, and bound to a schema.

use proptest::prelude::*;
use smidgen_link::KvShape;
use smidgen_link::wire::{
    self, CompactError, Fault, Group, Header, Limits, Options, Pair, Plan, Precision, Schema, Side,
    compact_bytes, decode, encode, from_compact, open, to_compact,
};

use crate::common::{Cache, device, sample};

#[test]
fn compression_keeps_the_values_and_saves_bytes() {
    let shape = KvShape { layers: 2, kv_heads: 2, key_dim: 16, value_dim: 16 };
    let mut cache = Cache::new(shape, 40, 3);
    // Values of few levels, half of them zero.
    cache.values.iter_mut().for_each(|value| *value = (*value * 0.7).round());
    let group = Group::new((4..36).collect(), Pair::both(Precision::Int8));
    let plan = Plan { layers_per_block: 1, ..Plan::new(2, vec![group]) };
    let plain = encode(&device(), cache.view(), &plan).unwrap();
    for align8 in [false, true] {
        let plan = Plan { zstd: Some(3), align8, ..plan.clone() };
        let small = encode(&device(), cache.view(), &plan).unwrap();
        assert!(small.len() < plain.len() * 9 / 10, "{} of {}", small.len(), plain.len());
        let header = Header::parse(&small, &Limits::default()).unwrap();
        assert!(header.sections().iter().any(|entry| entry.compressed));
        assert!(header.sections().iter().any(|entry| !entry.compressed));
        let [one, other] = [&plain, &small].map(|b| decode(&device(), b, &Options::default()));
        for (layer, side) in [(0, Side::Keys), (1, Side::Values)] {
            let (one, other) = (one.as_ref().unwrap(), other.as_ref().unwrap());
            assert_eq!(one.layer(layer, side), other.layer(layer, side));
        }
        for bit in 0..8 * small.len() {
            let mut wrong = small.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&device(), &wrong, &Options::default()).is_err());
        }
    }
}

/// A cap counts what travels.
#[test]
fn a_cap_is_that_of_the_compressed_bytes() {
    let shape = KvShape { layers: 1, kv_heads: 1, key_dim: 64, value_dim: 64 };
    let mut cache = Cache::new(shape, 60, 3);
    cache.keys.fill(0.5);
    let group = Group::new((0..60).collect(), Pair::both(Precision::Int8));
    let mut plan = Plan { zstd: Some(1), ..Plan::new(1, vec![group]) };
    let bytes = encode(&device(), cache.view(), &plan).unwrap().len() as u32;
    assert!(u64::from(bytes) < wire::wire_bytes(shape, 60, &plan).unwrap());
    plan.about.cap = Some(bytes);
    assert!(encode(&device(), cache.view(), &plan).is_ok());
    plan.about.cap = Some(bytes - 1);
    assert!(encode(&device(), cache.view(), &plan).is_err());
}

/// What would become too many times its size stays as it is, so that a careful reader takes it.
#[test]
fn zeros_do_not_become_a_bomb() {
    let shape = KvShape { layers: 1, kv_heads: 8, key_dim: 128, value_dim: 128 };
    let cache =
        Cache { shape, tokens: 2000, keys: vec![0.0; 2000 * 1024], values: vec![0.0; 2000 * 1024] };
    let group = Group::new((0..2000).collect(), Pair::both(Precision::Int8));
    let plan = Plan { zstd: Some(3), ..Plan::new(1, vec![group]) };
    let bytes = encode(&device(), cache.view(), &plan).unwrap();
    assert!(open(&device(), &bytes, &Options::default()).is_ok());
    let header = Header::parse(&bytes, &Limits::default()).unwrap();
    let claimed: u64 = header.sections().iter().map(|entry| u64::from(entry.raw_bytes)).sum();
    assert!(claimed < 8 * bytes.len() as u64 + (1 << 20));
}

fn schema_of(bytes: &[u8], layers: &[u16]) -> Schema {
    let header = Header::parse(bytes, &Limits::default()).unwrap();
    Schema::new(&header, layers, &Precision::all().collect::<Vec<_>>())
}

#[test]
fn a_small_message_needs_thirty_bytes_beside_its_payload() {
    let reference = wire::reference(1, 6, 2, 32, 118);
    let group = Group::new(vec![90, 100], Pair::both(Precision::Int4));
    let plan = Plan::new(6, vec![group]);
    let bytes = encode(&device(), reference.view(), &plan).unwrap();
    let schema = schema_of(&bytes, &plan.layers);
    let small = to_compact(&schema, &bytes).unwrap();
    let payload = 6 * 2 * 2 * 2 * (16 + 2);
    assert_eq!(small.len() - payload, 24);
    assert_eq!(small.len() as u64, compact_bytes(reference.view().shape, 118, &plan).unwrap());
    assert_eq!(bytes.len() - payload, 282);
    assert_eq!(from_compact(&schema, &small, &Limits::default()).unwrap(), bytes);
}

#[test]
fn a_schema_travels_and_has_the_number_of_its_bytes() {
    let reference = wire::reference(1, 6, 2, 32, 40);
    let group = Group::new(vec![3], Pair::both(Precision::Int8));
    let plan = Plan { layers: vec![1, 4], layers_per_block: 1, ..Plan::new(6, vec![group]) };
    let bytes = encode(&device(), reference.view(), &plan).unwrap();
    let schema = schema_of(&bytes, &plan.layers);
    let published = schema.to_bytes();
    let read = Schema::from_bytes(&published, &Limits::default()).unwrap();
    assert_eq!((&read, read.id()), (&schema, schema.id()));
    for bit in 0..8 * published.len() {
        let mut wrong = published.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(Schema::from_bytes(&wrong, &Limits::default()).is_err());
    }
    for len in 0..published.len() {
        assert!(Schema::from_bytes(&published[..len], &Limits::default()).is_err());
    }
    let other = schema_of(&bytes, &[1, 5]);
    assert_ne!(other.id(), schema.id());
    let small = to_compact(&schema, &bytes).unwrap();
    let fault = from_compact(&other, &small, &Limits::default()).unwrap_err().fault;
    assert_eq!(fault, Fault::Schema { expected: other.id(), got: schema.id() });
    assert_eq!(to_compact(&other, &bytes), Err(CompactError::Differs("descriptor")));
    for bit in 0..8 * small.len() {
        let mut wrong = small.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(from_compact(&schema, &wrong, &Limits::default()).is_err());
    }
    for len in 0..small.len() {
        assert!(from_compact(&schema, &small[..len], &Limits::default()).is_err());
    }
}

#[test]
fn what_a_schema_cannot_say_is_named() {
    let reference = wire::reference(1, 2, 1, 4, 9);
    let plan = Plan::new(2, vec![Group::new(vec![3, 5], Pair::both(Precision::Int8))]);
    let plain = encode(&device(), reference.view(), &plan).unwrap();
    let schema = schema_of(&plain, &plan.layers);
    let differs = |plan: Plan| {
        let bytes = encode(&device(), reference.view(), &plan).unwrap();
        to_compact(&schema, &bytes).unwrap_err().to_string()
    };
    let mut named = plan.clone();
    named.about.message[0] = 1;
    assert!(differs(named).starts_with("`message, prompt, cap or advisory flags`"));
    assert!(differs(Plan { note: Some("x".into()), ..plan.clone() }).starts_with("`note`"));
    assert!(differs(Plan { align8: true, ..plan.clone() }).starts_with("`descriptor`"));
    let only_int4 = Schema::new(
        &Header::parse(&plain, &Limits::default()).unwrap(),
        &plan.layers,
        &[Precision::Int4],
    );
    assert_eq!(to_compact(&only_int4, &plain), Err(CompactError::Differs("precision")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_container_that_a_schema_can_say_comes_back((cache, plan) in sample()) {
        let Ok(bytes) = encode(&device(), cache.view(), &plan) else { return Ok(()) };
        let schema = schema_of(&bytes, &plan.layers);
        let Ok(small) = to_compact(&schema, &bytes) else { return Ok(()) };
        prop_assert_eq!(
            small.len() as u64,
            compact_bytes(cache.shape, cache.tokens, &plan).unwrap()
        );
        prop_assert_eq!(from_compact(&schema, &small, &Limits::default()).unwrap(), bytes);
    }
}
