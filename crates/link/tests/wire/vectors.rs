//! Containers that an independent program made from the same data, to the byte.

use sha2::{Digest, Sha256};
use smidgen_link::wire::{self, Group, Pair, Plan, Precision, encode};
use smidgen_link::{KvShape, KvView};

use crate::common::{Cache, device, replaced};

/// Name, bytes, CRC32C of the whole, SHA-256 of the whole.
type Vector = (&'static str, usize, u32, &'static str);

const R1: &str = "\
    894b56570d0a1a0a010000001801000031010000000000000000000005004000\
    0000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000030000000200000001000100010001000400040000000003\
    0000010000401c46ffffffff0100000002000003ffff00001801000000000000\
    01000000010000004d478c670000000003000001000000001901000000000000\
    0800000008000000654eb13d0000000004000000000000002101000000000000\
    04000000040000007dbc3b140000000005000001000000002501000000000000\
    08000000080000002f83f7e70000000006000000000000002d01000000000000\
    0400000004000000a106cef50000000011ba63fe0000000005408120000bfb7f\
    8108240c2600000000817f2aab00000820";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn check((name, len, crc, sha): Vector, view: KvView<'_>, plan: &Plan) -> Vec<u8> {
    let bytes = encode(&device(), view, plan).unwrap();
    assert_eq!(bytes.len(), len, "{name}");
    assert_eq!(crc32c::crc32c(&bytes), crc, "{name}");
    assert_eq!(hex(&Sha256::digest(&bytes)), sha, "{name}");
    assert_eq!(wire::wire_bytes(view.shape, view.tokens, plan).unwrap(), len as u64);
    let payload = wire::decode(&device(), &bytes, &Default::default()).unwrap();
    let (keys, values) = (view.keys.to_vec(), view.values.to_vec());
    let cache = Cache { shape: view.shape, tokens: view.tokens, keys, values };
    let again = replaced(&cache, &payload);
    assert!(encode(&device(), again.view(), plan).unwrap() == bytes, "{name}: again");
    bytes
}

/// The data of R1; its token 1 is not sent.
fn tiny() -> (Vec<f32>, Vec<f32>) {
    let keys = [1.0, -2.0, 0.5, 0.0, 9.0, 9.0, 9.0, 9.0, 0.25, -0.125, 3.0, -3.0];
    let values = [0.0, 0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0, -1.0, 1.0, 0.333_007_8, -0.666_992_2];
    (keys.to_vec(), values.to_vec())
}

#[test]
fn r1_and_r1b_of_given_numbers() {
    let (keys, values) = tiny();
    let shape = KvShape { layers: 1, kv_heads: 1, key_dim: 4, value_dim: 4 };
    let view = KvView::new(shape, 3, &keys, &values).unwrap();
    let plan = |precision| Plan::new(1, vec![Group::new(vec![0, 2], Pair::both(precision))]);
    let r1 = (
        "R1",
        305,
        0x388a_07a4,
        "ad02356f9db57c24b9e44fa1b89806c91566053afd979cb78c2190cb09c8856c",
    );
    assert_eq!(hex(&check(r1, view, &plan(Precision::Int8))), R1);
    let r1b = (
        "R1b",
        297,
        0xacd3_061c,
        "efe134d527cf0377f4f59e3d98b04bc6fcc741da75c7a640523c5ad7f1c1981c",
    );
    check(r1b, view, &plan(Precision::Int4));
}

#[test]
fn r2_to_r6_of_the_generator() {
    let reference = wire::reference(1, 2, 2, 32, 40);
    let view = reference.view();
    let both = |tokens: Vec<u32>, precision| Group::new(tokens, Pair::both(precision));
    let r2 = (
        "R2",
        11128,
        0xc9cb_6723,
        "7f21d6669b4e549dca44c69d6ae9e67bccbcf0bc5254ef7b8e4731b67ec9c980",
    );
    check(r2, view, &Plan::new(2, vec![both((0..40).collect(), Precision::Int8)]));
    let r3 = (
        "R3",
        1293,
        0xaf1d_dbff,
        "a7ea16e7cddfd802c0f62829d2b31f8e424e53f709feaca1b8a7b9543f83d571",
    );
    let tokens = vec![0, 1, 5, 6, 7, 30, 39];
    check(r3, view, &Plan::new(2, vec![both(tokens, Precision::Int4)]));
    let r4 = (
        "R4",
        2065,
        0xf769_3c80,
        "b69f59be63d70e508900fec7a0a071a24773448c1213357602469bc86b264af7",
    );
    let mixed = Pair { keys: Some(Precision::Int8), values: Some(Precision::Int4) };
    let groups =
        vec![Group::new(vec![3, 4, 5, 38, 39], mixed), both(vec![0, 10, 20, 30], Precision::Int4)];
    check(r4, view, &Plan::new(2, groups));
    let r6 = (
        "R6",
        2272,
        0xdcc6_fb4d,
        "bf0854047107216b660c82f39bd3b857b6be3fa70abcc14fd45953ce948f83ec",
    );
    let plan = Plan::new(2, vec![both((36..40).collect(), Precision::F16)]);
    check(r6, view, &Plan { align8: true, ..plan });
}
