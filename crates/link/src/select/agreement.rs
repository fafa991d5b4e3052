//! How well one ranking stands for another: Spearman's rho and the overlap of the first k.
//!
//! rho is Pearson's correlation of the ranks, equal scores sharing the mean of their ranks.

use serde::{Deserialize, Serialize};

/// A prediction beside what it predicts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Spearman's rho, -1..1.
    pub spearman: f64,
    /// Share of the first k that both rankings have, 0..1.
    pub overlap: f64,
    /// k.
    pub k: usize,
}

/// Both figures of one layer or one list of tokens.
pub fn agreement(predicted: &[f32], truth: &[f32], k: usize) -> Agreement {
    Agreement { spearman: spearman(predicted, truth), overlap: overlap_at(predicted, truth, k), k }
}

/// Spearman's rho; 0 where a side has one score only, for it ranks nothing.
pub fn spearman(a: &[f32], b: &[f32]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let moment =
        |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let spread = (moment(&a, &a) * moment(&b, &b)).sqrt();
    if spread > 0.0 { moment(&a, &b) / spread } else { 0.0 }
}

/// The share of the `k` highest of `b` that are among the `k` highest of `a`; ties to the earlier
/// token. 1 for `k` = 0.
pub fn overlap_at(a: &[f32], b: &[f32], k: usize) -> f64 {
    let k = k.min(a.len());
    let (mut first, mut second) = (by_score(a), by_score(b));
    for list in [&mut first, &mut second] {
        list.truncate(k);
        list.sort_unstable();
    }
    let shared = first.iter().filter(|token| second.binary_search(token).is_ok()).count();
    if k == 0 { 1.0 } else { shared as f64 / k as f64 }
}

/// Tokens, the highest score first.
fn by_score(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order
}

/// The rank of each score from 0, equal ones in the middle of their places.
fn ranks(scores: &[f32]) -> Vec<f64> {
    let order = by_score(scores);
    let mut ranks = vec![0.0; scores.len()];
    let mut first = 0;
    for run in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let middle = first as f64 + (run.len() as f64 - 1.0) / 2.0;
        run.iter().for_each(|token| ranks[*token] = middle);
        first += run.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are those of `scipy.stats.spearmanr`.
    #[test]
    fn rho_with_and_without_ties() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(spearman(&a, &[10.0, 20.0, 30.0, 40.0, 50.0]), 1.0);
        assert_eq!(spearman(&a, &[5.0, 4.0, 3.0, 2.0, 1.0]), -1.0);
        let tied = spearman(&a, &[5.0, 6.0, 7.0, 8.0, 7.0]);
        assert!((tied - 0.820_782_681_668_123_3).abs() < 1e-12, "{tied}");
        assert_eq!(spearman(&a, &[1.0; 5]), 0.0);
    }

    #[test]
    fn the_first_k_of_both() {
        let a = [5.0, 4.0, 3.0, 2.0];
        assert_eq!(overlap_at(&a, &[5.0, 1.0, 4.0, 2.0], 2), 0.5);
        assert_eq!(overlap_at(&a, &a, 9), 1.0);
        assert_eq!(overlap_at(&a, &a, 0), 1.0);
    }
}
