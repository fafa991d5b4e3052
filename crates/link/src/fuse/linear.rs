//! `linear`: the sharer's rows, mapped by a matrix, in part instead of the receiver's.
//!
//! `out = r + g (A s + c - r)`, kept as one map of `[s; r]`: `[g A, (1 - g) I]` and `g c`. A and c are
//! the ridge regression of r on s over tokens that both have read ([`LinearFit`](super::LinearFit)), g is
//! found by a line search. Parameters per layer and part: `(I + O + 1) O + 1`.
//! Source: our own. Differs from a plain sum `r + g (A s + c)`: what both models know is not counted
//! twice, and g = 0 is the receiver alone.

use smidgen_tensor::{Device, Error, LinearSpec, ParamId, Params, Role, Tape, Var};

use super::blocks::Add;
use super::{At, FuserConfig, Mode, Network, PREFIX, PairShape, Part, Variant};

/// See above.
#[derive(Debug)]
pub(super) struct Linear;

impl Variant for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn about(&self) -> &'static str {
        "a matrix for every layer, computed and not trained"
    }

    fn add(
        &self,
        device: &Device,
        _config: &FuserConfig,
        pair: &PairShape,
        sources: &[Option<usize>],
        params: &mut Params,
    ) -> Result<Box<dyn Network>, Error> {
        let mut maps = Vec::with_capacity(sources.len());
        for (layer, source) in sources.iter().enumerate() {
            let mut map = |part: Part| {
                let prefix = format!("{PREFIX}{layer}.{}", part.name());
                let mut add = Add { device, params: &mut *params, prefix };
                let (i, o) = (part.width(&pair.sharer), part.width(&pair.receiver));
                let map = add.linear("map", [o, i + o], true)?;
                Ok::<_, Error>((map, add.param("gate", Role::Gate, [1, 1])?))
            };
            maps.push(match source {
                Some(_) => Some([map(Part::Keys)?, map(Part::Values)?]),
                None => None,
            });
        }
        Ok(Box::new(Maps(maps)))
    }

    fn param_count(&self, _config: &FuserConfig, pair: &PairShape, layers: usize) -> usize {
        let map = |part: Part| {
            let (i, o) = (part.width(&pair.sharer), part.width(&pair.receiver));
            (i + o + 1) * o + 1
        };
        layers * Part::BOTH.map(map).iter().sum::<usize>()
    }
}

#[derive(Debug)]
struct Maps(Vec<Option<[(LinearSpec, ParamId); 2]>>);

impl Network for Maps {
    fn fuse(
        &self,
        tape: &mut Tape<'_>,
        at: At,
        input: Var,
        _own: Var,
        _mode: &Mode,
    ) -> Result<Var, Error> {
        tape.linear(input, &self.map(at).0, None)
    }

    fn gate(&self, at: At) -> ParamId {
        self.map(at).1
    }

    /// All of it: it is closed until it is computed.
    fn begins_at_zero(&self, _name: &str) -> bool {
        true
    }
}

impl Maps {
    fn map(&self, at: At) -> &(LinearSpec, ParamId) {
        let maps = self.0[at.layer].as_ref().expect("only layers with a source are fused");
        &maps[at.part as usize]
    }
}
