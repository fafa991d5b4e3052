//! What the networks of fusers are built from: maps with a bias, and residual blocks.

use smidgen_codec::Rng;
use smidgen_tensor::{Device, Dropout, Error, LinearSpec, ParamId, Params, Role, Tape, Var};

/// Added to the mean square inside norms.
const EPS: f32 = 1e-6;

/// Adds parameters under one name.
pub(crate) struct Add<'a> {
    pub(crate) device: &'a Device,
    pub(crate) params: &'a mut Params,
    pub(crate) prefix: String,
}

impl Add<'_> {
    pub(crate) fn param(
        &mut self,
        name: &str,
        role: Role,
        shape: [usize; 2],
    ) -> Result<ParamId, Error> {
        self.params.add(self.device, &format!("{}.{name}", self.prefix), role, shape)
    }

    /// A map of `width` columns to `out`.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        [out, width]: [usize; 2],
        has_bias: bool,
    ) -> Result<LinearSpec, Error> {
        let weight = self.param(&format!("{name}.weight"), Role::MatrixHidden, [out, width])?;
        let bias = match has_bias {
            true => Some(self.param(&format!("{name}.bias"), Role::Bias, [1, out])?),
            false => None,
        };
        Ok(LinearSpec { weights: vec![weight], biases: vec![bias] })
    }

    pub(crate) fn block(
        &mut self,
        name: &str,
        hidden: usize,
        inner: usize,
    ) -> Result<Block, Error> {
        Ok(Block {
            norm: self.param(&format!("{name}.norm.weight"), Role::Norm, [1, hidden])?,
            up: self.linear(&format!("{name}.up"), [inner, hidden], false)?,
            down: self.linear(&format!("{name}.down"), [hidden, inner], false)?,
        })
    }
}

/// `x + Dropout(W2 gelu(W1 norm(x)))`.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    norm: ParamId,
    up: LinearSpec,
    down: LinearSpec,
}

impl Block {
    /// The stream after the block, in f32.
    pub(crate) fn run(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        dropout: Option<Dropout>,
    ) -> Result<Var, Error> {
        let normed = tape.rms_norm(x, self.norm, EPS)?;
        let inner = tape.linear(normed, &self.up, None)?;
        let act = tape.gelu(inner)?;
        let out = tape.linear(act, &self.down, None)?;
        tape.add(x, out, dropout)
    }

    /// Parameters of a block.
    pub(crate) fn count(hidden: usize, inner: usize) -> usize {
        hidden + 2 * hidden * inner
    }
}

/// Sets first values by role: gains 1, biases and gates 0, matrices normal with the variance of a
/// uniform draw within `1 / sqrt(columns)`. `zero` names matrices that begin at zero.
pub(crate) fn init(params: &mut Params, names: &str, seed: u64, zero: impl Fn(&str) -> bool) {
    let rng = Rng::named(seed, "fuser");
    for (id, param) in params.iter_mut().filter(|(_, param)| param.name.starts_with(names)) {
        let std = 1.0 / (3.0 * param.value.cols() as f32).sqrt();
        let is_zero = zero(&param.name);
        let role = param.role;
        param.fill(|first, values| match role {
            Role::Norm => values.fill(1.0),
            Role::Bias | Role::Gate => values.fill(0.0),
            _ if is_zero => values.fill(0.0),
            _ => rng.fill_normal(id.index() as u64, first as u64, std, values),
        });
    }
}

/// Copies the values of a fuser to another of the same shape.
pub(crate) fn copy(params: &mut Params, from: &Params) -> Result<(), crate::Error> {
    let ours = params.iter().filter(|(_, param)| param.name.starts_with(super::PREFIX));
    let ids: Vec<ParamId> = ours.map(|(id, _)| id).collect();
    for id in ids {
        let name = &params.get(id).name;
        let other = from.find(name).ok_or_else(|| {
            crate::Error::value("start", "a fuser of the same shape", format!("none of `{name}`"))
        })?;
        params.load(id, &from.get(other).value.to_vec())?;
    }
    Ok(())
}
