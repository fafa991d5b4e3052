//! Every level, every midpoint, every size.

use super::*;
use crate::rng::bits32;

type Coder = (&'static [f32], fn(f32) -> u8, fn(f32, u32) -> u8);

const CODERS: [Coder; 3] = [
    (&DYNAMIC, dynamic_nearest, dynamic_stochastic),
    (&DYNAMIC_UNSIGNED, dynamic_unsigned_nearest, dynamic_unsigned_stochastic),
    (&NF4, nf4_nearest, nf4_stochastic),
];

#[test]
fn the_maps_have_the_known_levels() {
    for map in [&DYNAMIC, &DYNAMIC_UNSIGNED] {
        assert!(map.windows(2).all(|pair| pair[0] < pair[1]), "ascending");
    }
    assert_eq!((DYNAMIC[0], DYNAMIC[127], DYNAMIC[128]), (-0.992_968_74, 0.0, 5.500_000_4e-7));
    assert_eq!((DYNAMIC_UNSIGNED[0], DYNAMIC_UNSIGNED[1]), (0.0, 3.250_000_3e-7));
    assert_eq!(DYNAMIC_UNSIGNED[253..], [0.989_453_1, 0.996_484_4, 1.0]);
}

#[test]
fn every_level_survives_both_roundings() {
    for (levels, nearest, stochastic) in CODERS {
        for (code, level) in levels.iter().enumerate() {
            assert_eq!(usize::from(nearest(*level)), code, "{level:e}");
            for random in [0, u32::MAX] {
                assert_eq!(usize::from(stochastic(*level, random)), code, "{level:e}");
            }
        }
    }
}

/// Around every midpoint, where a place that is off by a little would show.
#[test]
fn nearest_is_nearest() {
    for (levels, nearest, _) in CODERS {
        for (code, pair) in levels.windows(2).enumerate() {
            let midpoint = (pair[0] + pair[1]) / 2.0;
            let [below, above] = [midpoint.next_down(), midpoint.next_up()];
            let expected = if pair[0] == 0.0 && levels[0] == 0.0 { 1 } else { code };
            assert_eq!(usize::from(nearest(below)), expected, "below {midpoint:e}");
            assert_eq!(usize::from(nearest(above)), code + 1, "above {midpoint:e}");
            for i in 0..1000 {
                let share = i as f32 / 1000.0;
                let value = pair[0] + share * (pair[1] - pair[0]);
                if value == midpoint {
                    continue;
                }
                let expected = code + usize::from(value > midpoint);
                let floor = usize::from(levels[0] == 0.0 && value > 0.0);
                assert_eq!(usize::from(nearest(value)), expected.max(floor), "{value:e}");
            }
        }
    }
}

#[test]
fn stochastic_takes_the_neighbours_with_the_mean_of_the_value() {
    for (levels, _, stochastic) in CODERS {
        for (code, pair) in levels.windows(2).enumerate() {
            let value = pair[0] + 0.3 * (pair[1] - pair[0]);
            if levels[0] == 0.0 && code == 0 {
                continue;
            }
            let n = 4000;
            let up = (0..n).filter(|i| {
                let drawn = usize::from(stochastic(value, bits32(9, *i)));
                assert!(drawn == code || drawn == code + 1, "{value:e}: {drawn}");
                drawn == code + 1
            });
            let up = up.count() as f64 / n as f64;
            // Five deviations, for there are hundreds of levels.
            assert!((up - 0.3).abs() < 5.0 * (0.21 / n as f64).sqrt(), "{value:e}: {up}");
        }
    }
}

/// All 2^32 would take minutes: every size to 14 bits of fraction, with the ones beside it.
#[test]
fn levels_agree_on_every_size() {
    let bits = (0..0x3f80_0000 >> 9).flat_map(|upper: u32| [upper << 9, (upper << 9) + 1]);
    let values: Vec<f32> = bits.map(f32::from_bits).flat_map(|x| [x, -x]).collect();
    for rounding in [Rounding::Nearest, Rounding::Stochastic { key: 1, first_index: 7 }] {
        let coded = |encode: Encode, level| {
            let mut codes = vec![0; values.len()];
            encode(level, &values, 1.0, &mut codes, rounding);
            codes
        };
        for encode in [encode_dynamic as Encode, encode_dynamic_unsigned, encode_nf4] {
            let expected = coded(encode, Level::Portable);
            for level in Level::available() {
                let ours = coded(encode, level);
                let wrong = ours.iter().zip(&expected).position(|(a, b)| a != b);
                assert_eq!(wrong.map(|i| (values[i], ours[i], expected[i])), None, "{level:?}");
            }
        }
    }
}

type Encode = fn(Level, &[f32], f32, &mut [u8], Rounding);

#[test]
fn nothing_positive_becomes_zero_without_a_sign() {
    for value in [f32::MIN_POSITIVE, f32::from_bits(1), 1e-9, 1.6e-7] {
        assert_eq!(dynamic_unsigned_nearest(value), 1);
        assert_eq!(dynamic_unsigned_stochastic(value, 0), 1);
    }
    assert_eq!([-0.5, -0.0, 0.0].map(dynamic_unsigned_nearest), [0; 3]);
    assert_eq!([-1.0, 1.0].map(dynamic_nearest), [0, 255]);
}
