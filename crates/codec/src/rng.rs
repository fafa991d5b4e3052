//! Counter-based random numbers: a draw is a function of where it is used, not of what came before.
//!
//! Philox4x32-10 under a key made of the run's seed and a named stream; the counter is (step,
//! tensor, index). So draws do not depend on threads or order, and a resumed run needs no state.
//! Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).

/// What a draw is for. Streams of one seed are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stream {
    /// Order of the training data.
    Data,
    /// First values of the parameters.
    Init,
    /// Dropped units.
    Dropout,
    /// Stochastic rounding.
    Rounding,
    /// Decisions of a policy.
    Policy,
    /// Sampling of tokens.
    Sample,
}

impl Stream {
    /// The name that enters the key; changing it changes every run.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Init => "init",
            Self::Dropout => "dropout",
            Self::Rounding => "sr",
            Self::Policy => "policy",
            Self::Sample => "sample",
        }
    }
}

/// One random stream of one seed.
///
/// ```
/// use smidgen_codec::{Rng, Stream};
///
/// let rng = Rng::new(42, Stream::Init);
/// assert_eq!(rng.at(0, 3, 9), Rng::new(42, Stream::Init).at(0, 3, 9));
/// assert_ne!(rng.at(0, 3, 9), rng.at(1, 3, 9));
/// assert!((0.0..1.0).contains(&rng.uniform(0, 3, 9)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    key: u64,
}

impl Rng {
    /// The stream `stream` of `seed`.
    pub fn new(seed: u64, stream: Stream) -> Self {
        Self::named(seed, stream.name())
    }

    /// A stream of `seed` with a name of the caller's own.
    pub fn named(seed: u64, stream: &str) -> Self {
        // FNV-1a: the name only has to differ from the other names.
        let name = stream.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { key: mix64(seed ^ mix64(name)) }
    }

    /// 64 random bits of this place.
    pub fn at(&self, step: u64, tensor: u64, index: u64) -> u64 {
        self.pair(step, tensor, index)[0]
    }

    /// A key for [`Rounding::Stochastic`](crate::Rounding::Stochastic) of one tensor at one step.
    pub fn key(&self, step: u64, tensor: u64) -> u64 {
        self.at(step, tensor, u64::MAX)
    }

    /// Uniform in [0, 1), 53 random bits.
    pub fn uniform(&self, step: u64, tensor: u64, index: u64) -> f64 {
        unit(self.at(step, tensor, index))
    }

    /// Uniform in 0..`bound`, without bias worth naming (below 2^-64 x `bound`). 0 if `bound` is 0.
    pub fn below(&self, step: u64, tensor: u64, index: u64, bound: u64) -> u64 {
        ((u128::from(self.at(step, tensor, index)) * u128::from(bound)) >> 64) as u64
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&self, step: u64, tensor: u64, index: u64) -> f64 {
        let [a, b] = self.pair(step, tensor, index);
        let radius = (-2.0 * (1.0 - unit(a)).ln()).sqrt();
        radius * (std::f64::consts::TAU * unit(b)).cos()
    }

    /// Fills `out` with normals of standard deviation `std`; value i has index `first_index + i`.
    pub fn fill_normal(&self, tensor: u64, first_index: u64, std: f32, out: &mut [f32]) {
        for (i, value) in out.iter_mut().enumerate() {
            *value = self.normal(0, tensor, first_index + i as u64) as f32 * std;
        }
    }

    fn pair(&self, step: u64, tensor: u64, index: u64) -> [u64; 2] {
        // Step and tensor share 64 bits: one of them is scattered, so that near pairs stay apart.
        let place = step ^ mix64(tensor);
        let counter = [index as u32, (index >> 32) as u32, place as u32, (place >> 32) as u32];
        let [a, b, c, d] = philox(counter, [self.key as u32, (self.key >> 32) as u32]);
        [u64::from(b) << 32 | u64::from(a), u64::from(d) << 32 | u64::from(c)]
    }
}

/// The upper 53 bits as a fraction.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// 32 random bits for `(key, index)`: cheaper than [`Rng::at`] and vectorised, for rounding.
///
/// One round of a 32-bit mixer over the lower index, which starts from a number that two rounds made of
/// the rest; so for one key the map of the lower index is a permutation.
#[inline(always)]
pub fn bits32(key: u64, index: u64) -> u32 {
    mix32(index as u32 ^ start(key, (index >> 32) as u32))
}

/// What draws start from, given the upper half of their index.
#[inline(always)]
fn start(key: u64, high: u32) -> u32 {
    mix32(mix32(key as u32) ^ (key >> 32) as u32 ^ high.wrapping_mul(0x9e37_79b9))
}

/// The draws [`bits32`] of a run of at most 2^32 values, by their place in the run: in 32 bits, so
/// that loops over it are vectorised at full width.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    first: u32,
    /// Before and after the lower half of the index turns over.
    starts: [u32; 2],
}

impl Draws {
    /// The draws from `first_index` on.
    pub fn new(key: u64, first_index: u64) -> Self {
        let high = (first_index >> 32) as u32;
        let starts = [high, high.wrapping_add(1)].map(|high| start(key, high));
        Self { first: first_index as u32, starts }
    }

    /// Lower half of the first index, and what its draws start from.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn parts(&self) -> (u32, u32) {
        (self.first, self.starts[0])
    }

    /// 32 random bits for value `i` of the run.
    #[inline(always)]
    pub fn at(&self, i: u32) -> u32 {
        let lower = self.first.wrapping_add(i);
        mix32(lower ^ if lower < self.first { self.starts[1] } else { self.starts[0] })
    }
}

/// A 32-bit mixer of low bias (C. Wellons, hash-prospector).
#[inline(always)]
fn mix32(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The finaliser of SplitMix64, with its increment so that 0 is not a fixed point.
fn mix64(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Philox4x32 with ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let low = u64::from(counter[0]) * 0xd251_1f53;
        let high = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        let zero = philox([0; 4], [0; 2]);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let drawn = philox(pi, [0xa409_3822, 0x299f_31d0]);
        assert_eq!(drawn, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    /// These values are part of every run: a change here changes every seed's result.
    #[test]
    fn golden_draws() {
        let rng = Rng::new(42, Stream::Init);
        let drawn = [rng.at(0, 0, 0), rng.at(1, 0, 0), rng.at(0, 1, 0), rng.at(0, 0, 1)];
        assert_eq!(drawn, GOLDEN);
        assert_eq!([bits32(1, 2), bits32(1 << 40, 2), bits32(1, 1 << 40)], GOLDEN_BITS);
    }

    const GOLDEN: [u64; 4] = [
        0x9c37_5b0d_b431_d1eb,
        0xa710_a3da_0b84_60f8,
        0xd533_61a1_ffa2_92cb,
        0x6efe_5f86_ca2b_a384,
    ];
    const GOLDEN_BITS: [u32; 3] = [0xcc84_4ea7, 0x3ea6_0929, 0x609d_1578];

    #[test]
    fn streams_and_seeds_differ() {
        let all = [Stream::Data, Stream::Init, Stream::Dropout, Stream::Rounding, Stream::Policy];
        let mut drawn: Vec<u64> = all.iter().map(|s| Rng::new(1, *s).at(0, 0, 0)).collect();
        drawn.extend((2..100).map(|seed| Rng::new(seed, Stream::Sample).at(0, 0, 0)));
        let count = drawn.len();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), count);
    }

    #[test]
    fn normals_have_the_moments() {
        let n = 100_000;
        let mut values = vec![0.0; n];
        Rng::new(5, Stream::Init).fill_normal(3, 0, 2.0, &mut values);
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        let variance = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 4.0 * 2.0 / (n as f64).sqrt(), "{mean}");
        assert!((variance - 4.0).abs() < 4.0 * 4.0 * (2.0 / n as f64).sqrt(), "{variance}");
    }

    #[test]
    fn below_stays_below_and_is_even() {
        let rng = Rng::new(9, Stream::Sample);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|i| counts[rng.below(0, 0, i, 7) as usize] += 1);
        assert!(counts.iter().all(|c| c.abs_diff(10_000) < 400), "{counts:?}");
        assert_eq!(rng.below(0, 0, 0, 0), 0);
    }

    #[test]
    fn draws_of_a_run_are_those_of_its_indices() {
        for first in [0, 7, (1 << 32) - 3, u64::MAX - 1] {
            let draws = Draws::new(0x1234_5678_9abc_def0, first);
            for i in 0..8 {
                let index = first.wrapping_add(u64::from(i));
                assert_eq!(draws.at(i), bits32(0x1234_5678_9abc_def0, index), "{first} {i}");
            }
        }
    }

    #[test]
    fn each_rounding_bit_is_even() {
        for bit in 0..32 {
            let ones = (0..40_000).filter(|i| bits32(11, *i) >> bit & 1 == 1).count();
            assert!(ones.abs_diff(20_000) < 500, "bit {bit}: {ones}");
        }
    }
}
