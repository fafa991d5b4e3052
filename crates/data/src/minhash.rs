//! MinHash: a short signature by which similar sets are found without comparing all pairs.
//!
//! A document is the set of its runs of [`RUN`] words (all its words where it has fewer). Jaccard
//! J(a, b) = |a and b| / |a or b|. For a hash function h, min h(a) = min h(b) with probability J; the
//! signature holds the minima of [`LANES`] functions h(x) = (x ^ b) * a mod 2^32, a odd, on runs that
//! are mixed well before. It is cut into [`BANDS`] bands of [`ROWS`]; two documents are candidates
//! where a band is equal: 1 - (1 - J^6)^32, that is 0.02 at J = 0.3, 0.40 at 0.5, 0.98 at 0.7, and
//! all but 6 in 100 000 at 0.8. Source: Broder, On the resemblance and containment of documents
//! (1997); bands: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.

use smidgen_codec::simd::Level;
use smidgen_codec::{Rng, multiversion};

use crate::words::{runs, words};

/// Words of a run.
pub(crate) const RUN: usize = 5;
/// Bands of a signature.
pub(crate) const BANDS: usize = 32;
const ROWS: usize = 6;
const LANES: usize = BANDS * ROWS;

/// Lanes whose minima stay in registers while the runs go by.
const CHUNK: usize = 32;

/// The runs of a text, sorted and each once. Empty where the text has no word.
pub(crate) fn shingles(text: &str) -> Vec<u64> {
    let words = words(text);
    let mut runs: Vec<u64> = runs(&words, RUN.min(words.len()).max(1)).collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// J of two sorted sets; 0 where one is empty.
pub(crate) fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut left, mut right, mut both) = (a, b, 0_usize);
    while let (Some(x), Some(y)) = (left.first(), right.first()) {
        both += usize::from(x == y);
        left = &left[usize::from(x <= y)..];
        right = &right[usize::from(y <= x)..];
    }
    if both == 0 { 0.0 } else { both as f64 / (a.len() + b.len() - both) as f64 }
}

/// The minima of a set of runs under each function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature([u32; LANES]);

impl Signature {
    /// The share of equal minima: an estimate of J with a deviation of at most 0.037.
    pub(crate) fn similarity(&self, other: &Signature) -> f64 {
        let equal = self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count();
        equal as f64 / LANES as f64
    }

    /// A number for each band.
    pub(crate) fn bands(&self) -> impl Iterator<Item = u64> {
        self.0.chunks_exact(ROWS).map(|rows| {
            let fold = |hash: u64, row: &u32| {
                (hash ^ u64::from(*row)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            };
            rows.iter().fold(0, fold)
        })
    }
}

/// The functions; one set for all runs of the program, so that signatures can be compared.
pub(crate) struct Hasher {
    factors: [u32; LANES],
    masks: [u32; LANES],
    level: Level,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        let rng = Rng::named(0, "minhash");
        let draw = |tensor| std::array::from_fn(|lane| rng.at(0, tensor, lane as u64) as u32);
        let factors: [u32; LANES] = draw(0);
        Self { factors: factors.map(|factor| factor | 1), masks: draw(1), level: Level::detect() }
    }

    /// The signature of a set of runs, in any order, repeated or not; none for an empty one.
    pub(crate) fn sign(&self, shingles: &[u64]) -> Option<Signature> {
        if shingles.is_empty() {
            return None;
        }
        // The runs are mixed: any half of their bits does.
        let short: Vec<u32> = shingles.iter().map(|run| (run >> 32) as u32).collect();
        let mut minima = [u32::MAX; LANES];
        minima_of(self.level, &mut minima, &self.factors, &self.masks, &short);
        Some(Signature(minima))
    }
}

multiversion! {
    fn minima_of(
        minima: &mut [u32; LANES],
        factors: &[u32; LANES],
        masks: &[u32; LANES],
        runs: &[u32],
    ) {
        let functions = factors.as_chunks::<CHUNK>().0.iter().zip(masks.as_chunks::<CHUNK>().0);
        for (least, (factor, mask)) in minima.as_chunks_mut::<CHUNK>().0.iter_mut().zip(functions) {
            let mut held = *least;
            for run in runs {
                for lane in 0..CHUNK {
                    held[lane] = held[lane].min((run ^ mask[lane]).wrapping_mul(factor[lane]));
                }
            }
            *least = held;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prop_assert_eq, proptest};
    use std::collections::BTreeSet;

    fn by_sets(a: &str, b: &str) -> f64 {
        let set = |text: &str| -> BTreeSet<Vec<String>> {
            let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
            words.windows(RUN.min(words.len()).max(1)).map(<[String]>::to_vec).collect()
        };
        let (a, b) = (set(a), set(b));
        let union = a.union(&b).count();
        if union == 0 { 0.0 } else { a.intersection(&b).count() as f64 / union as f64 }
    }

    /// Two sets of `size` numbers that share `shared`.
    fn pair(seed: u64, size: usize, shared: usize) -> (Vec<u64>, Vec<u64>) {
        let rng = Rng::named(seed, "pair");
        let set = |from: usize| {
            let mut set: Vec<u64> =
                (from..from + size).map(|index| rng.at(0, 0, index as u64)).collect();
            set.sort_unstable();
            set
        };
        (set(0), set(size - shared))
    }

    fn candidates(a: &Signature, b: &Signature) -> bool {
        a.bands().zip(b.bands()).any(|(a, b)| a == b)
    }

    #[test]
    fn the_estimate_is_unbiased_and_as_narrow_as_told() {
        let hasher = Hasher::new();
        for (size, shared) in [(9, 8), (90, 80), (300, 100), (2000, 1500)] {
            let trials = 300;
            let mut errors = Vec::new();
            for seed in 0..trials {
                let (a, b) = pair(seed, size, shared);
                let (x, y) = (hasher.sign(&a).unwrap(), hasher.sign(&b).unwrap());
                errors.push(x.similarity(&y) - jaccard(&a, &b));
            }
            let mean = errors.iter().sum::<f64>() / trials as f64;
            let square = errors.iter().map(|error| error * error).sum::<f64>() / trials as f64;
            assert!(mean.abs() < 0.01, "{size} {shared}: mean {mean}");
            assert!(square.sqrt() < 0.045, "{size} {shared}: deviation {}", square.sqrt());
        }
    }

    #[test]
    fn bands_meet_as_often_as_the_formula_says() {
        let hasher = Hasher::new();
        // Of 2 x 120 numbers: J = 0.3, 0.5 and 0.8.
        for (shared, expected) in [(55, 0.022), (80, 0.396), (107, 0.9999)] {
            let met = (0..1000).filter(|seed| {
                let (a, b) = pair(*seed, 120, shared);
                candidates(&hasher.sign(&a).unwrap(), &hasher.sign(&b).unwrap())
            });
            let share = met.count() as f64 / 1000.0;
            assert!((share - expected).abs() < 0.06, "{shared}: {share}");
            assert!(shared != 107 || share > 0.995, "{share}");
        }
    }

    #[test]
    fn every_level_makes_the_same_signature() {
        let runs: Vec<u64> = (0..1000).map(|i| Rng::named(3, "x").at(0, 0, i)).collect();
        let detected = Hasher::new();
        let portable = Hasher { level: Level::Portable, ..Hasher::new() };
        assert_eq!(detected.sign(&runs), portable.sign(&runs));
        assert_eq!(detected.sign(&[]), None);
    }

    proptest! {
        #[test]
        fn jaccard_is_that_of_the_sets(a in "([a-c]{1,2} ){0,30}", b in "([a-c]{1,2} ){0,30}") {
            prop_assert_eq!(jaccard(&shingles(&a), &shingles(&b)), by_sets(&a, &b));
        }
    }
}
