//! The measurement of the link runs, and its object has the promised names; nothing here is on time.

mod common;

use common::{Place, fails, object, stdout};
use serde_json::Value;

const TINY: [&str; 10] =
    ["--mib", "1", "--repeats", "2", "--messages", "5", "--warm-up", "2", "--threads", "2"];

fn bench(more: &[&str]) -> assert_cmd::Command {
    let mut command = Place::new().smidgen(&[&["link", "bench"], &TINY[..], more].concat());
    // It needs no files, and the place is gone.
    command.current_dir("/");
    command
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn every_precision_has_rates_beside_a_copy_and_a_checksum() {
    let report = object(bench(&["--only", "rates", "--json"]));
    assert_eq!(report["latency"].as_array().unwrap().len(), 0);
    let rates = &report["rates"];
    assert_eq!((&rates["elements"], &rates["repeats"]), (&(1 << 18).into(), &2.into()));
    let rows = rates["rows"].as_array().unwrap();
    // A copy, a checksum, and three kinds of work for each of five precisions; twice.
    assert_eq!(rows.len(), 2 * (2 + 3 * 5));
    for row in rows {
        let spread = &row["gb_per_s"];
        let [least, median, most] = ["least", "median", "most"].map(|key| number(spread, key));
        assert!(0.0 < least && least <= median && median <= most, "{row}");
        assert!(number(row, "copy_share") > 0.0 && number(row, "speedup") > 0.0, "{row}");
        assert!([1, 2].contains(&row["threads"].as_u64().unwrap()), "{row}");
        if row["precision"].is_null() {
            assert!(["copy", "crc32c"].contains(&row["work"].as_str().unwrap()), "{row}");
            continue;
        }
        assert!(number(&row["g_elements_per_s"], "median") > 0.0, "{row}");
        assert_eq!(row["container_bytes"], row["wire_bytes"], "{row}");
        assert!(["encode", "decode", "arrays"].contains(&row["work"].as_str().unwrap()), "{row}");
    }
}

#[test]
fn messages_between_two_processes_are_taken_apart() {
    let sizes = ["--layers", "2", "--heads", "1", "--dim", "8", "--tokens", "3", "--json"];
    let report = object(bench(&[&["--only", "messages"], &sizes[..]].concat()));
    assert!(report["rates"].is_null());
    let all = report["latency"].as_array().unwrap();
    let transports: Vec<_> = all.iter().map(|latency| latency["transport"].as_str()).collect();
    assert_eq!(transports, [Some("tcp"), Some("unix")]);
    for latency in all {
        let stages: Vec<_> = latency["stages"].as_array().unwrap().iter().collect();
        let names: Vec<_> = stages.iter().map(|time| time["stage"].as_str().unwrap()).collect();
        let work = ["plan", "encode", "there", "receive", "collect", "verify", "decode", "back"];
        assert_eq!(names, [&work[..], &["total", "send", "ping"]].concat());
        for time in stages {
            let [p50, p95, p99] = ["p50_us", "p95_us", "p99_us"].map(|key| number(time, key));
            assert!(p50 <= p95 && p95 <= p99, "{time}");
        }
        // 280 bytes of header and table; two layers, three tokens, keys and values of four bytes
        // and a scale of two.
        let wire_bytes = 112 + 4 * 32 + 8 + 2 * 3 * 2 * (4 + 2);
        assert_eq!(latency["wire_bytes"], wire_bytes);
        assert_eq!(latency["traffic"]["sent"]["container"], 7 * wire_bytes);
        assert_eq!(latency["discarded"]["messages"], 0);
        for side in ["sender", "receiver"] {
            assert!(number(latency, &format!("{side}_peak_rss_bytes")) > 1e6, "{latency}");
        }
    }
}

#[test]
fn a_line_can_be_put_between_the_processes() {
    let line = ["--rate", "1000Mbit", "--rtt", "20ms"];
    let report = object(bench(&[&["--only", "messages", "--json"], &line[..]].concat()));
    let latency = &report["latency"][0];
    assert_eq!(latency["line"]["bytes_per_s"], 125_000_000);
    // A message waits for its line, whatever else the machine does.
    let total = &latency["stages"][8];
    assert!(total["stage"] == "total" && number(total, "p50_us") >= 20_000.0, "{latency}");
    let text = stdout(bench(&[&["--only", "messages"], &line[..]].concat()));
    assert!(text.contains("over tcp at 1000 Mbit/s and 20 ms: int4"), "{text}");
    fails(bench(&["--rtt", "20ms"]), 2, "--rate");
    fails(bench(&["--rate", "fast"]), 2, "fast,0ms");
    let large = ["--layers", "1024", "--heads", "1024", "--dim", "4096"];
    fails(bench(&large), 2, "expected at most 268435456 keys, got 206158430208");
}
