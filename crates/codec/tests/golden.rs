//! Codes and values are those of the libraries whose formats they are: see
//! `scripts/golden_formats.py`. Where ours differ, the format's file says so.

use smidgen_codec::element::codebook::{DYNAMIC, DYNAMIC_UNSIGNED};
use smidgen_codec::element::minifloat::{E2M1, E4M3, E5M2};
use smidgen_codec::{Format, Packed, Rounding};

/// The values of a golden file, and the bytes that follow them.
fn golden(name: &str) -> (Vec<f32>, Vec<u8>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/golden/formats");
    let bytes = std::fs::read(format!("{folder}/{name}.bin")).expect("the file is committed");
    let (count, rest) = bytes.split_first_chunk().expect("a count");
    let (values, rest) = rest.split_at(4 * u32::from_le_bytes(*count) as usize);
    (floats(values), rest.to_vec())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn packed(format: &str, columns: usize, values: &[f32]) -> Packed {
    let format = Format::by_name(format).unwrap();
    Packed::encode(format, [values.len() / columns, columns], values, Rounding::Nearest).unwrap()
}

/// bitsandbytes keeps absmaxes and codes apart.
fn blocks_of(rest: &[u8], count: usize, block: usize, code_bytes: usize) -> Vec<u8> {
    let (absmaxes, codes) = rest.split_at(4 * count / block);
    let blocks = absmaxes.chunks(4).zip(codes.chunks(code_bytes));
    blocks.flat_map(|(absmax, codes)| [absmax, codes].concat()).collect()
}

fn assert_blocks(name: &str, ours: &[u8], theirs: &[u8], bytes: usize) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for (i, (ours, theirs)) in ours.chunks(bytes).zip(theirs.chunks(bytes)).enumerate() {
        assert_eq!(ours, theirs, "{name}: block {i}");
    }
}

#[test]
fn the_dynamic_maps_are_those_of_bitsandbytes() {
    assert_eq!(golden("map-signed").0, DYNAMIC);
    assert_eq!(golden("map-unsigned").0, DYNAMIC_UNSIGNED);
}

#[test]
fn blocks_are_those_of_bitsandbytes() {
    let (values, rest) = golden("dynamic");
    let theirs = blocks_of(&rest, values.len(), 256, 256);
    assert_blocks("int8-dynamic", packed("int8-dynamic", 256, &values).bytes(), &theirs, 260);
    let (values, rest) = golden("nf4");
    let theirs = blocks_of(&rest, values.len(), 64, 32);
    assert_blocks("nf4", packed("nf4", 64, &values).bytes(), &theirs, 36);
}

/// But that a positive value never becomes 0.
#[test]
fn unsigned_blocks_are_those_of_bitsandbytes_above_zero() {
    let (values, rest) = golden("dynamic-unsigned");
    let mut theirs = blocks_of(&rest, values.len(), 256, 256);
    let codes = theirs.chunks_mut(260).flat_map(|block| &mut block[4..]);
    let flushed = codes.zip(&values).filter(|(code, value)| **code == 0 && **value > 0.0);
    assert!(flushed.map(|(code, _)| *code = 1).count() > 0, "the data shows the difference");
    let ours = packed("int8-dynamic/256/unsigned", 256, &values);
    assert_blocks("unsigned", ours.bytes(), &theirs, 260);
}

#[test]
fn double_quantisation_is_that_of_bitsandbytes() {
    let (values, rest) = golden("nf4-dq");
    let blocks = values.len() / 64;
    let ours = packed("nf4-dq", 64, &values);
    let (mean, rest) = rest.split_at(4);
    // Their sum of the absmaxes is in f32.
    let [ours_mean, mean] = [ours.header(), mean].map(|bytes| floats(bytes)[0]);
    assert!((ours_mean / mean - 1.0).abs() < 1e-6, "{ours_mean} {mean}");
    let (scales, rest) = rest.split_at(4 * blocks.div_ceil(256));
    let (absmaxes, codes) = rest.split_at(blocks);
    for (group, ours) in ours.bytes().chunks(4 + 256 + 8192).enumerate() {
        let coded = &absmaxes[256 * group..blocks.min(256 * group + 256)];
        let (scale, ours) = ours.split_at(4);
        let theirs = floats(&scales[4 * group..4 * group + 4])[0];
        assert!((floats(scale)[0] / theirs - 1.0).abs() < 1e-5, "{group}");
        let (ours_coded, ours) = ours.split_at(coded.len());
        // The last bit of the mean may turn a tie.
        let near = |(a, b): (&u8, &u8)| a.abs_diff(*b) <= 1;
        assert!(ours_coded.iter().zip(coded).all(near), "group {group}");
        assert_eq!(ours, &codes[8192 * group..8192 * group + ours.len()], "group {group}");
    }
}

#[test]
fn small_floats_are_those_of_ml_dtypes() {
    type Float = (&'static str, fn(f32) -> u8, fn(u8) -> f32);
    let kinds: [Float; 3] = [
        ("fp8-e4m3", E4M3::nearest, E4M3::value),
        ("fp8-e5m2", E5M2::nearest, E5M2::value),
        ("e2m1", E2M1::nearest, E2M1::value),
    ];
    for (name, nearest, value) in kinds {
        let (values, codes) = golden(name);
        for (x, code) in values.iter().zip(codes) {
            assert_eq!(
                nearest(*x),
                code,
                "{name}: {x:e}, {} or {}",
                value(nearest(*x)),
                value(code)
            );
        }
    }
}

#[test]
fn blocks_are_those_of_gguf() {
    for (name, columns, bytes) in [("mxfp4", 64, 17), ("tq1_0", 256, 54), ("tq2_0", 256, 66)] {
        let (values, theirs) = golden(name);
        assert_blocks(name, packed(name, columns, &values).bytes(), &theirs, bytes);
    }
}

#[test]
fn values_are_those_of_gguf() {
    let (values, bytes) = golden("nvfp4");
    let format = Format::by_name("nvfp4").unwrap();
    let shape = [values.len() / 64, 64];
    let header = 1f32.to_le_bytes().to_vec();
    let packed = Packed::from_parts(format, shape, header, bytes).unwrap();
    let mut ours = vec![0.0; values.len()];
    packed.decode_into(&mut ours).unwrap();
    assert_eq!(ours, values);
}
