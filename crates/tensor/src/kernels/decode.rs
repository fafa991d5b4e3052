//! Attention over a cache of keys and values that are kept as packed panels.
//!
//! Scores are one product with the key panels (lanes are keys), results one product with the value panels
//! (lanes are the head's columns): no horizontal sums, and any number of new rows at once.

#![allow(unsafe_code)]

use smidgen_codec::Tag;

use super::math::{LANES, add_lanes, exp, lane_max};
use super::with_format;
use crate::matmul::{Engine, Left, Out, Panels, Store, convert, product_serial};
use crate::tensor::{Element, Shared, View};
use crate::{Buffer, Device, Error, Format, Tensor};

/// New rows of one task.
const ROWS: usize = 24;

crate::multiversion! {
    /// Scores become probabilities over the first `seen` keys; the rest of the row becomes zero.
    fn softmax_row<A: Element>(scores: &mut [f32], seen: usize, scale: f32, probs: &mut [A]) -> f32 {
        let top = lane_max(&scores[..seen]);
        let mut sums = [0f32; LANES];
        let whole = seen / LANES * LANES;
        for (s, p) in scores[..whole].chunks_exact_mut(LANES).zip(probs.chunks_exact_mut(LANES)) {
            for l in 0..LANES {
                s[l] = exp((s[l] - top) * scale);
                sums[l] += s[l];
                p[l] = A::from_f32(s[l]);
            }
        }
        for t in whole..seen {
            scores[t] = exp((scores[t] - top) * scale);
            sums[t - whole] += scores[t];
            probs[t] = A::from_f32(scores[t]);
        }
        probs[seen..].fill(A::from_f32(0.0));
        1.0 / add_lanes(sums)
    }
}

crate::multiversion! {
    fn scale_row(row: &mut [f32], factor: f32) {
        for v in row {
            *v *= factor;
        }
    }
}

/// Keys and values of every head, before the new rows: `[E, capacity]` and `[capacity, E]`.
pub(crate) struct Cache<'a> {
    pub(crate) keys: &'a [Panels<Buffer>],
    pub(crate) values: &'a [Panels<Buffer>],
    /// Tokens held before the new rows, whose keys and values are in the panels already.
    pub(crate) held: usize,
}

/// New rows `[q | k | v]` over the cache and each other: `[rows, H E]` in the operand format.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn attend(
    device: &Device,
    engine: &Engine<'_>,
    cache: &Cache<'_>,
    heads: usize,
    e: usize,
    qkv: &Tensor,
) -> Result<Tensor, Error> {
    let rows = qkv.rows();
    let all = cache.held + rows;
    let stride = all.next_multiple_of(LANES);
    let tiles = rows.div_ceil(ROWS);
    let room =
        |cols, format| Tensor::uninit(device.pool(), Tag::Workspace, [heads * rows, cols], format);
    let (mut scores, mut sums) = (room(stride, Format::F32)?, room(e, Format::F32)?);
    let mut probs = room(stride, engine.compute.format())?;
    let mut out =
        Tensor::uninit(device.pool(), Tag::Workspace, [rows, heads * e], engine.compute.format())?;
    let (scores, sums) =
        (Shared::new(scores.slice_mut::<f32>()), Shared::new(sums.slice_mut::<f32>()));
    let scale = 1.0 / (e as f32).sqrt();
    with_format!(engine.compute.format(), A => {
        let probs = Shared::new(probs.slice_mut::<A>());
        let to = Shared::new(out.slice_mut::<A>());
        device.team().run(heads * tiles, |task| {
            let (head, first) = (task / tiles, task % tiles * ROWS);
            let (kv, count) = (head * cache.keys.len() / heads, ROWS.min(rows - first));
            let (at, seen) = (head * rows + first, cache.held + first + count);
            // SAFETY: every row of every head belongs to one task.
            let (scores, sums, probs) = unsafe { (scores.slice(at * stride, count * stride), sums.slice(at * e, count * e), probs.slice(at * stride, count * stride)) };
            let queries = qkv.view().window(first, count, head * e, e);
            let mut room = Vec::new();
            product_serial(engine, Left::Rows(queries), &mut room, &cache.keys[kv].head(e, seen), Out::slice(scores, stride), Store::Set);
            let mut factors = [0f32; ROWS];
            for i in 0..count {
                let visible = cache.held + first + i + 1;
                let (scores, probs) = (&mut scores[i * stride..][..stride], &mut probs[i * stride..][..stride]);
                factors[i] = softmax_row(device.level(), scores, visible, scale, probs);
            }
            let left = View::new(probs, count, seen, stride);
            product_serial(engine, Left::Rows(left), &mut room, &cache.values[kv].head(seen, e), Out::slice(sums, e), Store::Set);
            for i in 0..count {
                let row = &mut sums[i * e..][..e];
                scale_row(device.level(), row, factors[i]);
                // SAFETY: as above.
                convert(device.level(), row, unsafe { to.slice((first + i) * heads * e + head * e, e) });
            }
        });
    });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, tame};

    fn rows<A: Element>(seen: usize) {
        let stride = seen.next_multiple_of(LANES);
        let scores = tame::<f32>(1, stride);
        same_at_every_level("softmax_row", |level| {
            let (mut scores, mut probs) = (scores.clone(), vec![A::from_f32(9.0); stride]);
            let inverse = softmax_row(level, &mut scores, seen, 0.3, &mut probs);
            scale_row(level, &mut scores, inverse);
            assert!(probs[seen..].iter().all(|p| p.to_f32() == 0.0));
            (inverse.to_bits(), bits(&scores), bits(&probs))
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for seen in LENGTHS.into_iter().skip(1) {
            for_formats!(rows(seen));
        }
    }
}
