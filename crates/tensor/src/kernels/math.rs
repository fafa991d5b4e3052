//! Scalar functions that vectorise, and sums in a fixed order.

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

/// Sum of `term(i)` for i below `n`, over [`LANES`] lanes that are added pairwise at the end.
#[inline(always)]
pub(crate) fn lane_sum(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (l, sum) in sums.iter_mut().enumerate() {
            *sum += term(i + l);
        }
        i += LANES;
    }
    for (l, sum) in sums.iter_mut().enumerate() {
        if whole + l < n {
            *sum += term(whole + l);
        }
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
    fn lane_sums_take_every_term_once() {
        for n in [0, 1, 15, 16, 17, 40] {
            assert_eq!(lane_sum(n, |i| i as f32), (n * n.saturating_sub(1) / 2) as f32);
        }
        assert_eq!(lane_max(&[1.0, 7.0, -2.0]), 7.0);
    }
}
