//! How sure a figure is: intervals by resampling, an exact test, rank correlation, quantiles.
//!
//! Bootstrap: 10,000 times as many clusters as there are (an entity with all its items, or each item by
//! itself) are drawn with replacement, and the mean over their items is taken; the interval is what lies
//! between the 2.5 % and the 97.5 % quantile. Comparisons are of the same items: the differences are
//! resampled. Draws are a function of (seed, resample, place), so a figure does not depend on threads.
//! McNemar: items on which two methods differ fall to either with probability 1/2 if neither is better.
//! Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993); McNemar (1947).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smidgen_codec::Rng;

use crate::Error;

/// Resamples of a bootstrap.
pub const RESAMPLES: u64 = 10_000;

/// A mean and the interval that covers 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Mean over all items.
    pub mean: f64,
    /// 2.5 % of the resampled means lie below.
    pub low: f64,
    /// 2.5 % of them lie above.
    pub high: f64,
}

impl Interval {
    /// Whether a target lies inside.
    pub fn holds(&self, target: f64) -> bool {
        self.low <= target && target <= self.high
    }

    /// Whether a difference is above nothing.
    pub fn is_positive(&self) -> bool {
        self.low > 0.0
    }
}

/// The mean of `values` with its interval. Items of one cluster are drawn together; without clusters
/// each item is one.
///
/// # Errors
/// [`Error::Length`] where there are no values, or not as many clusters.
pub fn bootstrap(values: &[f64], clusters: Option<&[u64]>, seed: u64) -> Result<Interval, Error> {
    let drawn = Cluster::of(values, clusters)?;
    let rng = Rng::named(seed, "bootstrap");
    let count = drawn.len() as u64;
    let resampled = |resample| {
        let places = (0..count).map(|place| rng.below(resample, 0, place, count) as usize);
        Cluster::mean(places.map(|place| drawn[place]))
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(resampled).collect();
    means.sort_by(f64::total_cmp);
    let mean = Cluster::mean(drawn.iter().copied());
    Ok(Interval { mean, low: sorted_quantile(&means, 0.025), high: sorted_quantile(&means, 0.975) })
}

/// The mean of `first - second` over the same items, with its interval.
///
/// # Errors
/// As for [`bootstrap`], and where the two are not of equal length.
pub fn paired(
    first: &[f64],
    second: &[f64],
    clusters: Option<&[u64]>,
    seed: u64,
) -> Result<Interval, Error> {
    same_length("paired values", first.len(), second.len())?;
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    bootstrap(&differences, clusters, seed)
}

/// Sum and number of the values that are drawn together.
#[derive(Clone, Copy, Debug, Default)]
struct Cluster {
    sum: f64,
    items: usize,
}

impl Cluster {
    /// In the order of their ids, or of the values.
    fn of(values: &[f64], clusters: Option<&[u64]>) -> Result<Vec<Cluster>, Error> {
        if values.is_empty() {
            return Err(Error::Length { what: "values to resample", expected: 1, got: 0 });
        }
        let Some(ids) = clusters else {
            return Ok(values.iter().map(|value| Cluster { sum: *value, items: 1 }).collect());
        };
        same_length("clusters", values.len(), ids.len())?;
        let mut by_id: BTreeMap<u64, Cluster> = BTreeMap::new();
        for (id, value) in ids.iter().zip(values) {
            let cluster = by_id.entry(*id).or_default();
            cluster.sum += value;
            cluster.items += 1;
        }
        Ok(by_id.into_values().collect())
    }

    fn mean(clusters: impl Iterator<Item = Cluster>) -> f64 {
        let (sum, items) = clusters
            .fold((0.0, 0), |(sum, items), cluster| (sum + cluster.sum, items + cluster.items));
        sum / items as f64
    }
}

fn same_length(what: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

/// The two-sided p-value of McNemar's exact test for two methods on the same items.
///
/// # Errors
/// [`Error::Length`] where the two are not of equal length.
pub fn mcnemar(first: &[bool], second: &[bool]) -> Result<f64, Error> {
    same_length("paired answers", first.len(), second.len())?;
    let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
    let (ours, theirs) = (only(first, second), only(second, first));
    let (fewer, all) = (ours.min(theirs), ours + theirs);
    // Binomial terms by their ratio, in logarithms: 2^-n is no number for many items.
    let mut term = -(all as f64) * std::f64::consts::LN_2;
    let mut tail = term.exp();
    for k in 0..fewer {
        term += ((all - k) as f64 / (k + 1) as f64).ln();
        tail += term.exp();
    }
    Ok((2.0 * tail).min(1.0))
}

/// Spearman's rank correlation, ties at their mean rank; nothing where one side is constant.
///
/// # Errors
/// [`Error::Length`] where the two are not of equal length.
pub fn spearman(first: &[f64], second: &[f64]) -> Result<Option<f64>, Error> {
    same_length("values to rank", first.len(), second.len())?;
    let (a, b) = (ranks(first), ranks(second));
    let middle = (first.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum()
    };
    let norm = (product(&a, &a) * product(&b, &b)).sqrt();
    Ok((norm > 0.0).then(|| product(&a, &b) / norm))
}

/// Ranks from 1 on, equal values at the mean of their places.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = first as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|place| ranks[*place] = rank);
        first += tied.len();
    }
    ranks
}

/// Share of the `k` largest of one side that are among the `k` largest of the other, the earlier of
/// equal ones first; 1 for `k = 0`.
///
/// # Errors
/// [`Error::Length`] where the two are not of equal length, or shorter than `k`.
pub fn overlap_at(first: &[f64], second: &[f64], k: usize) -> Result<f64, Error> {
    same_length("values to rank", first.len(), second.len())?;
    if k > first.len() {
        return Err(Error::Length { what: "values to rank", expected: k, got: first.len() });
    }
    let top = |values: &[f64]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
        order.truncate(k);
        order
    };
    let (ours, theirs) = (top(first), top(second));
    let common = ours.iter().filter(|place| theirs.contains(place)).count();
    Ok(if k == 0 { 1.0 } else { common as f64 / k as f64 })
}

/// The quantile `q` in 0..=1, between two values on the line between them; nothing of none.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| sorted_quantile(&sorted, q))
}

fn sorted_quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From `scripts/golden_stats.py`, which knows this code only by its description.
    const GOLDEN: &str = include_str!("../../../testdata/golden/stats.json");

    #[derive(Deserialize)]
    struct Golden {
        bootstrap: Vec<Resampled>,
        mcnemar: Vec<(Vec<bool>, Vec<bool>, f64)>,
        spearman: Vec<(Vec<f64>, Vec<f64>, Option<f64>)>,
        quantile: Vec<(Vec<f64>, f64, f64)>,
    }

    #[derive(Deserialize)]
    struct Resampled {
        values: Vec<f64>,
        clusters: Option<Vec<u64>>,
        seed: u64,
        mean: f64,
        low: f64,
        high: f64,
    }

    fn near(got: f64, expected: f64) -> bool {
        (got - expected).abs() <= 1e-12 * expected.abs().max(1.0)
    }

    #[test]
    fn the_golden_figures() {
        let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
        for row in golden.bootstrap {
            let got = bootstrap(&row.values, row.clusters.as_deref(), row.seed).unwrap();
            let pairs = [(got.mean, row.mean), (got.low, row.low), (got.high, row.high)];
            assert!(pairs.iter().all(|(got, expected)| near(*got, *expected)), "{pairs:?}");
        }
        for (first, second, p) in golden.mcnemar {
            assert!(near(mcnemar(&first, &second).unwrap(), p), "{p}");
        }
        for (first, second, rho) in golden.spearman {
            let got = spearman(&first, &second).unwrap();
            assert_eq!(got.is_some(), rho.is_some());
            assert!(near(got.unwrap_or(0.0), rho.unwrap_or(0.0)), "{got:?} {rho:?}");
        }
        for (values, q, expected) in golden.quantile {
            assert!(near(quantile(&values, q).unwrap(), expected));
        }
    }

    #[test]
    fn clusters_that_move_together_are_less_sure() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i / 4 % 2 == 0))).collect();
        let clusters: Vec<u64> = (0..200).map(|i| i / 4).collect();
        let alone = bootstrap(&values, None, 1).unwrap();
        let together = bootstrap(&values, Some(&clusters), 1).unwrap();
        let ratio = (together.high - together.low) / (alone.high - alone.low);
        assert!((ratio - 2.0).abs() < 0.15, "four items say as much as one: {ratio}");
        assert!(alone.holds(0.5));
        assert_eq!(alone.is_positive(), alone.low > 0.0);
        assert_eq!(bootstrap(&values, None, 1).unwrap(), alone);
        assert_ne!(bootstrap(&values, None, 2).unwrap().low, f64::NAN);
    }

    #[test]
    fn lists_that_do_not_fit_are_errors() {
        assert!(bootstrap(&[], None, 0).is_err());
        let short = bootstrap(&[1.0, 2.0], Some(&[1]), 0).unwrap_err().to_string();
        assert_eq!(short, "clusters: expected 2 values, got 1");
        assert!(paired(&[1.0], &[], None, 0).is_err() && mcnemar(&[true], &[]).is_err());
        assert!(spearman(&[1.0], &[]).is_err() && overlap_at(&[1.0], &[1.0], 2).is_err());
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(mcnemar(&[], &[]).unwrap(), 1.0);
    }

    #[test]
    fn the_earlier_of_equal_scores_is_taken() {
        assert_eq!(overlap_at(&[1.0, 1.0, 0.0], &[0.0, 1.0, 1.0], 1).unwrap(), 0.0);
        assert_eq!(overlap_at(&[1.0, 1.0, 0.0], &[0.0, 1.0, 1.0], 2).unwrap(), 0.5);
        assert_eq!(overlap_at(&[3.0, 2.0, 1.0], &[9.0, 5.0, 7.0], 3).unwrap(), 1.0);
    }

    proptest! {
        #[test]
        fn the_mean_lies_inside_and_signs_mirror(
            values in proptest::collection::vec(-1e3..1e3_f64, 1..20), seed in any::<u64>(),
        ) {
            let got = bootstrap(&values, None, seed).unwrap();
            prop_assert!(got.low <= got.mean + 1e-9 && got.mean <= got.high + 1e-9);
            let zeros = vec![0.0; values.len()];
            let other = paired(&zeros, &values, None, seed).unwrap();
            prop_assert!(near(other.low, -got.high) && near(other.high, -got.low));
        }

        #[test]
        fn rank_figures_are_symmetric(
            pairs in proptest::collection::vec((0..9_u8, 0..9_u8), 2..30),
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) =
                pairs.iter().map(|(a, b)| (f64::from(*a), f64::from(*b))).unzip();
            let rho = spearman(&a, &b).unwrap();
            prop_assert_eq!(rho, spearman(&b, &a).unwrap());
            prop_assert!(rho.is_none_or(|rho| rho.abs() <= 1.0 + 1e-12));
            let flags = |values: &[f64]| values.iter().map(|v| *v > 4.0).collect::<Vec<_>>();
            let p = mcnemar(&flags(&a), &flags(&b)).unwrap();
            prop_assert!(p > 0.0 && p <= 1.0);
            prop_assert_eq!(p, mcnemar(&flags(&b), &flags(&a)).unwrap());
        }
    }
}
