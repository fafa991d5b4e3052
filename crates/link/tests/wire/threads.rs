//! The same bytes and values for any number of threads and at every kernel level.

use smidgen_codec::Ledger;
use smidgen_link::KvShape;
use smidgen_link::wire::{Group, Pair, Plan, Precision, Side, decode, encode, open};
use smidgen_tensor::{Device, Level};

use crate::common::Cache;

#[test]
fn threads_and_levels_change_nothing() {
    let shape = KvShape { layers: 3, kv_heads: 4, key_dim: 64, value_dim: 32 };
    let cache = Cache::new(shape, 700, 5);
    for granularity in ["tensor", "layer", "head", "block", "group/16", "group/24", "channel/32"] {
        let granularity = granularity.parse().unwrap();
        for precision in Precision::all() {
            let tokens = (0..700).filter(|token| token % 5 != 3).collect();
            let groups = vec![Group::new(tokens, Pair::both(precision))];
            let plan = Plan { granularity, ..Plan::new(3, groups) };
            let plain = Device::cpu_at(Ledger::new(), 1, Level::Portable);
            let bytes = encode(&plain, cache.view(), &plan).unwrap();
            let expected = decode(&plain, &bytes, &Default::default()).unwrap();
            for level in Level::available() {
                for threads in [1, 2, 4] {
                    let device = Device::cpu_at(Ledger::new(), threads, level);
                    let ours = encode(&device, cache.view(), &plan).unwrap();
                    assert!(ours == bytes, "{precision} {granularity} {level:?} {threads}");
                    let back = decode(&device, &bytes, &Default::default()).unwrap();
                    for side in Side::BOTH {
                        assert_eq!(back.layer(2, side), expected.layer(2, side), "{precision}");
                    }
                }
            }
        }
    }
}

/// Room that no cache holds is written past them, with rows that end anywhere in a line.
#[test]
fn what_is_too_large_for_the_caches_decodes_to_the_same_values() {
    let shape = KvShape { layers: 1, kv_heads: 3, key_dim: 57, value_dim: 1 };
    let cache = Cache::new(shape, 49_500, 5);
    let group = Group::new((0..49_500).collect(), Pair::both(Precision::Int8));
    let device = Device::cpu(Ledger::new(), 2);
    let bytes = encode(&device, cache.view(), &Plan::new(1, vec![group])).unwrap();
    let new = decode(&device, &bytes, &Default::default()).unwrap();
    let container = open(&device, &bytes, &Default::default()).unwrap();
    let codes = container.blocks[0].parts[0].keys.as_ref().unwrap();
    let mut room = vec![f32::NAN; codes.len() + 1];
    assert!(4 * codes.len() > 32 << 20);
    codes.decode_into(&device, &mut room[1..]);
    assert!(room[1..] == *new.layer(0, Side::Keys).unwrap().values);
}
