//! Every format through one contract, and a throw-away one that uses all the trait offers.

mod toy;

use proptest::prelude::*;
use smidgen_codec::{CODECS, Error, Format, Packed, Rng, Rounding, Sign, Stream};
use toy::Toy;

/// The registry with its parameters, and every variant of the throw-away format.
fn formats() -> Vec<Format> {
    let listed = CODECS.iter().map(|codec| Format::by_name(codec.name()).unwrap());
    let mut all: Vec<Format> = listed.collect();
    let unsigned = all.iter().filter_map(|format| format.for_sign(Sign::Unsigned));
    let unsigned: Vec<Format> = unsigned.collect();
    let blocks = all.iter().chain(&unsigned).filter(|format| format.block().is_some());
    let blocks: Vec<Format> = blocks
        .flat_map(|format| [8, 1024].map(|block| format.with_block(block).unwrap()))
        .collect();
    all.extend(unsigned.into_iter().chain(blocks));
    for (block, row_aligned) in [(1, false), (8, false), (8, true), (64, true), (256, false)] {
        let signed = Format::new(Toy { block, row_aligned, sign: Sign::Signed });
        all.extend([signed.signed_as(Sign::Unsigned), signed]);
    }
    all
}

/// Error of nearest rounding: a share of the value and a share of the tensor's largest. A new
/// format adds its line here.
fn bound(format: &Format) -> (f32, f32) {
    match format.name() {
        "f32" => (0.0, 0.0),
        "bf16" => (1.0 / 256.0, f32::MIN_POSITIVE),
        "f16" => (1.0 / 2048.0, 2f32.powi(-24)),
        // Less than half a step is rounded up to a whole one.
        "int8" if format.sign() == Sign::Unsigned => (0.0, 1.001 / 255.0),
        "int8" => (0.0, 0.501 / 127.0),
        // Half of the widest gap, below the largest value.
        "int8-dynamic" => (0.0, 0.007_04),
        "int6" => (0.0, 0.501 / 31.0),
        "int4" => (0.0, 0.501 / 7.0),
        // The span may be twice the largest, and a whole step is lost where zero was rounded.
        "int4-asym" => (0.0, 2.01 / 15.0),
        "int2" => (0.0, 0.501),
        "nf4" => (0.0, 0.152),
        // The absmax comes back within a step of its own code.
        "nf4-dq" => (0.0, 0.18),
        "fp8-e4m3" => (1.0 / 16.0, 2f32.powi(-10) / 448.0),
        "fp8-e5m2" => (1.0 / 8.0, 2f32.powi(-17) / 57344.0),
        "e2m1" => (0.0, 0.501 / 3.0),
        // What lies above 6 scales, up to 8, is cut off.
        "mxfp4" => (0.0, 0.251),
        "nvfp4" => (0.0, 0.501 / 3.0 + 1.0 / 16.0),
        // Everything above the mean is cut off.
        "ternary" => (0.0, 1.0),
        "tq1_0" | "tq2_0" => (0.0, 0.501),
        // Half a step, and the rounding of the scale.
        "q8_0" => (1.0 / 2048.0, 0.51 / 127.0),
        "toy" => (1e-6, 0.51 / if format.sign() == Sign::Signed { 127.0 } else { 255.0 }),
        other => panic!("no bound for `{other}`"),
    }
}

fn values(format: &Format, count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Rng::new(seed, Stream::Init).fill_normal(0, 0, 3.0, &mut values);
    if format.sign() == Sign::Unsigned {
        values.iter_mut().for_each(|x| *x = x.abs());
    }
    values
}

/// Shapes around the edges of a block, as one row and as several.
fn shapes(format: &Format) -> Vec<[usize; 2]> {
    let block = format.layout([1, 1]).block_values;
    let lengths = [0, 1, block.saturating_sub(1), block, block + 1, 3 * block + 2];
    let shapes = lengths.iter().flat_map(|n| [[1, *n], [3, *n], [*n, 1]]);
    shapes.chain([[5, 7], [2, 16]]).collect()
}

const STOCHASTIC: Rounding = Rounding::Stochastic { key: 0x1234_5678_9abc_def0, first_index: 0 };

#[test]
fn layout_counts_the_bytes_that_coding_makes() {
    for format in formats() {
        for shape in shapes(&format) {
            let src = values(&format, shape[0] * shape[1], 1);
            let packed = Packed::encode(format.clone(), shape, &src, Rounding::Nearest).unwrap();
            let layout = format.layout(shape);
            assert_eq!(packed.bytes().len() + packed.header().len(), layout.bytes(), "{format}");
            assert_eq!(packed.header().len(), layout.header_bytes, "{format} {shape:?}");
            assert_eq!(layout.values(), src.len());
        }
    }
}

#[test]
fn values_come_back_within_the_bound() {
    for format in formats() {
        let (of_value, of_largest) = bound(&format);
        for shape in shapes(&format) {
            let src = values(&format, shape[0] * shape[1], 2);
            let largest = src.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            for (rounding, steps) in [(Rounding::Nearest, 1.0), (STOCHASTIC, 2.0)] {
                let packed = Packed::encode(format.clone(), shape, &src, rounding).unwrap();
                let mut back = vec![f32::NAN; src.len()];
                packed.decode_into(&mut back).unwrap();
                for (x, y) in src.iter().zip(&back) {
                    let allowed = steps * (of_value * x.abs() + of_largest * largest);
                    assert!((x - y).abs() <= allowed, "{format} {shape:?}: {x} {y}");
                }
            }
        }
    }
}

#[test]
fn zeros_stay_zero() {
    for format in formats() {
        let packed = Packed::encode(format, [3, 70], &[0.0; 210], STOCHASTIC).unwrap();
        let mut back = [1.0; 210];
        packed.decode_into(&mut back).unwrap();
        assert_eq!(back, [0.0; 210]);
    }
}

#[test]
fn chunks_give_the_bytes_of_the_whole() {
    for format in formats() {
        for shape in shapes(&format) {
            for rounding in [Rounding::Nearest, STOCHASTIC] {
                chunked_equals_whole(&format, shape, rounding);
            }
        }
    }
}

fn chunked_equals_whole(format: &Format, shape: [usize; 2], rounding: Rounding) {
    let src = values(format, shape[0] * shape[1], 3);
    let whole = Packed::encode(format.clone(), shape, &src, rounding).unwrap();
    let mut want = vec![0.0; src.len()];
    whole.decode_into(&mut want).unwrap();
    let unit = whole.layout().chunk_unit().max(1);
    for chunk in [unit, 2 * unit, 7 * unit] {
        let bytes = vec![0xa5; whole.bytes().len()];
        let mut parts =
            Packed::from_parts(format.clone(), shape, whole.header().to_vec(), bytes).unwrap();
        let mut back = Vec::new();
        for mut part in parts.chunks_mut(chunk) {
            let (first, values) = (part.first(), part.values());
            // One unit first and then the rest: tiles inside a chunk count from its start.
            let cut = first + unit.min(values);
            part.encode(0, &src[first..cut], rounding);
            part.encode(cut - first, &src[cut..first + values], rounding);
            let mut tile = vec![0.0; values];
            part.decode(0, &mut tile);
            back.extend(tile);
        }
        assert!(parts.bytes() == whole.bytes(), "{format} {shape:?} {chunk}");
        assert_eq!(back, want, "{format} {shape:?} {chunk}");
    }
}

#[test]
fn wrong_lengths_are_errors() {
    for format in formats() {
        let layout = format.layout([3, 9]);
        let (header, bytes) = (vec![0; layout.header_bytes], vec![0u8; layout.code_bytes()]);
        let made = |header: &[u8], bytes: &[u8]| {
            Packed::from_parts(format.clone(), [3, 9], header.to_vec(), bytes.to_vec())
        };
        let mut good = made(&header, &bytes).unwrap();
        let length = |error| matches!(error, Err(Error::Length { .. }));
        assert!(length(made(&header, &bytes[1..]).map(drop)));
        assert!(length(made(&[&header[..], &[0]].concat(), &bytes).map(drop)));
        assert!(length(good.decode_into(&mut [0.0; 26])));
        assert!(length(good.encode_from(&[0.0; 28], Rounding::Nearest)));
        assert!(length(good.copy_from_parts(&header, &bytes[1..])));
        let huge = Packed::from_parts(format.clone(), [usize::MAX; 2], header, bytes);
        assert!(length(huge.map(drop)));
    }
}

#[test]
fn plain_f32_is_read_and_written_in_place() {
    for format in formats() {
        let src = values(&format, 12, 4);
        let mut packed = Packed::encode(format.clone(), [3, 4], &src, Rounding::Nearest).unwrap();
        assert!(format.is_plain_f32() || packed.as_f32().is_none());
        // A `Vec<u8>` need not be aligned, so the view may be refused, but must be right.
        if let Some(values) = packed.as_f32_mut() {
            values[5] = 7.0;
            assert_eq!(packed.as_f32().unwrap()[5], 7.0);
            assert_eq!(packed.as_f32().unwrap()[..5], src[..5]);
        }
    }
}

#[test]
fn names_carry_block_and_sign() {
    let toy = Format::new(Toy { block: 64, row_aligned: false, sign: Sign::Signed });
    assert_eq!(toy.to_string(), "toy/64");
    assert_eq!(toy.signed_as(Sign::Unsigned).to_string(), "toy/64/unsigned");
    assert_eq!(toy.with_block(256).unwrap().to_string(), "toy/256");
    assert_ne!(toy, toy.with_block(256).unwrap());
    assert_eq!(Format::F32.signed_as(Sign::Unsigned), Format::F32);
}

#[test]
fn stochastic_rounding_is_unbiased_in_every_format_that_cuts_nothing_off() {
    let cuts_off = |format: &Format| ["ternary", "nf4-dq"].contains(&format.name());
    for format in formats().into_iter().filter(|format| !cuts_off(format)) {
        let n = 4096;
        // One large value sets the scale; the others lie between codes.
        let src: Vec<f32> = (0..n).map(|i| if i % 8 == 0 { 1.0 } else { 0.3001 }).collect();
        let mut sum = 0.0f64;
        let mut back = vec![0.0; n];
        for key in 0..16 {
            let rounding = Rounding::Stochastic { key, first_index: 0 };
            let packed = Packed::encode(format.clone(), [1, n], &src, rounding).unwrap();
            packed.decode_into(&mut back).unwrap();
            sum += back.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
        let exact = 16.0 * src.iter().map(|x| f64::from(*x)).sum::<f64>();
        let mean_error = (sum - exact) / (16.0 * n as f64);
        let (of_value, of_largest) = bound(&format);
        let half_step = f64::from(of_value + of_largest);
        // Four deviations of the mean of 57,000 draws.
        assert!(mean_error.abs() <= 4.0 * half_step / 57_000f64.sqrt(), "{format}: {mean_error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_decode(
        rows in 0usize..6,
        cols in 0usize..90,
        noise in proptest::collection::vec(any::<u8>(), 4096),
    ) {
        for format in formats() {
            let layout = format.layout([rows, cols]);
            let header = noise[..layout.header_bytes].to_vec();
            let bytes: Vec<u8> = noise.iter().cycle().take(layout.code_bytes()).copied().collect();
            let packed = Packed::from_parts(format, [rows, cols], header, bytes).unwrap();
            packed.decode_into(&mut vec![0.0; rows * cols]).unwrap();
        }
    }

    #[test]
    fn any_values_encode(bits in proptest::collection::vec(any::<u32>(), 0..300)) {
        let src: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for format in formats() {
            for rounding in [Rounding::Nearest, STOCHASTIC] {
                let packed = Packed::encode(format.clone(), [1, src.len()], &src, rounding).unwrap();
                packed.decode_into(&mut vec![0.0; src.len()]).unwrap();
            }
        }
    }
}

/// What marks a value that is no number, and how far: see the file of each format.
#[test]
fn what_is_no_number_is_seen_and_stays_in_its_block() {
    // Formats of single values, and one whose codes have no room for a mark.
    let unmarked = ["f32", "bf16", "f16", "toy", "ternary"];
    for format in formats().into_iter().filter(|format| !unmarked.contains(&format.name())) {
        let block = format.layout([1, 1]).block_values;
        let clean = values(&format, 3 * block, 8);
        let decoded = |values: &[f32], rounding| {
            let shape = [1, values.len()];
            let packed = Packed::encode(format.clone(), shape, values, rounding).unwrap();
            let mut back = vec![0.0; values.len()];
            packed.decode_into(&mut back).unwrap();
            back
        };
        for (wrong, rounding) in [
            (f32::NAN, Rounding::Nearest),
            (f32::INFINITY, STOCHASTIC),
            (f32::NEG_INFINITY, Rounding::Nearest),
        ] {
            let mut spoiled = clean.clone();
            spoiled[block + block / 2] = wrong;
            // A scale for the whole tensor is made of the other values.
            let mut others = clean.clone();
            others[block..2 * block].fill(0.0);
            let back = decoded(&spoiled, rounding);
            assert!(back[block + block / 2].is_nan(), "{format} {wrong}");
            let outside = back[..block].iter().chain(&back[2 * block..]);
            assert!(outside.clone().all(|x| x.is_finite()), "{format} {wrong}");
            if format.layout([1, 1]).header_bytes == 0 {
                let expected = decoded(&others, rounding);
                let expected = expected[..block].iter().chain(&expected[2 * block..]);
                assert!(outside.eq(expected), "{format} {wrong}");
            }
        }
    }
}

#[test]
fn extreme_numbers_stay_numbers() {
    // Past it, bf16 rounds to infinity.
    let sizes = [3.38e38, 1e38, 1e-30, f32::MIN_POSITIVE, f32::from_bits(1)];
    for format in formats().into_iter().filter(|format| format.name() != "toy") {
        for size in sizes.map(|size| if format.name() == "f16" { size.min(65504.0) } else { size })
        {
            let src: Vec<f32> = (0..300).map(|i| size * ((i % 7) as f32 / 6.0)).collect();
            let packed = Packed::encode(format.clone(), [1, 300], &src, Rounding::Nearest).unwrap();
            let mut back = vec![0.0; 300];
            packed.decode_into(&mut back).unwrap();
            // An f16 scale has an end, as ggml's formats do.
            let ends = ["q8_0", "tq1_0", "tq2_0"].contains(&format.name()) && size > 65504.0;
            assert!(ends || back.iter().all(|x| x.is_finite()), "{format} {size:e}");
        }
    }
}

#[test]
fn formats_that_keep_what_is_positive_do() {
    let keeping = formats().into_iter().filter(|format| format.keeps_positive());
    let mut names = Vec::new();
    for format in keeping {
        for exponent in [-44, -38, -30, -9, 0, 30] {
            let src: Vec<f32> = (0..600).map(|i| 10f32.powi(exponent - i % 12)).collect();
            for rounding in [Rounding::Nearest, STOCHASTIC] {
                let packed = Packed::encode(format.clone(), [1, 600], &src, rounding).unwrap();
                let mut back = vec![0.0; 600];
                packed.decode_into(&mut back).unwrap();
                // The smallest bf16 is 2^-133.
                let floor = if format.name() == "bf16" { 1e-40 } else { 0.0 };
                let kept = src.iter().zip(&back).all(|(x, y)| *x <= floor || *y > 0.0);
                assert!(kept, "{format} 1e{exponent} {rounding:?}");
            }
        }
        names.push(format.name().to_owned());
    }
    names.dedup();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["bf16", "f32", "int8", "int8-dynamic"]);
}

/// A momentum that turned round would push the wrong way; one that became zero waits.
#[test]
fn no_value_changes_its_sign() {
    for format in formats() {
        let src = values(&format, 3 * 1024, 11);
        for rounding in [Rounding::Nearest, STOCHASTIC] {
            let packed = Packed::encode(format.clone(), [3, 1024], &src, rounding).unwrap();
            let mut back = vec![0.0; src.len()];
            packed.decode_into(&mut back).unwrap();
            let turned = src.iter().zip(&back).find(|(x, y)| *x * *y < 0.0);
            assert_eq!(turned, None, "{format} {rounding:?}");
        }
    }
}

/// What is left after one rounding is left after another, wherever the largest value of a block has
/// a code of its own.
#[test]
fn what_was_decoded_comes_back() {
    // The largest value of a block is cut off or coded apart, and the next scale is another.
    let moving = ["mxfp4", "nvfp4", "ternary", "nf4-dq", "int4-asym", "toy"];
    for format in formats().into_iter().filter(|format| !moving.contains(&format.name())) {
        let mut src = values(&format, 3 * 1024, 9);
        // A positive largest value, for the dynamic map has no level at -1.
        src.chunks_mut(8).for_each(|block| block[3] = 20.0);
        let decoded = |values: &[f32], rounding| {
            let packed = Packed::encode(format.clone(), [3, 1024], values, rounding).unwrap();
            let mut back = vec![0.0; values.len()];
            packed.decode_into(&mut back).unwrap();
            back
        };
        let once = decoded(&src, Rounding::Nearest);
        for rounding in [Rounding::Nearest, STOCHASTIC] {
            for (x, y) in once.iter().zip(decoded(&once, rounding)) {
                assert!((x - y).abs() <= 2e-6 * x.abs(), "{format} {rounding:?}: {x} {y}");
            }
        }
    }
}
