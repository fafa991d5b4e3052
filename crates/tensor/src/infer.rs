//! Forward passes without a tape: weights packed once, keys and values cached.
//!
//! The same kernels as the tape's operations, for decoding token by token.

#![allow(unsafe_code)]

use std::ops::Range;

use smidgen_codec::Tag;

use crate::kernels::attention::{AttentionShape, Inputs, forward};
use crate::kernels::decode::{self, Cache};
use crate::kernels::elementwise::add_bias;
use crate::kernels::loss::cross_entropy;
use crate::kernels::norm::{self, Groups};
use crate::kernels::rope::{RopeTable, rotate};
use crate::kernels::{embed, gated, with_format};
use crate::matmul::{Engine, Left, Out, Panels, Right, Store, pack, product};
use crate::ops::stacked_rows;
use crate::tensor::{Shared, View};
use crate::{Buffer, Compute, Device, Error, Format, Level, Param, Tensor, error};

/// Panels have the layout of one kernel set: others would read them as something else.
#[derive(Clone, Copy, PartialEq)]
struct Kernels(Level, Compute);

impl Kernels {
    fn check(self, what: &str, device: &Device, compute: Compute) -> Result<(), Error> {
        let name = |k: Kernels| format!("{} kernels in {}", k.0.name(), k.1.format().name());
        let now = Kernels(device.level(), compute);
        if self == now {
            return Ok(());
        }
        Err(Error::Value { what: what.into(), expected: name(self), got: name(now) })
    }
}

/// A linear map with its weights in panels, ready for any number of rows.
pub struct PackedLinear {
    panels: Panels<Buffer>,
    bias: Option<Vec<f32>>,
    made_for: Kernels,
}

impl PackedLinear {
    /// Packs stacked weights `[out, in]`; a missing bias counts as zero.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Value`] when weights and biases do not fit each other,
    /// [`Error::OutOfMemory`].
    pub fn new(
        device: &Device,
        compute: Compute,
        weights: &[&Param],
        biases: &[Option<&Param>],
    ) -> Result<PackedLinear, Error> {
        stacked_rows(weights, biases, weights.first().map_or(0, |w| w.value.cols()))?;
        let views: Vec<View<'_>> = weights.iter().map(|w| w.value.view()).collect();
        let panels = pack(&device.engine(compute), Right::Transposed(&views), Tag::Packed)?;
        let bias = biases.iter().any(Option::is_some).then(|| {
            let one = |(w, b): (&&Param, &Option<&Param>)| {
                b.map_or(vec![0.0; w.value.rows()], |b| b.value.slice::<f32>().to_vec())
            };
            weights.iter().zip(biases).flat_map(one).collect()
        });
        Ok(PackedLinear { panels, bias, made_for: Kernels(device.level(), compute) })
    }

    /// Columns of the result.
    pub fn out(&self) -> usize {
        self.panels.n
    }

    /// `x W^T + b` in `format`; with `residual` (f32) the sum of both, in f32.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Value`] for another `compute` or kernel set than it was packed for, for
    /// bf16 out of a product in f32 or a residual that is not f32; [`Error::OutOfMemory`].
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
        self.made_for.check("packed linear", device, compute)?;
        let wrong = |what: &str, got: Format| {
            Err(Error::Value { what: what.into(), expected: "f32".into(), got: got.name().into() })
        };
        if format == Format::Bf16 && compute == Compute::F32 {
            return wrong("packed linear: format", format);
        }
        if let Some(other) = residual {
            let shape = [x.rows(), self.panels.n];
            if other.shape() != shape {
                return Err(error::shape("packed linear: residual", &shape, &other.shape()));
            }
            if other.format() != Format::F32 {
                return wrong("packed linear: residual", other.format());
            }
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

impl PackedLinear {
    /// As an output matrix: for every row of `x` the negative log-likelihood of its target, in nats.
    /// Logits exist for as many rows at once as fit into `chunk_bytes`, but for one at least.
    ///
    /// # Errors
    /// As for [`PackedLinear::apply`]; [`Error::Value`] for a target that is no column.
    pub fn nll(
        &self,
        device: &Device,
        compute: Compute,
        x: &Tensor,
        targets: &[u32],
        chunk_bytes: usize,
    ) -> Result<Vec<f64>, Error> {
        let (rows, out) = (x.rows(), self.panels.n);
        if x.cols() != self.panels.k || targets.len() != rows {
            let expected = [targets.len(), self.panels.k];
            return Err(error::shape("packed linear: nll", &expected, &x.shape()));
        }
        self.made_for.check("packed linear", device, compute)?;
        if let Some(bad) = targets.iter().find(|target| **target as usize >= out) {
            return Err(Error::Value {
                what: "packed linear: target".into(),
                expected: format!("below {out}"),
                got: bad.to_string(),
            });
        }
        let at_once = (chunk_bytes / (4 * out).max(1)).max(1);
        let mut losses = vec![0.0; rows];
        for from in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - from);
            let part = x.view().window(from, count, 0, x.cols());
            let mut logits =
                Tensor::uninit(device.pool(), Tag::Workspace, [count, out], Format::F32)?;
            let engine = device.engine(compute);
            product(&engine, Left::Rows(part), &self.panels, Out::tensor(&mut logits), Store::Set)?;
            if let Some(bias) = &self.bias {
                add_bias(device, &mut logits, 0, bias);
            }
            let (range, ones) = (from..from + count, vec![1.0; count]);
            let losses = &mut losses[range.clone()];
            cross_entropy(device, &mut logits, &targets[range], &ones, 1.0, losses, None);
        }
        Ok(losses)
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
/// [`Error::Shape`] or [`Error::Value`] when they are not whole groups, [`Error::OutOfMemory`].
pub fn rms_norm(
    device: &Device,
    x: &Tensor,
    weight: &Param,
    eps: f32,
    range: Range<usize>,
    format: Format,
) -> Result<Tensor, Error> {
    norm::check(weight, &range, x.cols())?;
    norm::forward(device, x, weight.value.slice(), &Groups { range, eps }, format)
}

/// Turns the heads in columns `range` by each row's position.
///
/// # Panics
/// When a row has no position, a position is past the table, or the columns lie outside `x`.
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
/// [`Error::Shape`] for no columns or an odd number of them, [`Error::OutOfMemory`].
pub fn swiglu(device: &Device, gate_up: &Tensor, format: Format) -> Result<Tensor, Error> {
    gated::check(gate_up.shape())?;
    gated::forward(device, gate_up, format)
}

/// Keys and values of one layer for one sequence, packed as operands of the attention's products.
pub struct KvLayer {
    keys: Vec<Panels<Buffer>>,
    values: Vec<Panels<Buffer>>,
    head_dim: usize,
    capacity: usize,
    len: usize,
    made_for: Kernels,
}

impl KvLayer {
    /// Room for `capacity` tokens of `kv_heads` heads.
    ///
    /// # Errors
    /// [`Error::Value`] for no heads or heads of an odd size, [`Error::OutOfMemory`].
    pub fn new(
        device: &Device,
        compute: Compute,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<KvLayer, Error> {
        if kv_heads == 0 || head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(Error::Value {
                what: "KV cache".into(),
                expected: "at least one head, of an even size".into(),
                got: format!("{kv_heads} heads of {head_dim}"),
            });
        }
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
            made_for: Kernels(device.level(), compute),
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

    /// Reads keys and values of all held tokens, `[len, K E]` each, as the cache holds them.
    ///
    /// # Errors
    /// [`Error::Shape`] for arrays of another size, [`Error::Value`] for another `compute` or kernel set
    /// than the cache was made for.
    pub fn read(
        &self,
        device: &Device,
        compute: Compute,
        keys: &mut [f32],
        values: &mut [f32],
    ) -> Result<(), Error> {
        let (e, width) = (self.head_dim, self.keys.len() * self.head_dim);
        self.made_for.check("KV cache", device, compute)?;
        for got in [keys.len(), values.len()] {
            if got != self.len * width {
                return Err(error::shape("KV cache: read", &[self.len, width], &[got]));
            }
        }
        let engine = device.engine(compute);
        for (token, row) in keys.chunks_exact_mut(width).enumerate() {
            for (i, to) in row.iter_mut().enumerate() {
                *to = self.keys[i / e].get(&engine, i % e, token);
            }
        }
        for (token, row) in values.chunks_exact_mut(width).enumerate() {
            for (i, to) in row.iter_mut().enumerate() {
                *to = self.values[i / e].get(&engine, token, i % e);
            }
        }
        Ok(())
    }

    /// Replaces key and value of a held token, `[K E]` each, rounded to the operand format.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows of another size, [`Error::Value`] for a token that is not held, and for
    /// another `compute` or kernel set than the cache was made for.
    pub fn write(
        &mut self,
        device: &Device,
        compute: Compute,
        token: usize,
        key: &[f32],
        value: &[f32],
    ) -> Result<(), Error> {
        let (e, width) = (self.head_dim, self.keys.len() * self.head_dim);
        self.made_for.check("KV cache", device, compute)?;
        for got in [key.len(), value.len()] {
            if got != width {
                return Err(error::shape("KV cache: write", &[1, width], &[1, got]));
            }
        }
        if token >= self.len {
            return Err(Error::Value {
                what: "KV cache: token".into(),
                expected: format!("below {}, those held", self.len),
                got: token.to_string(),
            });
        }
        let engine = device.engine(compute);
        for (panels, head) in self.keys.iter_mut().zip(key.chunks_exact(e)) {
            panels.put_column(&engine, token, head);
        }
        for (panels, head) in self.values.iter_mut().zip(value.chunks_exact(e)) {
            panels.put_row(&engine, token, head);
        }
        Ok(())
    }

    /// Attends from the new rows `[q | k | v]` (operand format, positions applied) over what is held and
    /// themselves, then holds their keys and values too: `[rows, H E]` in the operand format.
    ///
    /// # Errors
    /// [`Error::Value`] when the capacity is exceeded, the heads do not fit or `qkv`, `compute` or the kernel
    /// set are others than the cache was made for; [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn attend(
        &mut self,
        device: &Device,
        compute: Compute,
        heads: usize,
        qkv: &Tensor,
    ) -> Result<Tensor, Error> {
        let (rows, e) = (qkv.rows(), self.head_dim);
        self.check(device, compute, heads, qkv)?;
        if rows > self.capacity - self.len {
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
            forward(
                device,
                compute,
                Inputs { shape, qkv, prefix: None, prefix_lens: None, starts: None },
            )?
            .0
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

    fn check(
        &self,
        device: &Device,
        compute: Compute,
        heads: usize,
        qkv: &Tensor,
    ) -> Result<(), Error> {
        self.made_for.check("KV cache", device, compute)?;
        let kv_heads = self.keys.len();
        if heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::Value {
                what: "KV cache: heads".into(),
                expected: format!("a multiple of {kv_heads}"),
                got: heads.to_string(),
            });
        }
        let cols = (heads + 2 * kv_heads) * self.head_dim;
        if qkv.cols() != cols {
            return Err(error::shape("KV cache: qkv", &[qkv.rows(), cols], &qkv.shape()));
        }
        if qkv.format() != compute.format() {
            return Err(Error::Value {
                what: "KV cache: qkv".into(),
                expected: compute.format().name().into(),
                got: qkv.format().name().into(),
            });
        }
        Ok(())
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
