//! GGUF files: as the reference writes them, any that we write, and damaged ones.

#[path = "common/heap.rs"]
mod heap;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use smidgen_codec::{Format, Packed, Rounding};
use smidgen_store::{Error, GgufArray, GgufFile, GgufInfo, GgufType, GgufValue, write_gguf};

/// Opens bytes, within the promised memory.
fn open(bytes: &[u8]) -> Result<GgufFile, Error> {
    let owned = bytes.to_vec();
    heap::within(bytes.len(), || GgufFile::from_bytes(Path::new("m.gguf"), owned))
}

#[track_caller]
fn refused(bytes: &[u8], message: &str) {
    let error = open(bytes).map(drop).unwrap_err().to_string();
    assert!(error.contains(message) && error.contains("m.gguf"), "{error}");
}

const GOLDEN: &[u8] = include_bytes!("../../../testdata/golden/small.gguf");

/// The keys of the golden file, in its order.
fn golden_keys() -> Vec<(String, GgufValue<'static>)> {
    let keys: [(&str, GgufValue<'static>); 16] = [
        ("general.architecture", "llama".into()),
        ("k.u8", GgufValue::U8(255)),
        ("k.i8", GgufValue::I8(-1)),
        ("k.u16", GgufValue::U16(65535)),
        ("k.i16", GgufValue::I16(-2)),
        ("k.u32", GgufValue::U32(1 << 31)),
        ("k.i32", GgufValue::I32(-3)),
        ("k.f32", GgufValue::F32(1e-5)),
        ("k.bool", GgufValue::Bool(true)),
        ("k.str", "größer\n".into()),
        ("k.strs", GgufValue::Array(GgufArray::of_strings(["", "Ġthe", "x"]))),
        ("k.ints", GgufValue::Array(GgufArray::of_i32s(&[1, -2, 3]))),
        ("k.floats", GgufValue::Array(GgufArray::of_f32s(&[0.5, -1.5]))),
        ("k.u64", GgufValue::U64(1 << 63)),
        ("k.i64", GgufValue::I64(-4)),
        ("k.f64", GgufValue::F64(0.1)),
    ];
    keys.map(|(key, value)| (key.to_string(), value)).into()
}

fn golden_values() -> Vec<f32> {
    (0..64).map(|i| i as f32 / 8.0 - 4.0).collect()
}

/// Names, types, and the values of the golden file in these.
fn golden_tensors() -> Vec<(GgufInfo, Vec<u8>)> {
    let rows = vec![32, 2];
    let list = [
        ("a.f32", GgufType::F32, rows.clone(), "f32"),
        ("b.vector", GgufType::F32, vec![32], "f32"),
        ("c.f16", GgufType::F16, rows.clone(), "f16"),
        ("d.q8_0", GgufType::Q8_0, rows.clone(), "q8_0"),
        ("e.bf16", GgufType::BF16, rows, "bf16"),
    ];
    let made = list.into_iter().map(|(name, kind, dims, format)| {
        let shape = [dims.get(1).map_or(1, |rows| *rows as usize), 32];
        let values = &golden_values()[..32 * shape[0]];
        let format = Format::by_name(format).unwrap();
        let packed = Packed::encode(format, shape, values, Rounding::Nearest).unwrap();
        (GgufInfo { name: name.into(), kind, dims }, packed.bytes().to_vec())
    });
    made.collect()
}

fn write(keys: &[(String, GgufValue<'_>)], tensors: &[(GgufInfo, Vec<u8>)]) -> Vec<u8> {
    let infos: Vec<GgufInfo> = tensors.iter().map(|(info, _)| info.clone()).collect();
    let mut out = Vec::new();
    let path = Path::new("m.gguf");
    write_gguf(&mut out, path, keys, &infos, |i, out| out.write_all(&tensors[i].1)).unwrap();
    out
}

#[test]
fn files_of_the_reference_are_read() {
    let file = open(GOLDEN).unwrap();
    assert_eq!(file.version(), 3);
    for (key, value) in golden_keys() {
        assert_eq!(file.get(&key), Some(value), "{key}");
    }
    for (info, data) in golden_tensors() {
        let tensor = file.tensor(&info.name).unwrap();
        assert_eq!((tensor.kind, tensor.dims), (info.kind, &info.dims[..]));
        assert_eq!(tensor.data, data, "{}", info.name);
    }
    assert_eq!(file.names().len(), 5);
}

/// Header, padding and data: every byte is that of the reference.
#[test]
fn our_bytes_are_those_of_the_reference() {
    assert!(write(&golden_keys(), &golden_tensors()) == GOLDEN);
}

#[test]
fn files_on_disk_are_read_in_place_and_past_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, GOLDEN).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let tensor = file.tensor("a.f32").unwrap();
    let mut out = vec![0; 256];
    file.read_into("a.f32", &mut out).unwrap();
    assert_eq!(out, tensor.data);
    let error = file.read_into("a.f32", &mut out[1..]).unwrap_err().to_string();
    assert!(error.contains("expected 255 bytes, got 256 bytes"), "{error}");
    assert!(file.tensor("a.f23").unwrap_err().to_string().contains("`a.f23`"));
    assert!(matches!(GgufFile::open(dir.path().join("no").as_path()), Err(Error::Io { .. })));
}

/// A file of the test data, which lies beside the repository; says where it is not.
#[allow(clippy::print_stderr)] // A skipped test says so.
fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: no test data `{name}`");
        return None;
    }
    Some(path)
}

#[test]
fn a_real_file_of_version_1_is_read() {
    let Some(path) = data("models/stories260k/tinyllamas-stories-260k-f32.gguf") else { return };
    let file = GgufFile::open(&path).unwrap();
    assert_eq!((file.version(), file.names().len(), file.keys().count()), (1, 48, 18));
    assert_eq!(file.get("llama.context_length").unwrap().as_u64(), Some(512));
    let tokens = file.get("tokenizer.ggml.tokens").unwrap();
    let tokens = tokens.as_array().unwrap();
    assert_eq!((tokens.len(), tokens.byte_strings().unwrap().count()), (512, 512));
    assert_eq!(tokens.byte_strings().unwrap().nth(3), Some(&b"<0x00>"[..]));
    assert_eq!(file.tensor("blk.0.attn_k.weight").unwrap().dims, [64, 32]);
    // Its texts have short lengths; written again they have long ones.
    let keys = [("tokens".to_string(), GgufValue::Array(tokens.clone()))];
    let again = open(&write(&keys, &[])).unwrap();
    assert_eq!(again.get("tokens").unwrap().as_array(), Some(tokens));
}

#[test]
fn real_vocabularies_of_version_3_are_read() {
    for (name, count) in [("gpt-2", 50_257), ("phi-3", 32_064), ("falcon", 65_024)] {
        let Some(path) = data(&format!("tokenizers/llamacpp_vocab/ggml-vocab-{name}.gguf")) else {
            return;
        };
        let file = open(&std::fs::read(path).unwrap()).unwrap();
        let tokens = file.get("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.as_array().unwrap().byte_strings().unwrap().count(), count, "{name}");
        assert_eq!(file.names().len(), 0);
    }
}

#[test]
fn every_cut_is_refused() {
    for len in 0..GOLDEN.len() {
        // The last tensor is padded; a reader needs none of that.
        let whole = len + 32 > GOLDEN.len() && open(&GOLDEN[..len]).is_ok();
        assert!(
            whole
                || matches!(
                    open(&GOLDEN[..len]),
                    Err(Error::Corrupt { .. } | Error::Tensor { .. })
                ),
            "{len}"
        );
    }
}

/// The golden file with the bytes at `at` replaced.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = GOLDEN.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Where a text of the golden file begins.
fn place(text: &str) -> usize {
    GOLDEN.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

#[test]
fn damage_is_named() {
    refused(b"", "the magic `GGUF`");
    refused(b"GGML\x03\0\0\0", "got a file that begins with `GGML`");
    refused(b"GGUF\x04\0\0\0", "expected GGUF version 1, 2 or 3, got 4");
    refused(b"GGUF\0\0\0\x03", "a big-endian one");
    let counts = u64::MAX.to_le_bytes();
    refused(&patched(8, &counts), "a header that fits into the file");
    refused(&patched(16, &(1u64 << 40).to_le_bytes()), "a header that fits into the file");
    refused(&patched(place("k.i8"), b"k.u8"), "expected each key once, got `k.u8` twice");
    refused(&patched(place("k.i8"), b"k.\xffx"), "a key as UTF-8 text");
    refused(
        &patched(place("k.u8") + 4, &[13]),
        "expected a known type of value, got type 13 in key `k.u8`",
    );
    refused(&patched(place("k.bool") + 6 + 4, &[2]), "expected 0 or 1 as a bool");
    refused(&patched(place("k.ints") + 6 + 4, &[9]), "an array of numbers or texts");
    refused(&patched(place("k.ints") + 6 + 8, &counts), "an array in a whole GGUF file");
    refused(&patched(place("k.strs") + 6 + 8, &counts), "a text of an array in a whole GGUF file");
}

#[test]
fn tensors_that_cannot_be_are_named() {
    let at = place("a.f32") + 5;
    refused(&patched(place("c.f16"), b"a.f32"), "`a.f32` in m.gguf: expected a name of its own");
    refused(&patched(at, &[5]), "expected 1 to 4 dimensions, got 5");
    refused(&patched(at, &[0]), "expected 1 to 4 dimensions, got 0");
    refused(&patched(at + 4, &u64::MAX.to_le_bytes()), "a size that fits");
    refused(&patched(at + 4, &(1u64 << 40).to_le_bytes()), "an end within");
    refused(&patched(at + 20, &[4]), "expected a type that is known, got type number 4");
    refused(&patched(at + 20, &[99]), "got type number 99");
    refused(&patched(at + 20, &[10]), "rows of whole blocks of 256, got q2_k [32, 2]");
    refused(&patched(at + 24, &[1]), "an offset aligned to 32, got 1");
    refused(&patched(at + 24, &[0xe0; 8]), "an end within");
    let second = place("b.vector") + 8 + 4 + 8 + 4;
    refused(&patched(second, &[0; 8]), "a place of its own");
}

#[test]
fn alignment_is_that_of_the_file() {
    let key = |value| [("general.alignment".to_string(), value)];
    refused(&write(&key(GgufValue::U32(7)), &[]), "a power of two");
    refused(&write(&key(GgufValue::U32(0)), &[]), "a power of two");
    refused(&write(&key(GgufValue::from("32")), &[]), "a power of two");
    open(&write(&key(GgufValue::U32(8)), &golden_tensors())).unwrap();
    // 256 bytes lie at a multiple of 32, but not of 512.
    refused(&write(&key(GgufValue::U32(512)), &golden_tensors()), "an offset aligned to 512");
}

#[test]
fn contradictions_are_not_written() {
    let tensors = golden_tensors();
    let mut out = Vec::new();
    let mut fails = |keys: &[(String, GgufValue<'_>)], infos: &[GgufInfo], bytes: &[u8]| {
        let path = Path::new("m.gguf");
        write_gguf(&mut out, path, keys, infos, |_, out| out.write_all(bytes))
            .unwrap_err()
            .to_string()
    };
    let info = tensors[0].0.clone();
    let twice = [info.clone(), info.clone()];
    assert!(fails(&[], &twice, &[0; 256]).contains("a name of its own, got one in use"));
    assert!(fails(&[], &twice[..1], &[0; 255]).contains("expected 256 bytes, got 255 bytes"));
    let ragged = GgufInfo { kind: GgufType::Q8_0, dims: vec![33], ..info };
    assert!(fails(&[], &[ragged], &[]).contains("rows of whole blocks"));
    let key = golden_keys()[0].clone();
    assert!(fails(&[key.clone(), key], &[], &[]).contains("each key once"));
}

/// As many keys and tensors as fit into few bytes: the most that a header can ask to be kept.
#[test]
fn dense_headers_stay_within_the_promise() {
    let count = 60_000u32;
    let mut keys = Vec::new();
    let mut tensors = Vec::new();
    for i in 0..count {
        // Version 1: a name of three bytes, then the least there can be.
        let name: Vec<u8> = (0..3).map(|shift| b'0' + (i >> (6 * shift) & 63) as u8).collect();
        let text = [&3u32.to_le_bytes()[..], &name].concat();
        keys.extend([&text[..], &0u32.to_le_bytes(), &[0]].concat());
        tensors.extend([&text[..], &1u32.to_le_bytes(), &[0; 16]].concat());
    }
    let head = |tensors: u32, keys: u32| {
        [&b"GGUF\x01\0\0\0"[..], &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
    };
    assert_eq!(
        open(&[head(0, count), keys.clone()].concat()).unwrap().keys().count(),
        count as usize
    );
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes
    };
    let file = open(&padded([head(count, 0), tensors.clone()].concat())).unwrap();
    assert_eq!(file.names().len(), count as usize);
    open(&padded([head(count, count), keys, tensors].concat())).unwrap();
}

/// Every value of fixed size and every array that can be written.
fn any_value() -> impl Strategy<Value = GgufValue<'static>> {
    prop_oneof![
        any::<u8>().prop_map(GgufValue::U8),
        any::<i8>().prop_map(GgufValue::I8),
        any::<u16>().prop_map(GgufValue::U16),
        any::<i16>().prop_map(GgufValue::I16),
        any::<u32>().prop_map(GgufValue::U32),
        any::<i32>().prop_map(GgufValue::I32),
        (-1e30f32..1e30).prop_map(GgufValue::F32),
        any::<bool>().prop_map(GgufValue::Bool),
        ".{0,20}".prop_map(|text| GgufValue::from(&*text)),
        any::<u64>().prop_map(GgufValue::U64),
        any::<i64>().prop_map(GgufValue::I64),
        (-1e300f64..1e300).prop_map(GgufValue::F64),
        prop::collection::vec(".{0,9}", 0..9)
            .prop_map(|texts| GgufValue::Array(GgufArray::of_strings(texts))),
        prop::collection::vec(any::<i32>(), 0..9)
            .prop_map(|values| GgufValue::Array(GgufArray::of_i32s(&values))),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        values in prop::collection::vec(any_value(), 0..12),
        shapes in prop::collection::vec((0usize..4, 0u64..5, 1u64..4), 0..8),
    ) {
        let keys: Vec<_> =
            values.into_iter().enumerate().map(|(i, value)| (format!("k.{i}"), value)).collect();
        let kinds = [GgufType::F32, GgufType::F16, GgufType::BF16, GgufType::Q8_0];
        let tensors: Vec<(GgufInfo, Vec<u8>)> = shapes.into_iter().enumerate().map(|(i, shape)| {
            let (kind, cols, rows) = (kinds[shape.0], shape.1, shape.2);
            let dims = vec![cols * kind.block_values, rows];
            let bytes = vec![i as u8 + 1; kind.bytes(&dims).unwrap() as usize];
            (GgufInfo { name: format!("t.{i}"), kind, dims }, bytes)
        }).collect();
        let file = open(&write(&keys, &tensors)).unwrap();
        for (key, value) in &keys {
            prop_assert_eq!(file.get(key), Some(value.clone()));
        }
        for (info, bytes) in &tensors {
            let tensor = file.tensor(&info.name).unwrap();
            prop_assert_eq!((tensor.kind, tensor.dims), (info.kind, &info.dims[..]));
            prop_assert_eq!(tensor.data, &bytes[..]);
        }
    }

    /// Bits, bytes and whole words of the header, changed at random.
    #[test]
    fn no_damage_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u64>()), 1..5),
    ) {
        let mut bytes = GOLDEN.to_vec();
        for (at, how, value) in changes {
            let at = at.index(bytes.len() - 8);
            match how {
                0 => bytes[at] ^= 1 << (value % 8),
                1 => bytes[at] = value as u8,
                2 => bytes[at..at + 8].copy_from_slice(&(value % 300).to_le_bytes()),
                _ => bytes[at..at + 8].copy_from_slice(&value.to_le_bytes()),
            }
        }
        if let Ok(file) = open(&bytes) {
            for key in file.keys() {
                let value = file.get(key);
                if let Some(array) = value.as_ref().and_then(GgufValue::as_array) {
                    array.byte_strings().map(Iterator::count);
                    array.numbers().map(Iterator::count);
                }
            }
            for name in file.names() {
                file.tensor(name).unwrap();
            }
        }
    }
}
