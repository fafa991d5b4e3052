//! Named parameters, and who receives their gradients.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use smidgen_codec::Tag;

use crate::error::shape;
use crate::{Device, Error, Format, Tensor};

/// What a parameter is for; optimizer groups and initial values go by it, never by shape alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A matrix inside a block.
    MatrixHidden,
    /// The table of token embeddings, also when it is the head as well.
    Embedding,
    /// The output matrix.
    Head,
    /// A norm's gain.
    Norm,
    /// A bias.
    Bias,
    /// A single number.
    Scalar,
    /// The down projection of an adapter.
    LoraA,
    /// The up projection of an adapter.
    LoraB,
    /// A gate.
    Gate,
    /// A hyper-connection's mixing matrix.
    Mhc,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 10] = [
        Role::MatrixHidden,
        Role::Embedding,
        Role::Head,
        Role::Norm,
        Role::Bias,
        Role::Scalar,
        Role::LoraA,
        Role::LoraB,
        Role::Gate,
        Role::Mhc,
    ];

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Role::MatrixHidden => "matrix_hidden",
            Role::Embedding => "embedding",
            Role::Head => "head",
            Role::Norm => "norm",
            Role::Bias => "bias",
            Role::Scalar => "scalar",
            Role::LoraA => "lora_a",
            Role::LoraB => "lora_b",
            Role::Gate => "gate",
            Role::Mhc => "mhc",
        }
    }
}

impl Role {
    /// The format of a parameter of this role where matrices and tables are kept in `format`: vectors
    /// and small maps cost little and are read often, so they stay f32.
    pub fn kept_in(self, format: Format) -> Format {
        match self {
            Role::MatrixHidden | Role::Embedding | Role::Head => format,
            _ => Format::F32,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The place of a parameter in its [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(crate) usize);

impl ParamId {
    /// The index in [`Params::iter`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// A named parameter with its values.
#[derive(Debug)]
pub struct Param {
    /// Unique, dotted: `layers.3.attn.q.weight`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// A frozen parameter costs no weight gradient and no gradient bytes.
    pub trainable: bool,
    /// `[out, in]` for a matrix, `[1, n]` for a vector; what is no table or matrix is f32.
    pub value: Tensor,
}

impl Param {
    /// Sets all values, piece by piece: `make` gets the index of the first value of a piece and fills
    /// it. They are rounded to nearest where they are kept in fewer bits.
    pub fn fill(&mut self, mut make: impl FnMut(usize, &mut [f32])) {
        if self.value.format() == Format::F32 {
            return make(0, self.value.slice_mut());
        }
        let count = self.value.rows() * self.value.cols();
        let mut piece = vec![0.0; count.min(PIECE)];
        for first in (0..count).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(count - first)];
            make(first, piece);
            self.value.write_f32(first, piece);
        }
    }
}

/// Values of a parameter that are made at once where they are rounded.
const PIECE: usize = 1 << 14;

/// All parameters of a model, in a fixed order.
#[derive(Debug)]
pub struct Params {
    list: Vec<Param>,
    names: HashMap<String, ParamId>,
    format: Format,
}

impl Default for Params {
    fn default() -> Params {
        Params::new()
    }
}

impl Params {
    /// No parameters.
    pub fn new() -> Params {
        Params::with_format(Format::F32)
    }

    /// No parameters; matrices and tables that are added are kept in this format, all others in f32.
    pub fn with_format(format: Format) -> Params {
        Params { list: Vec::new(), names: HashMap::new(), format }
    }

    /// Adds a parameter of zeros.
    ///
    /// # Errors
    /// [`Error::Value`] for a name that is taken, [`Error::OutOfMemory`].
    pub fn add(
        &mut self,
        device: &Device,
        name: &str,
        role: Role,
        shape: [usize; 2],
    ) -> Result<ParamId, Error> {
        if self.names.contains_key(name) {
            return Err(Error::Value {
                what: "parameter name".into(),
                expected: "a new name".into(),
                got: format!("`{name}` twice"),
            });
        }
        let format = role.kept_in(self.format);
        let value = Tensor::zeros(device.pool(), Tag::Weights, shape, format)?;
        let id = ParamId(self.list.len());
        self.names.insert(name.to_string(), id);
        self.list.push(Param { name: name.to_string(), role, trainable: true, value });
        Ok(id)
    }

    /// The parameter of that id.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }

    /// The parameter of that id, for writing.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.list[id.0]
    }

    /// The id of a name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.names.get(name).copied()
    }

    /// All parameters in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &Param)> {
        self.list.iter().enumerate().map(|(i, param)| (ParamId(i), param))
    }

    /// All parameters in order, for writing.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (ParamId, &mut Param)> {
        self.list.iter_mut().enumerate().map(|(i, param)| (ParamId(i), param))
    }

    /// How many parameters there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many numbers all parameters hold.
    pub fn element_count(&self) -> usize {
        self.list.iter().map(|p| p.value.rows() * p.value.cols()).sum()
    }

    /// Replaces the values of a parameter, rounded to nearest where it is kept in fewer bits.
    ///
    /// # Errors
    /// [`Error::Shape`] when the count differs.
    pub fn load(&mut self, id: ParamId, values: &[f32]) -> Result<(), Error> {
        let param = self.get_mut(id);
        let [rows, cols] = param.value.shape();
        if rows * cols != values.len() {
            return Err(shape(param.name.clone(), &[rows, cols], &[values.len()]));
        }
        param.value.write_f32(0, values);
        Ok(())
    }
}

/// Receives each gradient the moment it is complete.
pub trait GradSink {
    /// An earlier gradient of this parameter to add to, when gradients accumulate over micro-batches.
    fn start(&mut self, _id: ParamId) -> Option<Tensor> {
        None
    }

    /// Takes the finished gradient: f32, the parameter's shape. The last use of the parameter has been
    /// differentiated, so it may be updated here.
    ///
    /// # Errors
    /// Whatever the receiver reports, often as [`Error::Sink`]; it ends the backward pass.
    fn take(&mut self, id: ParamId, param: &mut Param, grad: Tensor) -> Result<(), Error>;
}

/// Keeps every gradient, adding over calls.
#[derive(Default)]
pub struct HeldGrads {
    grads: HashMap<ParamId, Tensor>,
}

impl HeldGrads {
    /// No gradients yet.
    pub fn new() -> HeldGrads {
        HeldGrads::default()
    }

    /// The gradient of a parameter, if one came.
    pub fn get(&self, id: ParamId) -> Option<&Tensor> {
        self.grads.get(&id)
    }

    /// The gradient of a parameter, for writing.
    pub fn get_mut(&mut self, id: ParamId) -> Option<&mut Tensor> {
        self.grads.get_mut(&id)
    }

    /// Takes the gradient of a parameter out.
    pub fn remove(&mut self, id: ParamId) -> Option<Tensor> {
        self.grads.remove(&id)
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        self.grads.clear();
    }
}

impl GradSink for HeldGrads {
    fn start(&mut self, id: ParamId) -> Option<Tensor> {
        self.grads.remove(&id)
    }

    fn take(&mut self, id: ParamId, _param: &mut Param, grad: Tensor) -> Result<(), Error> {
        self.grads.insert(id, grad);
        Ok(())
    }
}
