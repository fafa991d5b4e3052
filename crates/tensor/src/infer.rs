//! Forward passes without a tape: weights packed once, keys and values cached.
//!
//! The same kernels as the tape's operations, for decoding token by token.

#![allow(unsafe_code)]

use std::ops::Range;

use smidgen_codec::Tag;

use crate::kernels::attention::{AttentionShape, Inputs, forward};
use crate::kernels::decode::attend_one;
use crate::kernels::elementwise::add_bias;
use crate::kernels::norm::{self, Groups};
use crate::kernels::rope::{RopeTable, rotate};
use crate::kernels::{embed, gated, with_format};
use crate::matmul::{Left, Out, Panels, Right, Store, convert, pack, product};
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

/// The first rows of a cache.
fn held(cache: &Tensor, rows: usize) -> View<'_> {
    cache.view().window(0, rows, 0, cache.cols())
}

/// Keys and values of one layer for one sequence, in the operand format: `[capacity, K E]` each.
pub struct KvLayer {
    keys: Tensor,
    values: Tensor,
    len: usize,
}

impl KvLayer {
    /// Room for `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(
        device: &Device,
        compute: Compute,
        capacity: usize,
        kv_cols: usize,
    ) -> Result<KvLayer, Error> {
        let make = || Tensor::zeros(device.pool(), Tag::Kv, [capacity, kv_cols], compute.format());
        Ok(KvLayer { keys: make()?, values: make()?, len: 0 })
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
        self.len = self.len.min(len);
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
        kv_heads: usize,
        qkv: &Tensor,
    ) -> Result<Tensor, Error> {
        let rows = qkv.rows();
        if self.len + rows > self.keys.rows() {
            let got = format!("{} tokens", self.len + rows);
            return Err(Error::Value {
                what: "KV cache".into(),
                expected: format!("at most {} tokens", self.keys.rows()),
                got,
            });
        }
        let head_dim = self.keys.cols() / kv_heads;
        let shape =
            AttentionShape { batch: 1, tokens: rows, heads, kv_heads, head_dim, prefix: self.len };
        self.append(qkv, shape.qkv_cols());
        let out = if rows == 1 {
            self.attend_last(device, compute, &shape, qkv)?
        } else {
            let prefix = (shape.prefix > 0)
                .then(|| (held(&self.keys, shape.prefix), held(&self.values, shape.prefix)));
            forward(device, compute, Inputs { shape, qkv, prefix, starts: None })?.0
        };
        self.len += rows;
        Ok(out)
    }

    fn append(&mut self, qkv: &Tensor, cols: usize) {
        let kv_cols = self.keys.cols();
        let first = cols - 2 * kv_cols;
        let at = self.len;
        with_format!(qkv.format(), A => {
            for (to, col) in [(&mut self.keys, first), (&mut self.values, first + kv_cols)] {
                let to = to.slice_mut::<A>();
                for (i, row) in qkv.slice::<A>().chunks_exact(cols).enumerate() {
                    to[(at + i) * kv_cols..][..kv_cols].copy_from_slice(&row[col..col + kv_cols]);
                }
            }
        });
    }

    fn attend_last(
        &self,
        device: &Device,
        compute: Compute,
        s: &AttentionShape,
        qkv: &Tensor,
    ) -> Result<Tensor, Error> {
        let (e, count, stride) = (s.head_dim, self.len + 1, self.keys.cols());
        let mut out =
            Tensor::uninit(device.pool(), Tag::Workspace, [1, s.heads * e], compute.format())?;
        let mut scores =
            Tensor::uninit(device.pool(), Tag::Workspace, [s.heads, count], Format::F32)?;
        let mut sums = Tensor::uninit(device.pool(), Tag::Workspace, [s.heads, e], Format::F32)?;
        let scores = Shared::new(scores.slice_mut::<f32>());
        let sums = Shared::new(sums.slice_mut::<f32>());
        with_format!(compute.format(), A => {
            let (keys, values, query) = (self.keys.slice::<A>(), self.values.slice::<A>(), qkv.slice::<A>());
            let to = Shared::new(out.slice_mut::<A>());
            device.team().run(s.heads, |head| {
                let col = head / (s.heads / s.kv_heads) * e;
                // SAFETY: every head belongs to one task.
                let (scores, sums, to) = unsafe { (scores.slice(head * count, count), sums.slice(head * e, e), to.slice(head * e, e)) };
                let scale = 1.0 / (e as f32).sqrt();
                attend_one(device.level(), &query[head * e..][..e], &keys[col..], &values[col..], stride, count, scale, scores, sums);
                convert(device.level(), sums, to);
            });
        });
        Ok(out)
    }
}
