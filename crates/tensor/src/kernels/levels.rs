//! For tests: a loop gives the same bits at every kernel level.

use half::bf16;
use smidgen_codec::Rng;

use crate::Level;
use crate::tensor::Element;

/// Lengths around the lanes of a vector, and none.
pub(crate) const LENGTHS: [usize; 9] = [0, 1, 7, 15, 16, 17, 31, 33, 300];

/// Normals with zeros, denormals, large and infinite values among them.
pub(crate) fn wild<A: Element>(seed: u64, len: usize) -> Vec<A> {
    const RARE: [f32; 8] = [0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 100.0, -100.0];
    let rng = Rng::named(seed, "levels");
    let value = |i: u64| match rng.below(0, 1, i, 6) {
        0 => RARE[rng.below(0, 2, i, 8) as usize],
        _ => rng.normal(0, 3, i) as f32,
    };
    (0..len as u64).map(|i| A::from_f32(value(i))).collect()
}

/// Normals alone, for loops whose sums would drown in large values.
pub(crate) fn tame<A: Element>(seed: u64, len: usize) -> Vec<A> {
    let rng = Rng::named(seed, "levels");
    (0..len as u64).map(|i| A::from_f32(rng.normal(0, 3, i) as f32)).collect()
}

/// The bits of values of either format; every NaN is the same one.
pub(crate) fn bits<A: Element>(values: &[A]) -> Vec<u32> {
    let one = |v: &A| if v.to_f32().is_nan() { f32::NAN } else { v.to_f32() };
    values.iter().map(|v| one(v).to_bits()).collect()
}

/// Runs a loop at every level and compares what it gives.
pub(crate) fn same_at_every_level<R: PartialEq>(name: &str, run: impl Fn(Level) -> R) {
    let portable = run(Level::Portable);
    for level in Level::available() {
        assert!(run(level) == portable, "`{name}` differs at {}", level.name());
    }
}

/// Calls a generic check for f32 and for bf16.
macro_rules! for_formats {
    ($check:ident($($arg:expr),*)) => {{
        $check::<f32>($($arg),*);
        $check::<half::bf16>($($arg),*);
    }};
}
pub(crate) use for_formats;

#[test]
fn wild_values_hold_both_tame_and_rare_ones() {
    let values = wild::<f32>(1, 300);
    assert!(values.iter().any(|v| v.abs() > 1e38) && values.iter().any(|v| v.is_subnormal()));
    assert_eq!(bits(&[bf16::NAN, bf16::ONE]), [f32::NAN.to_bits(), 1f32.to_bits()]);
}
