//! Every level gives the bytes and the values of the portable one.

use super::fixed::{self, Fixed, FixedCode};
use super::int8::Int8Unsigned;
use super::int8_dynamic::Int8DynamicUnsigned;
use super::scaled::{self, BlockCode, Scaled};
use super::*;
use crate::{Codec, Level, Rng, Rounding, Stream};

/// Lengths around registers, tiles and blocks.
const LENGTHS: [usize; 9] = [0, 1, 15, 16, 63, 65, 250, 1000, 17_000];
/// The index of the draws crosses 32 bits in every run but the first.
const ROUNDINGS: [Rounding; 3] = [
    Rounding::Nearest,
    Rounding::Stochastic { key: 0x0123_4567_89ab_cdef, first_index: 0 },
    Rounding::Stochastic { key: 99, first_index: (1 << 32) - 40 },
];

/// Values of all kinds: normal ones over many decades, zeros, what is no number, and the extremes.
fn values(count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Rng::new(5, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
    let special = [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, -f32::from_bits(1), -0.0];
    for (i, value) in values.iter_mut().enumerate() {
        *value *= 10f32.powi(-((i / 7 % 9) as i32));
        match i {
            // Whole blocks of zeros, of tiny values, and of few levels with many ties.
            2048..2400 => *value = 0.0,
            2400..2700 => *value *= 1e-38,
            3000..3600 => *value = (i % 13) as f32 - 6.0,
            _ if i % 1531 == 1530 => *value = special[i / 1531 % special.len()],
            _ => {}
        }
    }
    values
}

/// Compares `coded(level, values, rounding)`, bytes and then bits, of every level.
fn compare(name: &str, coded: impl Fn(Level, &[f32], Rounding) -> (Vec<u8>, Vec<f32>)) {
    for count in LENGTHS {
        let values = values(count);
        for rounding in ROUNDINGS {
            let (bytes, back) = coded(Level::Portable, &values, rounding);
            for level in Level::available() {
                let (ours, ours_back) = coded(level, &values, rounding);
                assert!(ours == bytes, "{name} {level:?} {count} {rounding:?}: bytes");
                let same =
                    |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
                assert!(ours_back.iter().zip(&back).all(same), "{name} {level:?} {count}: values");
            }
        }
    }
}

fn of_blocks<C: BlockCode>(code: C) {
    for block in [C::BLOCK, 8, 72, 1024] {
        compare(&format!("{}/{block} {:?}", C::NAME, code), |level, values, rounding| {
            let format = Scaled::with_block(code, block).expect("a possible block");
            let mut bytes = vec![0xa5; format.layout([1, values.len()]).code_bytes()];
            scaled::encode_blocks::<C>(level, level, block, values, &mut bytes, rounding);
            let mut back = vec![0.5; values.len()];
            scaled::decode_blocks::<C>(level, level, block, &bytes, &mut back);
            (bytes, back)
        });
    }
}

fn of_fixed<C: FixedCode>(code: C) {
    compare(C::NAME, |level, values, rounding| {
        let mut bytes = vec![0xa5; Fixed(code).layout([1, values.len()]).code_bytes()];
        let finite: Vec<f32> = values.iter().copied().filter(|x| x.abs() < 1e9).collect();
        let tensor = C::TENSOR_SCALE.map_or(1.0, |scale| scale(&finite));
        fixed::encode_blocks::<C>(level, tensor, values, &mut bytes, rounding);
        let mut back = vec![0.5; values.len()];
        fixed::decode_blocks::<C>(level, tensor, &bytes, &mut back);
        (bytes, back)
    });
}

#[test]
fn blocks_with_a_scale() {
    of_blocks(Int8);
    of_blocks(Int8Unsigned);
    of_blocks(Int8Dynamic);
    of_blocks(Int8DynamicUnsigned);
    of_blocks(Int6);
    of_blocks(Int4);
    of_blocks(Int4Asym);
    of_blocks(Int2);
    of_blocks(Nf4);
    of_blocks(Fp8E4M3);
    of_blocks(Fp8E5M2);
    of_blocks(E2M1Scaled);
}

#[test]
fn blocks_of_fixed_size() {
    of_fixed(Mxfp4);
    of_fixed(Nvfp4);
    of_fixed(Ternary);
    of_fixed(Tq1_0);
    of_fixed(Tq2_0);
    of_fixed(Q8_0);
}

#[test]
fn double_quantisation() {
    compare("nf4-dq", |level, values, rounding| {
        let mut bytes = vec![0xa5; Nf4Dq.layout([1, values.len()]).code_bytes()];
        nf4_dq::encode_groups(level, 0.7, values, &mut bytes, rounding);
        let mut back = vec![0.5; values.len()];
        nf4_dq::decode_groups(level, 0.7, &bytes, &mut back);
        (bytes, back)
    });
}
