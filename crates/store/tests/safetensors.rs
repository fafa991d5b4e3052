//! safetensors files whose headers are made to be expensive or to mislead.

#[path = "common/heap.rs"]
mod heap;

use smidgen_store::{Error, TensorFile};

/// Opens a file of a header and some zeros, within the promised memory.
fn open(header: &str, data_bytes: usize) -> Result<TensorFile, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    std::fs::write(&path, &bytes).unwrap();
    heap::within(bytes.len(), || TensorFile::open(&path))
}

#[track_caller]
fn refused(header: &str, data_bytes: usize, message: &str) {
    let error = open(header, data_bytes).map(drop).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

fn tensor(name: &str, shape: &str, start: usize, end: usize) -> String {
    format!(r#""{name}":{{"dtype":"U8","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

#[test]
fn many_small_tensors_stay_within_the_promise() {
    let list: Vec<String> =
        (0..60_000).map(|i| tensor(&format!("{i:x}"), "[]", i, i + 1)).collect();
    let file = open(&format!("{{{}}}", list.join(",")), 60_000).unwrap();
    assert_eq!(file.names().len(), 60_000);
    assert_eq!(file.tensor("ff").unwrap().data.len(), 1);
    let empty: Vec<String> = (0..60_000).map(|i| tensor(&format!("{i:x}"), "[0]", 0, 0)).collect();
    assert_eq!(open(&format!("{{{}}}", empty.join(",")), 0).unwrap().names().len(), 60_000);
}

#[test]
fn shapes_and_free_text_stay_within_the_promise() {
    let ones = format!("[{}]", vec!["1"; 1_000_000].join(","));
    refused(&format!("{{{}}}", tensor("a", &ones, 0, 1)), 1, "at most 16 sizes");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&format!(r#"{{"a":{nested}}}"#), 0, "a header with");
    let list = format!("[{}]", vec!["[]"; 300_000].join(","));
    refused(&format!(r#"{{"a":{{"x":{list}}}}}"#), 0, "a header with");
    let text: Vec<String> = (0..60_000).map(|i| format!(r#""{i:x}":"""#)).collect();
    let file = open(&format!(r#"{{"__metadata__":{{{}}}}}"#, text.join(",")), 0).unwrap();
    assert_eq!(file.metadata("ff"), Some(""));
}

#[test]
fn tensors_that_mislead_are_named() {
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let a = || tensor("a", "[4]", 0, 4);
    refused(&two(a(), a()), 4, "`a` at 0 to 4, behind a gap or over another");
    refused(&two(tensor("a", "[0]", 0, 0), tensor("a", "[0]", 0, 0)), 0, "`a` twice");
    refused(&two(a(), tensor("a", "[4]", 4, 8)), 8, "`a` twice in its header");
    refused(&two(a(), tensor("b", "[4]", 2, 6)), 6, "`b` at 2 to 6, behind a gap or over");
    refused(&two(a(), tensor("b", "[4]", 5, 9)), 9, "`b` at 5 to 9, behind a gap");
    refused(&two(a(), tensor("b", "[4]", 4, 7)), 7, "`b` of U8 [4] in 3 bytes");
    refused(&format!("{{{}}}", a()), 5, "5 data bytes instead of 4");
    refused(&format!("{{{}}}", tensor("a", "[4]", 4, 0)), 4, "`a` at 4 to 0");
    refused(r#"{"a":{"dtype":"Q9","shape":[4],"data_offsets":[0,4]}}"#, 4, "unknown variant `Q9`");
}
