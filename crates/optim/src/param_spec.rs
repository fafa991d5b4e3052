//! A trainable parameter as rules and groups see it: routed by its role, never by its shape alone.

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
}

impl ParamSpec {
    /// A parameter of shape `[rows, cols]`.
    pub fn new(name: impl Into<String>, shape: [usize; 2], role: Role) -> Self {
        Self { name: name.into(), shape, role }
    }
}
