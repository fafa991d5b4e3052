//! Scalar functions that vectorise, and sums in a fixed order.

use crate::tensor::Element;

/// Lanes of every sum below: the same order at every kernel level.
pub(crate) const LANES: usize = 16;

/// `e^x` to about 1e-7 relative for -87 <= x <= 88; smaller x gives about 1e-38, larger the largest power.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln(2)/2, found by the rounding of a large sum.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let p = 1.0 / 120.0 + r * p;
    let p = 1.0 / 24.0 + r * p;
    let p = 1.0 / 6.0 + r * p;
    let p = 0.5 + r * p;
    let p = 1.0 + r * p;
    let p = 1.0 + r * p;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function to about 4e-7 relative: a quotient of polynomials, as in Eigen.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let s = x * x;
    let p = 2.770_681_5e-8 + s * -2.726_142_4e-10;
    let p = -2.101_024e-6 + s * p;
    let p = -5.692_506_2e-5 + s * p;
    let p = -7.349_906_4e-4 + s * p;
    let p = -2.954_6e-3 + s * p;
    let p = -1.609_603_3e-2 + s * p;
    let q = -2.133_740_5e-4 + s * -1.456_607_15e-5;
    let q = -1.682_827e-3 + s * q;
    let q = -7.373_329_3e-3 + s * q;
    let q = -1.426_473_9e-2 + s * q;
    x * p / q
}

/// Dot product of equally long rows, over [`LANES`] lanes that are added pairwise at the end.
#[inline(always)]
pub(crate) fn dot<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
    let mut sums = [0f32; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = whole_a.remainder().iter().zip(whole_b.remainder());
    for (a, b) in whole_a.zip(whole_b) {
        for l in 0..LANES {
            sums[l] += a[l].to_f32() * b[l].to_f32();
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(rest) {
        *sum += a.to_f32() * b.to_f32();
    }
    add_lanes(sums)
}

/// Sum of `a b c` over equally long rows, in the order of [`dot`].
#[inline(always)]
pub(crate) fn dot3<A: Element, B: Element>(a: &[A], b: &[B], c: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (whole_a, whole_b, whole_c) =
        (a.chunks_exact(LANES), b.chunks_exact(LANES), c.chunks_exact(LANES));
    let rest = whole_a.remainder().iter().zip(whole_b.remainder()).zip(whole_c.remainder());
    for ((a, b), c) in whole_a.zip(whole_b).zip(whole_c) {
        for l in 0..LANES {
            sums[l] += a[l].to_f32() * b[l].to_f32() * c[l];
        }
    }
    for (sum, ((a, b), c)) in sums.iter_mut().zip(rest) {
        *sum += a.to_f32() * b.to_f32() * c;
    }
    add_lanes(sums)
}

/// The lanes of a sum, added pairwise.
#[inline(always)]
pub(crate) fn add_lanes(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

/// The largest of `n` values; -infinity for none.
#[inline(always)]
pub(crate) fn lane_max(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (m, v) in most.iter_mut().zip(chunk) {
            *m = if *v > *m { *v } else { *m };
        }
    }
    let max = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    rest.iter().fold(max, |a, b| a.max(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "exp({x})");
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn erf_matches_the_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, exact) in [
            (0.02, 0.022_564_574_7),
            (0.1, 0.112_462_916_0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (1.5, 0.966_105_146_5),
            (2.0, 0.995_322_265_0),
            (3.0, 0.999_977_909_5),
        ] {
            assert!((f64::from(erf(x as f32)) / exact - 1.0).abs() < 1e-6, "erf({x})");
            assert_eq!(erf(-x as f32), -erf(x as f32));
        }
        assert_eq!((erf(0.0), erf(f32::INFINITY), erf(f32::MIN)), (0.0, 1.0, -1.0));
    }

    #[test]
    fn lane_sums_take_every_term_once() {
        for n in [0usize, 1, 15, 16, 17, 40] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let sum = (n * n.saturating_sub(1) / 2) as f32;
            assert_eq!(dot(&x, &vec![1f32; n]), sum);
            assert_eq!(dot3(&x, &vec![2f32; n], &vec![0.5; n]), sum);
        }
        assert_eq!(lane_max(&[1.0, 7.0, -2.0]), 7.0);
    }
}
