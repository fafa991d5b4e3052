//! Containers on the command line: made, looked at, checked, compared.

mod common;

use std::fs;

use common::{Place, fails, object, stdout};

const SIZES: [&str; 8] = ["--layers", "2", "--heads", "2", "--dim", "32", "--tokens", "40"];

fn vector(place: &Place, more: &[&str], file: &str) -> assert_cmd::Command {
    let head = ["link", "vector", "--seed", "1"];
    place.smidgen(&[&head, &SIZES[..], more, &["-o", file]].concat())
}

/// The published sums of the reference vectors.
#[test]
fn reference_vectors_come_out_to_the_byte() {
    let place = Place::new();
    for (more, bytes, crc, sha) in [
        (
            &["--select", "all"][..],
            11128,
            "c9cb6723",
            "7f21d6669b4e549dca44c69d6ae9e67bccbcf0bc5254ef7b8e4731b67ec9c980",
        ),
        (
            &["--select", "0,1,5..7,30,39", "--precision", "int4", "--granularity", "block"],
            1293,
            "af1ddbff",
            "a7ea16e7cddfd802c0f62829d2b31f8e424e53f709feaca1b8a7b9543f83d571",
        ),
        (
            &["--group", "3,4,5,38,39:int8/int4", "--group", "0,10,20,30:int4/int4"],
            2065,
            "f7693c80",
            "b69f59be63d70e508900fec7a0a071a24773448c1213357602469bc86b264af7",
        ),
        (
            &["--select", "36..39", "--precision", "fp16", "--align8"],
            2272,
            "dcc6fb4d",
            "bf0854047107216b660c82f39bd3b857b6be3fa70abcc14fd45953ce948f83ec",
        ),
    ] {
        let written = object(vector(&place, &[more, &["--json"]].concat(), "v.kvw"));
        assert_eq!(written["total_bytes"], bytes, "{more:?}");
        assert_eq!((&written["crc32c"], &written["sha256"]), (&crc.into(), &sha.into()));
        assert_eq!(fs::read(place.path("v.kvw")).unwrap().len(), bytes);
        let verified = object(place.smidgen(&["link", "verify", "v.kvw", "--json"]));
        assert_eq!((&verified["intact"], &verified["total_bytes"]), (&true.into(), &bytes.into()));
    }
}

#[test]
fn a_container_is_shown_with_its_sections() {
    let place = Place::new();
    let more = ["--select", "8..23", "--precision", "nf4", "--granularity", "head", "--scale"];
    let layers = ["bf16", "--of-layers", "6", "--layer-list", "3,5"];
    stdout(vector(&place, &[&more[..], &layers].concat(), "v.kvw"));
    let shown = stdout(place.smidgen(&["link", "inspect", "v.kvw"]));
    for text in ["2 of 6, 2 a block", "16 of 40", "bf16 for each head", "nf4", "ranges", "right"] {
        assert!(shown.contains(text), "`{text}` in {shown}");
    }
    let report = object(place.smidgen(&["link", "inspect", "v.kvw", "--json"]));
    assert_eq!(report["intact"], true);
    let kinds: Vec<_> = report["sections"].as_array().unwrap().iter().map(|s| &s["kind"]).collect();
    let order = ["layers", "index", "payload-k", "scale-k", "payload-v", "scale-v"];
    assert_eq!(kinds, order);
    assert_eq!(report["sections"][2]["raw_bytes"], 2 * 16 * 2 * 16);
    assert_eq!(report["groups"][0]["index"], "ranges");
    let parts = report["bytes"].as_object().unwrap().values();
    let sum: u64 = parts.map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(report["total_bytes"], sum);
}

#[test]
fn damage_is_found_and_named() {
    let place = Place::new();
    stdout(vector(&place, &[], "v.kvw"));
    let right = fs::read(place.path("v.kvw")).unwrap();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    fs::write(place.path("bit.kvw"), wrong).unwrap();
    let error = "bit.kvw: checksum of `scale-v`: expected ";
    fails(place.smidgen(&["link", "verify", "bit.kvw"]), 3, error);
    let shown = place.smidgen(&["link", "inspect", "bit.kvw"]).assert().code(3);
    assert!(String::from_utf8_lossy(&shown.get_output().stdout).contains("WRONG"));
    fs::write(place.path("cut.kvw"), &right[..500]).unwrap();
    fails(place.smidgen(&["link", "inspect", "cut.kvw"]), 3, "expected 11128 bytes");
    fails(place.smidgen(&["link", "verify", "cut.kvw"]), 3, "expected 11128 bytes, got 500");
    fs::write(place.path("text.kvw"), "to be or not to be, that is the question, they said")
        .unwrap();
    fails(place.smidgen(&["link", "inspect", "text.kvw"]), 3, "no container");
    fails(place.smidgen(&["link", "verify", "missing.kvw"]), 3, "cannot read missing.kvw");
}

#[test]
fn two_containers_are_compared() {
    let place = Place::new();
    stdout(vector(&place, &["--select", "0..9"], "int8.kvw"));
    stdout(vector(&place, &["--select", "5..14", "--precision", "int4"], "int4.kvw"));
    let same = stdout(place.smidgen(&["link", "diff", "int8.kvw", "int8.kvw"]));
    assert_eq!(same.trim(), "equal");
    let compared = place.smidgen(&["link", "diff", "int8.kvw", "int4.kvw", "--json"]).assert();
    let compared = compared.code(1).get_output().stdout.clone();
    let compared: serde_json::Value = serde_json::from_slice(&compared).unwrap();
    // Two layers, keys and values, five tokens in both and five in one each.
    let counts = ["rows", "only_first", "only_second"].map(|name| compared[name].as_u64().unwrap());
    assert_eq!(counts, [20; 3]);
    let nrmse = compared["nrmse"].as_f64().unwrap();
    assert!((0.02..0.2).contains(&nrmse), "{nrmse}");
    let text = place.smidgen(&["link", "diff", "int8.kvw", "int4.kvw"]).assert().code(1);
    assert!(String::from_utf8_lossy(&text.get_output().stdout).contains("total_bytes"));
}

#[test]
fn options_that_cannot_be_are_named() {
    let place = Place::new();
    for (more, message) in [
        (&["--select", "39..40"][..], "expected indices below --tokens 40, got 40"),
        (&["--select", "5,3"], "indices have to increase, but 3 follows 5"),
        (&["--precision", "int3"], "unknown precision `int3`, expected one of: int8, int4"),
        (&["--granularity", "rows"], "unknown granularity `rows`"),
        (&["--group", "1..3:int8/int8", "--select", "3"], "no token in two groups, got 3"),
        (&["--of-layers", "6", "--layer-list", "3"], "`--layer-list`: expected 2 layers below 6"),
        (&["--of-layers", "6", "--layer-list", "5,3"], "`layers`: expected increasing below 6"),
        (&["--of-layers", "6"], "--layer-list"),
        (&["--layers-per-block", "3"], "`layers_per_block`: expected 1 to 2, got 3"),
    ] {
        fails(vector(&place, more, "v.kvw"), 2, message);
        assert!(!place.path("v.kvw").exists(), "{more:?} left something behind");
    }
    // Terabytes of data, and a little that is spread over the layers of a large sharer.
    for (sizes, more, got) in [
        (["1024", "1024", "4096", "16777216"], &[][..], "72057594037927936"),
        (
            ["1", "1", "1", "16777216"],
            &["--of-layers", "65535", "--layer-list", "7"],
            "1099494850560",
        ),
    ] {
        let names = ["--layers", "--heads", "--dim", "--tokens"];
        let sizes: Vec<&str> = names.into_iter().zip(sizes).flat_map(<[&str; 2]>::from).collect();
        let args = [&["link", "vector", "-o", "v.kvw"], &sizes[..], more].concat();
        let message = format!("the data: expected at most 268435456 keys, got {got}");
        fails(place.smidgen(&args), 2, &message);
    }
}
