//! An exponential moving average of the weights, beside them.
//!
//! After update t (from 1): `ema += (w - ema) (1 - d) / (1 - d^t)`. That is the average whose bias
//! towards its start is corrected, written so that the stored values need no correction: after the
//! first update they are the weights themselves, and later each weight counts `d` times the next.
//! 4 bytes per trained value, on the ledger under `state`.

use std::sync::Mutex;

use smidgen_codec::Tag;
use smidgen_tensor::{Device, Format, Param, Params, Tensor, multiversion};

use crate::Error;

/// Values per task.
const CHUNK: usize = 1 << 16;
/// Weights that are widened at once.
const PIECE: usize = 1 << 10;

pub(crate) struct Ema {
    decay: f64,
    /// One for each trained parameter, in their order.
    values: Vec<Tensor>,
}

impl Ema {
    pub(crate) fn new(device: &Device, params: &Params, decay: f64) -> Result<Ema, Error> {
        let zeros = |param: &Param| {
            Tensor::zeros(device.pool(), Tag::State, param.value.shape(), Format::F32)
        };
        let values = trained(params).map(zeros).collect::<Result<_, _>>()?;
        Ok(Ema { decay, values })
    }

    /// Takes the weights in after an update; `count` is how many it has taken in with this one.
    pub(crate) fn update(&mut self, device: &Device, params: &Params, count: u64) {
        let share = (1.0 - self.decay) / (1.0 - self.decay.powf(count as f64));
        for (ema, param) in self.values.iter_mut().zip(trained(params)) {
            let tasks: Vec<_> = ema.slice_mut::<f32>().chunks_mut(CHUNK).map(Mutex::new).collect();
            device.team().run(tasks.len(), |index| {
                let mut ema = tasks[index].lock().expect("each chunk has one task");
                let mut weights = [0.0; PIECE];
                for (piece, ema) in ema.chunks_mut(PIECE).enumerate() {
                    let weights = &mut weights[..ema.len()];
                    param.value.read_f32(index * CHUNK + piece * PIECE, weights);
                    towards(device.level(), ema, weights, share as f32);
                }
            });
        }
    }

    /// Puts the average in the place of the weights, and the weights in its own; twice is nothing.
    pub(crate) fn swap(&mut self, params: &mut Params) {
        let trained = params.iter_mut().filter(|(_, param)| param.trainable);
        for (ema, (_, param)) in self.values.iter_mut().zip(trained) {
            std::mem::swap(ema, &mut param.value);
        }
    }

    /// Names and values, in the order of the parameters.
    pub(crate) fn tensors<'a>(
        &'a self,
        params: &'a Params,
    ) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        trained(params).map(|param| param.name.as_str()).zip(&self.values)
    }
}

fn trained(params: &Params) -> impl Iterator<Item = &Param> {
    params.iter().map(|(_, param)| param).filter(|param| param.trainable)
}

multiversion! {
    fn towards(ema: &mut [f32], weights: &[f32], share: f32) {
        for (ema, weight) in ema.iter_mut().zip(weights) {
            *ema += (weight - *ema) * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_codec::Ledger;
    use smidgen_tensor::Role;

    /// The average of a weight that is 1, 2, 3, .. after each update, at every thread count.
    fn average(decay: f64, updates: u64, threads: usize) -> Vec<f32> {
        let device = Device::cpu(Ledger::new(), threads);
        let mut params = Params::new();
        let id = params.add(&device, "w", Role::MatrixHidden, [300, 300]).unwrap();
        let frozen = params.add(&device, "frozen", Role::MatrixHidden, [1, 1]).unwrap();
        params.get_mut(frozen).trainable = false;
        let mut ema = Ema::new(&device, &params, decay).unwrap();
        for t in 1..=updates {
            let values = params.get_mut(id).value.slice_mut::<f32>();
            values.iter_mut().enumerate().for_each(|(i, w)| *w = t as f32 + i as f32);
            ema.update(&device, &params, t);
        }
        assert_eq!(device.ledger().live_bytes(Tag::State), 4 * 300 * 300);
        ema.swap(&mut params);
        params.get(id).value.to_vec()
    }

    #[test]
    fn is_the_corrected_average_to_rounding() {
        let (decay, updates) = (0.9f64, 7u64);
        let weight = |t: u64| decay.powi((updates - t) as i32);
        let total: f64 = (1..=updates).map(weight).sum();
        let mean: f64 = (1..=updates).map(|t| weight(t) * t as f64).sum::<f64>() / total;
        let got = average(decay, updates, 1);
        assert!((f64::from(got[0]) - mean).abs() < 1e-5, "{} {mean}", got[0]);
        assert!((f64::from(got[500]) - mean - 500.0).abs() < 1e-3);
        assert_eq!(got, average(decay, updates, 4));
    }

    #[test]
    fn begins_with_the_weights_and_without_a_decay_stays_with_them() {
        assert_eq!(average(0.999, 1, 2)[..2], [1.0, 2.0]);
        assert_eq!(average(0.0, 5, 2)[..2], [5.0, 6.0]);
    }
}
