//! Codes whose levels stand in a table: NF4, and the dynamic maps of 8 bits.

/// The 16 levels of NF4: quantiles of the normal distribution, with an exact 0 (Dettmers et al.,
/// QLoRA, arXiv 2305.14314).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The dynamic map for both signs: levels of seven decades, finer in the higher ones (Dettmers et
/// al., 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861). Ascending; 0 is code 127.
///
/// The largest level is 1, the lowest -0.993.
pub static DYNAMIC: [f32; 256] = dynamic(true);

/// The dynamic map for values that are never negative. Ascending; 0 is code 0.
pub static DYNAMIC_UNSIGNED: [f32; 256] = dynamic(false);

const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Decade i has 2^i levels on each side, or 2^(i+1) on one: the middles of equal parts of [0.1, 1].
const fn dynamic(signed: bool) -> [f32; 256] {
    let zero = if signed { 127 } else { 0 };
    let mut levels = [0.0; 256];
    levels[255] = 1.0;
    let mut above = 1;
    let mut decade = 0;
    while decade < 7 {
        let parts = if signed { 1 << decade } else { 2 << decade };
        let mut part = 0;
        while part < parts {
            let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
            let level = DECADES[decade] * middle;
            levels[zero + above] = level;
            if signed {
                levels[zero - above] = -level;
            }
            (part, above) = (part + 1, above + 1);
        }
        decade += 1;
    }
    levels
}

/// Boundary `i` of `n` equal parts of [0.1, 1], counted from the nearer end as PyTorch does.
const fn boundary(i: usize, n: usize) -> f32 {
    let step = (1.0 - 0.1) / n as f32;
    if i < n.div_ceil(2) { 0.1 + step * i as f32 } else { 1.0 - step * (n - i) as f32 }
}

/// The code of the level nearest to `value`; ties go down.
#[inline(always)]
pub fn nearest(levels: &[f32], value: f32) -> u8 {
    let midpoint = |pair: &[f32]| (pair[0] + pair[1]) / 2.0;
    let below = levels.windows(2).take_while(|pair| value > midpoint(pair));
    below.count() as u8
}

/// The code of one of the two levels around `value`, the upper with the probability of the
/// fraction. `random` has 32 random bits. Levels stay.
#[inline(always)]
pub fn stochastic(levels: &[f32], value: f32, random: u32) -> u8 {
    let below = levels.partition_point(|level| *level <= value).max(1) - 1;
    let Some(upper) = levels.get(below + 1) else { return below as u8 };
    let share = (random >> 8) as f32 / (1 << 24) as f32;
    let up = value - levels[below] > share * (upper - levels[below]);
    (below + usize::from(up)) as u8
}
