//! `c2c`: a network for every layer, keys and values apart.
//!
//! `u = B(W_in [s; r] + b)`; `p = W_out B..(u) + b`; `w = sigmoid(W_w B(u) + b)` for every head;
//! `out = r + g w p`, the gate g one number for the layer. `B(x) = x + Dropout(W2 gelu(W1 norm(x)))`.
//! Parameters per layer: `2 [(I + O + 1) h + 2 h f + 2 h h + (h + 1) K + (L - 2) 2 h f + (h + 1) O + L h]
//! + 2` for rows of I and O values and K heads. Source: Fu et al., Cache-to-Cache (arXiv 2510.03215) and
//! its program. Differs from it in what the gate draws, see [`GateNoise`](smidgen_tensor::GateNoise).

use smidgen_tensor::{Device, Error, LinearSpec, ParamId, Params, Role, Tape, Var};

use super::blocks::{Add, Block};
use super::{At, FuserConfig, Mode, Network, PREFIX, PairShape, Part, Variant};

/// See above.
#[derive(Debug)]
pub(super) struct C2c;

impl Variant for C2c {
    fn name(&self) -> &'static str {
        "c2c"
    }

    fn about(&self) -> &'static str {
        "a network for every layer, keys and values apart"
    }

    fn add(
        &self,
        device: &Device,
        config: &FuserConfig,
        pair: &PairShape,
        sources: &[Option<usize>],
        params: &mut Params,
    ) -> Result<Box<dyn Network>, Error> {
        let mut nets = Vec::with_capacity(sources.len());
        for (layer, source) in sources.iter().enumerate() {
            let mut net = |part: Part| {
                let prefix = format!("{PREFIX}{layer}.{}", part.name());
                Net::add(Add { device, params: &mut *params, prefix }, config, pair, part)
            };
            nets.push(match source {
                Some(_) => Some([net(Part::Keys)?, net(Part::Values)?]),
                None => None,
            });
        }
        Ok(Box::new(Nets(nets)))
    }

    fn param_count(&self, config: &FuserConfig, pair: &PairShape, layers: usize) -> usize {
        let (h, f, heads) = (config.hidden, config.inner, pair.receiver.kv_heads);
        let net = |part: Part| {
            let (i, o) = (part.width(&pair.sharer), part.width(&pair.receiver));
            let path = Block::count(h, f) * (config.blocks - 1);
            (i + o + 1) * h + path + Block::count(h, h) + (h + 1) * (o + heads) + 1
        };
        layers * Part::BOTH.map(net).iter().sum::<usize>()
    }
}

/// The networks of every layer that is fused, for keys and for values.
#[derive(Debug)]
struct Nets(Vec<Option<[Net; 2]>>);

impl Network for Nets {
    fn fuse(
        &self,
        tape: &mut Tape<'_>,
        at: At,
        input: Var,
        own: Var,
        mode: &Mode,
    ) -> Result<Var, Error> {
        self.net(at).fuse(tape, at, input, own, mode)
    }

    fn gate(&self, at: At) -> ParamId {
        self.net(at).gate
    }

    fn begins_at_zero(&self, name: &str) -> bool {
        name.ends_with(".out.weight")
    }
}

impl Nets {
    fn net(&self, at: At) -> &Net {
        let nets = self.0[at.layer].as_ref().expect("only layers with a source are fused");
        &nets[at.part as usize]
    }
}

#[derive(Debug)]
struct Net {
    input: LinearSpec,
    trunk: Block,
    path: Vec<Block>,
    out: LinearSpec,
    weigh: Block,
    weight: LinearSpec,
    gate: ParamId,
}

impl Net {
    fn add(
        mut add: Add<'_>,
        config: &FuserConfig,
        pair: &PairShape,
        part: Part,
    ) -> Result<Net, Error> {
        let (h, f) = (config.hidden, config.inner);
        let (i, o) = (part.width(&pair.sharer), part.width(&pair.receiver));
        Ok(Net {
            input: add.linear("in", [h, i + o], true)?,
            trunk: add.block("trunk", h, f)?,
            path: (0..config.blocks - 2)
                .map(|place| add.block(&format!("path.{place}"), h, f))
                .collect::<Result<_, _>>()?,
            out: add.linear("out", [o, h], true)?,
            weigh: add.block("weigh", h, h)?,
            weight: add.linear("weight", [pair.receiver.kv_heads, h], true)?,
            gate: add.param("gate", Role::Gate, [1, 1])?,
        })
    }

    fn fuse(
        &self,
        tape: &mut Tape<'_>,
        at: At,
        input: Var,
        own: Var,
        mode: &Mode,
    ) -> Result<Var, Error> {
        let u = tape.linear(input, &self.input, None)?;
        let u = self.trunk.run(tape, u, mode.dropout(at, 0))?;
        let mut p = u;
        for (place, block) in self.path.iter().enumerate() {
            p = block.run(tape, p, mode.dropout(at, 2 + place as u64))?;
        }
        let p = tape.linear(p, &self.out, None)?;
        let w = self.weigh.run(tape, u, mode.dropout(at, 1))?;
        let w = tape.linear(w, &self.weight, None)?;
        tape.gated_add(own, p, w, self.gate, mode.gate(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvShape;

    fn shape(layers: usize, kv_heads: usize, dim: usize) -> KvShape {
        KvShape { layers, kv_heads, key_dim: dim, value_dim: dim }
    }

    /// Qwen3-0.6B fed by Qwen2.5-0.5B, of the published sizes.
    #[test]
    fn parameters_are_as_many_as_published() {
        let pair = PairShape { sharer: shape(24, 2, 64), receiver: shape(28, 8, 128) };
        let config = FuserConfig::default();
        let large = C2c.param_count(&config, &pair, 28);
        assert_eq!((large as f64 / 1e5).round() / 10.0, 477.8);
        let small = FuserConfig { hidden: 512, inner: 512, ..config };
        assert_eq!(C2c.param_count(&small, &pair, 28), 150_872_568);
    }
}
