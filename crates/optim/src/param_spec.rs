//! A trainable parameter as rules and groups see it: routed by its role, never by its shape alone.

use serde::{Deserialize, Serialize};
pub use smidgen_tensor::Role;

/// A trainable parameter as the optimizer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// The full name, as in checkpoints: `layers.3.attn.q.weight`.
    pub name: String,
    /// Rows and columns; a vector is one row.
    pub shape: [usize; 2],
    /// What it is for.
    pub role: Role,
    /// How its values are kept.
    pub weights: Weights,
}

/// How the values of a parameter are kept between updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// 4 bytes per value: master weights.
    #[default]
    F32,
    /// 2 bytes per value, updates rounded stochastically.
    Bf16,
    /// 2 bytes per value, and 2 of state for what rounding leaves over.
    #[serde(rename = "bf16-kahan")]
    Kahan,
}

impl ParamSpec {
    /// A parameter of shape `[rows, cols]`.
    pub fn new(name: impl Into<String>, shape: [usize; 2], role: Role) -> Self {
        Self { name: name.into(), shape, role, weights: Weights::F32 }
    }
}
