//! Medians and percentiles of what was measured several times.

use serde::Serialize;

/// The middle of some measurements, and their ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// The spread of at least one measurement.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let values = sorted(values);
        Spread {
            median: percentile(&values, 50),
            least: percentile(&values, 0),
            most: percentile(&values, 100),
        }
    }

    /// The median with the ends behind it.
    pub(super) fn cell(&self, digits: usize) -> String {
        let Spread { median, least, most } = self;
        format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// What a half, nineteen of twenty and ninety-nine of a hundred measurements do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50_us: f64,
    pub(super) p95_us: f64,
    pub(super) p99_us: f64,
}

impl Percentiles {
    /// Those of some microseconds.
    pub(super) fn of(us: impl IntoIterator<Item = f64>) -> Percentiles {
        let us = sorted(us);
        let [p50_us, p95_us, p99_us] = [50, 95, 99].map(|percent| percentile(&us, percent));
        Percentiles { p50_us, p95_us, p99_us }
    }

    pub(super) fn cells(&self) -> [String; 3] {
        [self.p50_us, self.p95_us, self.p99_us].map(|time| format!("{time:.1}"))
    }
}

/// Measurements in ascending order.
pub(super) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The least value that so many percent do not exceed; of none 0.
pub(super) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = sorted((1..=200).rev().map(f64::from));
        let at = |percent| percentile(&values, percent);
        assert_eq!([at(0), at(50), at(95), at(99), at(100)], [1.0, 100.0, 190.0, 198.0, 200.0]);
        assert_eq!([percentile(&[7.0], 99), percentile(&[], 50)], [7.0, 0.0]);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).cell(1), "2.0 (1.0 to 3.0)");
    }
}
