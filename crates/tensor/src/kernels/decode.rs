//! Attention of one new token over cached keys and values.

use super::math::{LANES, add_lanes, exp, lane_max, lane_sum};
use crate::tensor::Element;

crate::multiversion! {
    /// One head: `out = softmax(q k^T scale) v` over `count` keys, rows `stride` values apart.
    pub(crate) fn attend_one<A: Element>(query: &[A], keys: &[A], values: &[A], stride: usize, count: usize, scale: f32, scores: &mut [f32], out: &mut [f32]) {
        let e = query.len();
        for (t, score) in scores[..count].iter_mut().enumerate() {
            let key = &keys[t * stride..][..e];
            *score = lane_sum(e, |i| query[i].to_f32() * key[i].to_f32()) * scale;
        }
        let top = lane_max(&scores[..count]);
        let mut sums = [0f32; LANES];
        for (t, score) in scores[..count].iter_mut().enumerate() {
            *score = exp(*score - top);
            sums[t % LANES] += *score;
        }
        let inverse = 1.0 / add_lanes(sums);
        out.fill(0.0);
        for (t, score) in scores[..count].iter().enumerate() {
            let p = score * inverse;
            for (o, v) in out.iter_mut().zip(&values[t * stride..][..e]) {
                *o += p * v.to_f32();
            }
        }
    }
}
