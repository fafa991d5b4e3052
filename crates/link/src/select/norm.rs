//! L2 norms of heads, in f32 and in a fixed order: eight running sums, added in pairs at the end.

const LANES: usize = 8;

/// The sum of squares of a row.
pub(super) fn square_sum(row: &[f32]) -> f32 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in whole {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x * x;
    }
    total(lanes)
}

/// The sum of squares of `a - b`.
pub(super) fn square_sum_of_difference(a: &[f32], b: &[f32]) -> f32 {
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in whole_a.iter().zip(whole_b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += (a - b) * (a - b);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(rest_a).zip(rest_b) {
        *lane += (a - b) * (a - b);
    }
    total(lanes)
}

/// The mean of the heads' L2 norms; `row: [K E]`.
pub(super) fn mean_norm(row: &[f32], head_dim: usize) -> f32 {
    let heads = row.chunks_exact(head_dim);
    let count = heads.len() as f32;
    heads.fold(0.0, |sum: f32, head| sum + square_sum(head).sqrt()) / count
}

/// The mean of the L2 norms of `a - b` over heads; `a, b: [K E]`.
pub(super) fn mean_norm_of_difference(a: &[f32], b: &[f32], head_dim: usize) -> f32 {
    let heads = a.chunks_exact(head_dim).zip(b.chunks_exact(head_dim));
    let count = heads.len() as f32;
    heads.fold(0.0, |sum: f32, (a, b)| sum + square_sum_of_difference(a, b).sqrt()) / count
}

fn total(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_is_the_mean_over_heads_for_every_length() {
        for dim in [1, 7, 8, 9, 32, 33] {
            let row: Vec<f32> = (0..3 * dim).map(|i| (i % 5) as f32 - 2.0).collect();
            let other: Vec<f32> = (0..3 * dim).map(|i| (i % 3) as f32).collect();
            let head = |h: usize, f: &dyn Fn(usize) -> f64| {
                (h * dim..(h + 1) * dim).map(|i| f(i) * f(i)).sum::<f64>().sqrt()
            };
            let mean = |f: &dyn Fn(usize) -> f64| (0..3).map(|h| head(h, f)).sum::<f64>() / 3.0;
            let plain = mean(&|i| f64::from(row[i]));
            let apart = mean(&|i| f64::from(row[i]) - f64::from(other[i]));
            assert!((f64::from(mean_norm(&row, dim)) - plain).abs() < 1e-5, "{dim}");
            let got = mean_norm_of_difference(&row, &other, dim);
            assert!((f64::from(got) - apart).abs() < 1e-5, "{dim}");
        }
    }
}
