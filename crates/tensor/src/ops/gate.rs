//! `r + g w[head] p[head, :]`: a residual behind a learnt gate, from the fuser of a cache.
//!
//! `w = sigmoid(logits)` for every row and head; `g` is one number for all of them, from the parameter a:
//! in training `sigmoid((a + n) / tau)` with a draw n of its own for every row and head, otherwise 1
//! where a > 0 and else 0. Source: Fu et al., Cache-to-Cache (arXiv 2510.03215).
//! Differs from its program: the noise of a binary concrete gate is logistic, the difference of two Gumbel
//! variates; there it is a single one, whose mean of 0.577 opens gates in training.

use smidgen_codec::Tag;
use smidgen_codec::rng::bits32;

use crate::kernels::gate::{self, Inputs};
use crate::tape::{Backward, Forward, Op};
use crate::{Device, Error, Format, ParamId, Tape, Tensor, Var, error};

/// What is added to a gate's parameter in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateNoise {
    /// `ln u - ln (1 - u)`: as often up as down.
    #[default]
    Logistic,
    /// `-ln (-ln u)`: for comparison with the published program.
    GumbelSingle,
}

impl GateNoise {
    /// The draw of an index; finite.
    fn draw(self, key: u64, index: u64) -> f32 {
        // 23 bits and a half: strictly between 0 and 1, and exact in f32.
        let u = ((bits32(key, index) >> 9) as f32 + 0.5) / (1u32 << 23) as f32;
        match self {
            GateNoise::Logistic => (u / (1.0 - u)).ln(),
            GateNoise::GumbelSingle => -(-u.ln()).ln(),
        }
    }
}

/// How a gate is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// In training.
    Soft {
        /// Divides parameter and noise; over 0.
        tau: f32,
        /// What is drawn.
        noise: GateNoise,
        /// Key of the draws.
        key: u64,
    },
    /// Open where the parameter is over 0, else closed: then the rows keep their bits.
    Hard,
}

impl Gate {
    /// `g` for every row and head.
    fn open(self, device: &Device, a: f32, shape: [usize; 2]) -> Result<Tensor, Error> {
        let mut gates = Tensor::uninit(device.pool(), Tag::Activations, shape, Format::F32)?;
        let values = gates.slice_mut::<f32>();
        match self {
            Gate::Hard => values.fill(if a > 0.0 { 1.0 } else { 0.0 }),
            Gate::Soft { tau, noise, key } => {
                for (i, value) in values.iter_mut().enumerate() {
                    let x = (a + noise.draw(key, i as u64)) / tau;
                    *value = 1.0 / (1.0 + (-x).exp());
                }
            }
        }
        Ok(gates)
    }
}

struct GatedAdd {
    gate: ParamId,
    how: Gate,
    gates: Option<Tensor>,
}

impl Op for GatedAdd {
    fn name(&self) -> &'static str {
        "gated_add"
    }

    fn params(&self) -> Vec<ParamId> {
        vec![self.gate]
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        let (p, logits) = (&inputs[1], &inputs[2]);
        let a = cx.params.get(self.gate).value.slice::<f32>()[0];
        let gates = self.how.open(cx.device, a, logits.shape())?;
        let out = gate::forward(cx.device, &inputs[0], Inputs { p, logits, gates: &gates })?;
        self.gates = cx.records.then_some(gates);
        Ok(out)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let (p, logits) = (cx.input(1)?, cx.input(2)?);
        let gates = self.gates.take().expect("a recorded forward kept the gates");
        let inputs = Inputs { p: &p, logits: &logits, gates: &gates };
        let grads = gate::backward(cx.device(), inputs, &grad)?;
        cx.add_grad(1, grads.p)?;
        cx.add_grad(2, grads.logits)?;
        cx.add_grad(0, grad)?;
        if !cx.trains(self.gate) {
            return Ok(());
        }
        let da = match self.how {
            // A step has no slope.
            Gate::Hard => 0.0,
            Gate::Soft { tau, .. } => {
                let each = gates.slice::<f32>().iter().zip(grads.gates.slice::<f32>());
                each.map(|(g, dg)| f64::from(dg * g * (1.0 - g) / tau)).sum::<f64>() as f32
            }
        };
        let (mut grad, started) = cx.param_grad(self.gate)?;
        let to = &mut grad.slice_mut::<f32>()[0];
        *to = if started { *to + da } else { da };
        cx.finish_param(self.gate, grad)
    }
}

impl Tape<'_> {
    /// `r + g w[head] p[head, :]` in f32, with `w = sigmoid(logits)` and `g` of the parameter `gate`
    /// `[1, 1]`: `r` is `[N, K E]` in f32, `p` `[N, K E]`, `logits` `[N, K]` in the operand format.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Value`] when sizes or formats do not fit, [`Error::OutOfMemory`].
    pub fn gated_add(
        &mut self,
        r: Var,
        p: Var,
        logits: Var,
        gate: ParamId,
        how: Gate,
    ) -> Result<Var, Error> {
        let ([rows, cols], heads) = (self.shape(r), self.shape(logits)[1]);
        if self.shape(p) != [rows, cols] {
            return Err(error::shape("gated add: p", &[rows, cols], &self.shape(p)));
        }
        if heads == 0 || !cols.is_multiple_of(heads) || self.shape(logits)[0] != rows {
            let got = self.shape(logits);
            return Err(error::shape("gated add: logits", &[rows, heads.max(1)], &got));
        }
        let param = self.params().get(gate);
        if param.value.shape() != [1, 1] {
            return Err(error::shape(param.name.clone(), &[1, 1], &param.value.shape()));
        }
        let formats = [r, p, logits].map(|var| self.format(var));
        if formats[0] != Format::F32 || formats[1] != formats[2] {
            return Err(Error::Value {
                what: "gated add".into(),
                expected: "r in f32, p and logits in one format".into(),
                got: formats.map(Format::name).join(", "),
            });
        }
        if let Gate::Soft { tau, .. } = how
            && !(tau > 0.0 && tau.is_finite())
        {
            return Err(Error::Value {
                what: "gated add: tau".into(),
                expected: "a number over 0".into(),
                got: tau.to_string(),
            });
        }
        self.apply(Box::new(GatedAdd { gate, how, gates: None }), &[r, p, logits])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_moments_of_its_kind() {
        let n = 100_000u64;
        let euler = 0.577_215_664_9;
        for (noise, mean, variance) in [
            (GateNoise::Logistic, 0.0, std::f64::consts::PI.powi(2) / 3.0),
            (GateNoise::GumbelSingle, euler, std::f64::consts::PI.powi(2) / 6.0),
        ] {
            let draws: Vec<f64> = (0..n).map(|i| f64::from(noise.draw(5, i))).collect();
            let got = draws.iter().sum::<f64>() / n as f64;
            assert!((got - mean).abs() < 0.02, "{noise:?}: {got}");
            let got = draws.iter().map(|x| (x - got).powi(2)).sum::<f64>() / n as f64;
            assert!((got / variance - 1.0).abs() < 0.03, "{noise:?}: {got}");
            assert!(draws.iter().all(|x| x.is_finite()));
        }
    }
}
