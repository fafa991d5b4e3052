//! The loops of attention, the same bits at every level.

use super::KEYS;
use super::backward::{row_dot, score_grads};
use super::forward::{scale_rows, softmax_tile};
use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, tame};
use crate::tensor::Element;

/// Ranges that see nothing, one key, the middle, and all of `count` keys.
fn ranges(count: usize) -> [(u32, u32); 5] {
    let n = count as u32;
    [(0, n), (0, 0), (n / 2, n / 2 + 1), (n / 3, n), (0, n.div_ceil(2))]
}

fn softmax<A: Element>(count: usize) {
    let (scores, ranges) = (tame::<f32>(1, 5 * KEYS), ranges(count));
    same_at_every_level("softmax_tile", |level| {
        let mut probs = vec![A::from_f32(9.0); 5 * KEYS];
        let (mut most, mut sums, mut decay) = ([f32::NEG_INFINITY; 5], [0f32; 5], [1f32; 5]);
        for scale in [0.2, 1.3] {
            softmax_tile(
                level, &scores, &ranges, count, scale, &mut most, &mut sums, &mut decay, &mut probs,
            );
        }
        (bits(&probs), bits(&most), bits(&sums), bits(&decay))
    });
}

fn grads<A: Element>(count: usize) {
    let (scores, dprobs) = (tame::<f32>(1, 5 * KEYS), tame::<f32>(2, 5 * KEYS));
    let (lse, delta, ranges) = (tame::<f32>(3, 5), tame::<f32>(4, 5), ranges(count));
    same_at_every_level("score_grads", |level| {
        let nine = vec![A::from_f32(9.0); 5 * KEYS];
        let (mut probs, mut grads) = (nine.clone(), nine);
        score_grads(
            level, &scores, &dprobs, &ranges, count, 0.2, &lse, &delta, &mut probs, &mut grads,
        );
        (bits(&probs), bits(&grads))
    });
}

fn rows<A: Element>(len: usize) {
    let (a, b) = (tame::<A>(1, len), tame::<f32>(2, len));
    same_at_every_level("row_dot", |level| row_dot(level, &a, &b).to_bits());
    let rows = tame::<f32>(3, 3 * len);
    same_at_every_level("scale_rows", |level| {
        let mut rows = rows.clone();
        scale_rows(level, &mut rows, len.max(1), &[0.3, 1e-38, -7.0]);
        bits(&rows)
    });
}

#[test]
fn every_level_gives_the_same_bits() {
    for len in LENGTHS {
        for_formats!(rows(len));
    }
    for count in [1, 2, 15, 16, 17, 255, 256] {
        for_formats!(softmax(count));
        for_formats!(grads(count));
    }
}
