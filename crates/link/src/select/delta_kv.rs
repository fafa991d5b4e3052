//! `delta_kv`: by how much fusing changes key and value, each on its layer's own scale.
//!
//! score = sqrt(dK^2 / mean dK^2 + dV^2 / mean dV^2), dK^2 = |F(K) - K of the receiver|^2 over all
//! heads, the means over the tokens of the layer: so a layer with large keys counts no more than one
//! with small ones, and keys no more than values. Ours; `delta_proj_vnorm_topk` sees values alone.

use super::norm::square_sum_of_difference;
use super::{Needs, Scene, Selector};
use crate::{Error, KvView};

/// Large changes of key and value first.
#[derive(Clone, Copy, Debug)]
pub struct DeltaKv;

impl Selector for DeltaKv {
    fn name(&self) -> &'static str {
        "delta_kv"
    }

    fn needs(&self) -> Needs {
        Needs::Receiver
    }

    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error> {
        let side = scene.at_receiver(self)?;
        // One pass for the scales of each target, so that no array over all layers is held.
        let scales: Vec<[f32; 2]> = (0..side.own.shape.layers)
            .map(|target| match side.source_of[target] == Some(layer) {
                true => mean_squares(&side.fused, &side.own, target),
                false => [0.0; 2],
            })
            .collect();
        side.mean_over_targets(layer, out, |target, token| {
            let changes = squares(&side.fused, &side.own, target, token);
            let [key, value] = [0, 1].map(|i| over(changes[i], scales[target][i]));
            (key + value).sqrt()
        });
        Ok(())
    }
}

/// |dK|^2 and |dV|^2 of one layer and token, all heads.
pub(super) fn squares(
    fused: &KvView<'_>,
    own: &KvView<'_>,
    layer: usize,
    token: usize,
) -> [f32; 2] {
    [
        square_sum_of_difference(fused.key(layer, token), own.key(layer, token)),
        square_sum_of_difference(fused.value(layer, token), own.value(layer, token)),
    ]
}

fn mean_squares(fused: &KvView<'_>, own: &KvView<'_>, layer: usize) -> [f32; 2] {
    let sums = (0..own.tokens).fold([0.0; 2], |sums: [f32; 2], token| {
        let [key, value] = squares(fused, own, layer, token);
        [sums[0] + key, sums[1] + value]
    });
    sums.map(|sum| sum / own.tokens.max(1) as f32)
}

/// A share of a scale; where the scale is zero nothing changed.
fn over(part: f32, scale: f32) -> f32 {
    if scale > 0.0 { part / scale } else { 0.0 }
}
