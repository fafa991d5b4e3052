//! Forward passes without a tape: weights packed once, keys and values cached.
//!
//! The same kernels as the tape's operations, for decoding token by token.

#![allow(unsafe_code)]

use std::ops::Range;

use smidgen_codec::Tag;

use crate::kernels::attention::{AttentionShape, Inputs, forward};
use crate::kernels::decode::{self, Cache};
use crate::kernels::elementwise::add_bias;
use crate::kernels::norm::{self, Groups};
use crate::kernels::rope::{RopeTable, rotate};
use crate::kernels::{embed, gated, with_format};
use crate::matmul::{Engine, Left, Out, Panels, Right, Store, pack, product};
use crate::tensor::{Shared, View};
use crate::{Buffer, Compute, Device, Error, Format, Param, Tensor, error};

/// A linear map with its weights in panels, ready for any number of rows.
pub struct PackedLinear {
    panels: Panels<Buffer>,
    bias: Option<Vec<f32>>,
}

impl PackedLinear {
    /// Packs stacked weights `[out, in]`; a missing bias counts as zero.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(
        device: &Device,
        compute: Compute,
        weights: &[&Param],
        biases: &[Option<&Param>],
    ) -> Result<PackedLinear, Error> {
        let views: Vec<View<'_>> = weights.iter().map(|w| w.value.view()).collect();
        let panels = pack(&device.engine(compute), Right::Transposed(&views), Tag::Packed)?;
        let bias = biases.iter().any(Option::is_some).then(|| {
            let one = |(w, b): (&&Param, &Option<&Param>)| {
                b.map_or(vec![0.0; w.value.rows()], |b| b.value.slice::<f32>().to_vec())
            };
            weights.iter().zip(biases).flat_map(one).collect()
        });
        Ok(PackedLinear { panels, bias })
    }

    /// Columns of the result.
    pub fn out(&self) -> usize {
        self.panels.n
    }

    /// `x W^T + b` in `format`; with `residual` (f32) the sum of both, in f32.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn apply(
        &self,
        device: &Device,
        compute: Compute,
        x: &Tensor,
        residual: Option<&Tensor>,
        format: Format,
    ) -> Result<Tensor, Error> {
        if x.cols() != self.panels.k {
            return Err(error::shape("packed linear", &[x.rows(), self.panels.k], &x.shape()));
        }
        let (format, store) = match residual {
            Some(other) => (
                Format::F32,
                Store::AddTo { other: other.slice::<f32>().as_ptr(), stride: other.cols() },
            ),
            None if format == Format::Bf16 => (Format::Bf16, Store::Bf16),
            None => (Format::F32, Store::Set),
        };
        let mut out =
            Tensor::uninit(device.pool(), Tag::Workspace, [x.rows(), self.panels.n], format)?;
        product(
            &device.engine(compute),
            Left::Rows(x.view()),
            &self.panels,
            Out::tensor(&mut out),
            store,
        )?;
        if let Some(bias) = &self.bias {
            add_bias(device, &mut out, 0, bias);
        }
        Ok(out)
    }
}

/// Rows of the embedding table for `tokens`, in f32.
///
/// # Errors
/// [`Error::Value`] for a token outside the table, [`Error::OutOfMemory`].
pub fn embedding(device: &Device, table: &Param, tokens: &[u32]) -> Result<Tensor, Error> {
    let rows = table.value.rows();
    match tokens.iter().find(|t| **t as usize >= rows) {
        Some(bad) => Err(Error::Value {
            what: "embedding: token".into(),
            expected: format!("below {rows}"),
            got: bad.to_string(),
        }),
        None => embed::gather(device, &table.value, tokens),
    }
}

/// RMS norm of the groups of `weight` columns inside `range`; other columns are copied.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn rms_norm(
    device: &Device,
    x: &Tensor,
    weight: &Param,
    eps: f32,
    range: Range<usize>,
    format: Format,
) -> Result<Tensor, Error> {
    norm::forward(device, x, weight.value.slice(), &Groups { range, eps }, format)
}

/// Turns the heads in columns `range` by each row's position.
pub fn rope(
    device: &Device,
    x: &mut Tensor,
    table: &RopeTable,
    positions: &[u32],
    range: Range<usize>,
) {
    rotate(device, x, range, table, positions, 1.0);
}

/// `silu(gate) * up` of rows `[gate | up]`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn swiglu(device: &Device, gate_up: &Tensor, format: Format) -> Result<Tensor, Error> {
    gated::forward(device, gate_up, format)
}

/// Keys and values of one layer for one sequence, packed as operands of the attention's products.
pub struct KvLayer {
    keys: Vec<Panels<Buffer>>,
    values: Vec<Panels<Buffer>>,
    head_dim: usize,
    capacity: usize,
    len: usize,
}

impl KvLayer {
    /// Room for `capacity` tokens of `kv_heads` heads.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(
        device: &Device,
        compute: Compute,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<KvLayer, Error> {
        let engine = device.engine(compute);
        let make = |k, n| {
            (0..kv_heads).map(|_| Panels::zeroed(&engine, k, n, Tag::Kv)).collect::<Result<_, _>>()
        };
        Ok(KvLayer {
            keys: make(head_dim, capacity)?,
            values: make(capacity, head_dim)?,
            head_dim,
            capacity,
            len: 0,
        })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        // What a forgotten value leaves behind is multiplied by a probability of zero, and is finite.
        self.len = self.len.min(len);
    }

    /// Key and value of one held token, `[K E]` each, as the cache holds them.
    ///
    /// # Panics
    /// When the token is not held.
    pub fn read(&self, device: &Device, compute: Compute, token: usize) -> (Vec<f32>, Vec<f32>) {
        assert!(token < self.len, "a token that is held");
        let engine = device.engine(compute);
        let key = |panels: &Panels<Buffer>| {
            (0..self.head_dim).map(|j| panels.get(&engine, j, token)).collect::<Vec<_>>()
        };
        let value = |panels: &Panels<Buffer>| {
            (0..self.head_dim).map(|j| panels.get(&engine, token, j)).collect::<Vec<_>>()
        };
        (self.keys.iter().flat_map(key).collect(), self.values.iter().flat_map(value).collect())
    }

    /// Attends from the new rows `[q | k | v]` (operand format, positions applied) over what is held and
    /// themselves, then holds their keys and values too: `[rows, H E]` in the operand format.
    ///
    /// # Errors
    /// [`Error::Value`] when the capacity is exceeded, [`Error::OutOfMemory`].
    pub fn attend(
        &mut self,
        device: &Device,
        compute: Compute,
        heads: usize,
        qkv: &Tensor,
    ) -> Result<Tensor, Error> {
        let (rows, e) = (qkv.rows(), self.head_dim);
        if self.len + rows > self.capacity {
            let got = format!("{} tokens", self.len + rows);
            return Err(Error::Value {
                what: "KV cache".into(),
                expected: format!("at most {} tokens", self.capacity),
                got,
            });
        }
        let shape = AttentionShape {
            batch: 1,
            tokens: rows,
            heads,
            kv_heads: self.keys.len(),
            head_dim: e,
            prefix: 0,
        };
        let engine = device.engine(compute);
        self.append(&engine, qkv, heads * e);
        let out = if self.len == 0 && rows > 1 {
            forward(device, compute, Inputs { shape, qkv, prefix: None, starts: None })?.0
        } else {
            decode::attend(
                device,
                &engine,
                &Cache { keys: &self.keys, values: &self.values, held: self.len },
                heads,
                e,
                qkv,
            )?
        };
        self.len += rows;
        Ok(out)
    }

    fn append(&mut self, engine: &Engine<'_>, qkv: &Tensor, first_key: usize) {
        let (e, kv_cols) = (self.head_dim, self.keys.len() * self.head_dim);
        let held = self.len;
        let heads = Shared::new(self.keys.as_mut_slice());
        let values = Shared::new(self.values.as_mut_slice());
        engine.team.run(kv_cols / e, |kv| {
            // SAFETY: every head belongs to one task.
            let (keys, values) =
                unsafe { (&mut heads.slice(kv, 1)[0], &mut values.slice(kv, 1)[0]) };
            with_format!(qkv.format(), A => {
                for (i, row) in qkv.slice::<A>().chunks_exact(qkv.cols()).enumerate() {
                    let key = first_key + kv * e;
                    keys.put_column(engine, held + i, &row[key..key + e]);
                    values.put_row(engine, held + i, &row[key + kv_cols..key + kv_cols + e]);
                }
            });
        });
    }
}
