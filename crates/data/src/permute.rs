//! A seeded permutation of `0..n` in constant memory.
//!
//! A Feistel network permutes the smallest square power of two that holds `n`; results outside
//! are sent through it again until they fall inside (at most four rounds on average).
//! Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains (2002).

use smidgen_codec::Rng;

/// Four give a permutation that no statistic of an epoch tells from a random one.
const ROUNDS: u64 = 4;

/// Where `index` goes under the permutation of `0..n` that belongs to `epoch`.
///
/// # Panics
/// If `index` is not below `n`.
pub(crate) fn permute(rng: &Rng, epoch: u64, n: u64, index: u64) -> u64 {
    assert!(index < n, "an index lies within its epoch");
    let half_bits = (u64::BITS - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mut value = index;
    loop {
        value = feistel(rng, epoch, half_bits, value);
        if value < n {
            return value;
        }
    }
}

fn feistel(rng: &Rng, epoch: u64, half_bits: u32, value: u64) -> u64 {
    let mask = (1 << half_bits) - 1;
    let (left, right) = (0..ROUNDS)
        .fold((value >> half_bits, value & mask), |(left, right), round| {
            (right, left ^ (rng.at(epoch, round, right) & mask))
        });
    left << half_bits | right
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smidgen_codec::{Rng, Stream};

    fn order(seed: u64, epoch: u64, n: u64) -> Vec<u64> {
        let rng = Rng::new(seed, Stream::Data);
        (0..n).map(|index| permute(&rng, epoch, n, index)).collect()
    }

    proptest! {
        #[test]
        fn every_index_comes_once(seed in any::<u64>(), epoch in 0_u64..9, n in 1_u64..600) {
            let mut order = order(seed, epoch, n);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        assert_ne!(order(1, 0, 100), order(1, 1, 100));
        assert_ne!(order(1, 0, 100), order(2, 0, 100));
        assert_eq!(order(1, 0, 100), order(1, 0, 100));
    }

    #[test]
    fn neighbours_are_scattered() {
        let order = order(7, 0, 1000);
        let near = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 10).count();
        // Random order expects about 20.
        assert!(near < 50, "{near}");
    }

    #[test]
    fn large_domains_work() {
        let rng = Rng::new(3, Stream::Data);
        for n in [1 << 40, (1 << 40) + 1, u64::MAX] {
            assert!(permute(&rng, 0, n, n - 1) < n);
        }
    }
}
