//! Wilson's interval for a share that was counted.
//!
//! With p = k/n and z the normal quantile: centre (p + z^2/2n) / (1 + z^2/n), half width
//! z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n). It stays within 0..1 and is honest at 0 and n.
//! Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927).

/// The quantile of 97.5 %: an interval that covers 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of `hits` among `of`; `(0, 1)` where nothing was counted.
pub fn wilson(hits: usize, of: usize) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (of as f64, hits as f64 / of as f64);
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    // Exact at the ends, where rounding would leave a remainder.
    let low = if hits == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if hits == of { 1.0 } else { (centre + half).min(1.0) };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From `scripts/golden_wilson.py`, which solves the quadratic in 50 digits.
    const GOLDEN: &str = include_str!("../../../../testdata/golden/wilson.json");

    #[test]
    fn the_golden_intervals() {
        let rows: Vec<(usize, usize, f64, f64)> = serde_json::from_str(GOLDEN).unwrap();
        assert!(rows.len() > 20);
        for (hits, of, low, high) in rows {
            let got = wilson(hits, of);
            assert!((got.0 - low).abs() < 1e-14, "{hits}/{of}: {got:?}");
            assert!((got.1 - high).abs() < 1e-14, "{hits}/{of}: {got:?}");
        }
    }

    proptest! {
        #[test]
        fn holds_the_share_and_mirrors(of in 1_usize..500, part in 0.0_f64..=1.0) {
            let hits = (of as f64 * part) as usize;
            let (low, high) = wilson(hits, of);
            let share = hits as f64 / of as f64;
            prop_assert!(0.0 <= low && low <= share && share <= high && high <= 1.0);
            let (other_low, other_high) = wilson(of - hits, of);
            prop_assert!((other_low - (1.0 - high)).abs() < 1e-12);
            prop_assert!((other_high - (1.0 - low)).abs() < 1e-12);
        }
    }
}
