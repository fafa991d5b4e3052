//! `lite`: one trunk for all layers, and thin maps into and out of it for each.
//!
//! `z = V_n [s; r] + b_n` of rank r; `u = B..(U z + b)`, shared; `p = P_n (Q u + b) + c_n` of rank r;
//! `w = sigmoid(W_n u + d_n)` for every head; `out = r + g_n w p`. Keys and values have a trunk each.
//! With r far below h a layer costs about `r (I + 2 O)` parameters in the place of `6 h h`.
//! Source: our own, for a machine of two cores.

use smidgen_tensor::{Device, Error, LinearSpec, ParamId, Params, Role, Tape, Var};

use super::blocks::{Add, Block};
use super::{At, FuserConfig, Mode, Network, PREFIX, PairShape, Part, Variant};

/// See above.
#[derive(Debug)]
pub(super) struct Lite;

impl Variant for Lite {
    fn name(&self) -> &'static str {
        "lite"
    }

    fn about(&self) -> &'static str {
        "one trunk for all layers, with maps of low rank into and out of it"
    }

    fn add(
        &self,
        device: &Device,
        config: &FuserConfig,
        pair: &PairShape,
        sources: &[Option<usize>],
        params: &mut Params,
    ) -> Result<Box<dyn Network>, Error> {
        let mut trunk = |part: Part| {
            let prefix = format!("{PREFIX}trunk.{}", part.name());
            Trunk::add(Add { device, params: &mut *params, prefix }, config)
        };
        let trunks = [trunk(Part::Keys)?, trunk(Part::Values)?];
        let mut ends = Vec::with_capacity(sources.len());
        for (layer, source) in sources.iter().enumerate() {
            let mut end = |part: Part| {
                let prefix = format!("{PREFIX}{layer}.{}", part.name());
                Ends::add(Add { device, params: &mut *params, prefix }, config, pair, part)
            };
            ends.push(match source {
                Some(_) => Some([end(Part::Keys)?, end(Part::Values)?]),
                None => None,
            });
        }
        Ok(Box::new(Shared { trunks, ends }))
    }

    fn param_count(&self, config: &FuserConfig, pair: &PairShape, layers: usize) -> usize {
        let (h, r, heads) = (config.hidden, config.fuser_rank, pair.receiver.kv_heads);
        let trunk = (r + 1) * h + (config.blocks - 1) * Block::count(h, config.inner) + (h + 1) * r;
        let ends = |part: Part| {
            let (i, o) = (part.width(&pair.sharer), part.width(&pair.receiver));
            (i + o + 1) * r + (r + 1) * o + (h + 1) * heads + 1
        };
        2 * trunk + layers * Part::BOTH.map(ends).iter().sum::<usize>()
    }
}

#[derive(Debug)]
struct Shared {
    trunks: [Trunk; 2],
    ends: Vec<Option<[Ends; 2]>>,
}

impl Network for Shared {
    fn fuse(
        &self,
        tape: &mut Tape<'_>,
        at: At,
        input: Var,
        own: Var,
        mode: &Mode,
    ) -> Result<Var, Error> {
        let (trunk, ends) = (&self.trunks[at.part as usize], self.ends(at));
        let z = tape.linear(input, &ends.input, None)?;
        let mut u = tape.linear(z, &trunk.input, None)?;
        for (place, block) in trunk.blocks.iter().enumerate() {
            u = block.run(tape, u, mode.dropout(at, place as u64))?;
        }
        let p = tape.linear(u, &trunk.out, None)?;
        let p = tape.linear(p, &ends.out, None)?;
        let w = tape.linear(u, &ends.weight, None)?;
        tape.gated_add(own, p, w, ends.gate, mode.gate(at))
    }

    fn gate(&self, at: At) -> ParamId {
        self.ends(at).gate
    }

    /// The thin maps out; those of the trunk must not, or no gradient would pass either.
    fn begins_at_zero(&self, name: &str) -> bool {
        name.ends_with(".out.weight") && !name.starts_with(&format!("{PREFIX}trunk."))
    }
}

impl Shared {
    fn ends(&self, at: At) -> &Ends {
        let ends = self.ends[at.layer].as_ref().expect("only layers with a source are fused");
        &ends[at.part as usize]
    }
}

/// What all layers share.
#[derive(Debug)]
struct Trunk {
    input: LinearSpec,
    blocks: Vec<Block>,
    out: LinearSpec,
}

impl Trunk {
    fn add(mut add: Add<'_>, config: &FuserConfig) -> Result<Trunk, Error> {
        let (h, r) = (config.hidden, config.fuser_rank);
        Ok(Trunk {
            input: add.linear("in", [h, r], true)?,
            blocks: (0..config.blocks - 1)
                .map(|place| add.block(&format!("blocks.{place}"), h, config.inner))
                .collect::<Result<_, _>>()?,
            out: add.linear("out", [r, h], true)?,
        })
    }
}

/// What a layer has of its own.
#[derive(Debug)]
struct Ends {
    input: LinearSpec,
    out: LinearSpec,
    weight: LinearSpec,
    gate: ParamId,
}

impl Ends {
    fn add(
        mut add: Add<'_>,
        config: &FuserConfig,
        pair: &PairShape,
        part: Part,
    ) -> Result<Ends, Error> {
        let (i, o) = (part.width(&pair.sharer), part.width(&pair.receiver));
        Ok(Ends {
            input: add.linear("in", [config.fuser_rank, i + o], true)?,
            out: add.linear("out", [o, config.fuser_rank], true)?,
            weight: add.linear("weight", [pair.receiver.kv_heads, config.hidden], true)?,
            gate: add.param("gate", Role::Gate, [1, 1])?,
        })
    }
}
