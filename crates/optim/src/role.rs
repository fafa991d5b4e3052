//! What a parameter is for: rules are routed by it, never by the shape of the tensor alone.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The role of a parameter in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// A matrix inside a block.
    MatrixHidden,
    /// Rows looked up by token.
    Embedding,
    /// The product that makes logits. A tied head has the role of the embedding.
    Head,
    /// Gain of a normalisation.
    Norm,
    /// Added vector.
    Bias,
    /// Single learned number.
    Scalar,
    /// First factor of an adapter.
    LoraA,
    /// Second factor of an adapter, zero at first.
    LoraB,
    /// Opens or closes a path.
    Gate,
    /// Mixing of residual streams.
    Mhc,
}

impl Role {
    /// The name in configs and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::MatrixHidden => "matrix_hidden",
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Scalar => "scalar",
            Self::LoraA => "lora_a",
            Self::LoraB => "lora_b",
            Self::Gate => "gate",
            Self::Mhc => "mhc",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A trainable parameter as the optimizer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// The full name, as in checkpoints: `layers.3.attn.q.weight`.
    pub name: String,
    /// Rows and columns; a vector is one row.
    pub shape: [usize; 2],
    /// What it is for.
    pub role: Role,
}

impl ParamSpec {
    /// A parameter of shape `[rows, cols]`.
    pub fn new(name: impl Into<String>, shape: [usize; 2], role: Role) -> Self {
        Self { name: name.into(), shape, role }
    }
}
