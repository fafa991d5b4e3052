//! Causal attention over rows `[q | k | v]`, with an optional prefix that gets gradients.

use std::sync::Arc;

use crate::kernels::attention::{AttentionShape, Inputs, backward, forward};
use crate::kernels::elementwise::copy_as;
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Format, Tape, Tensor, Var, error};

/// Keys and values in front of every sequence of a batch, which all its tokens see.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// Keys `[B P, K E]`, positions applied.
    pub keys: Var,
    /// Values `[B P, K E]`.
    pub values: Var,
    /// How many of the P are seen, for each sequence; all of them without it. The rows behind them
    /// only fill the batch: nobody sees them, and their gradient is zero.
    pub lens: Option<Arc<[u32]>>,
}

struct Attention {
    shape: AttentionShape,
    starts: Option<Arc<[u32]>>,
    prefix_lens: Option<Arc<[u32]>>,
    lse: Option<Tensor>,
}

impl Attention {
    fn inputs<'a>(&'a self, values: &'a [Tensor]) -> Inputs<'a> {
        Inputs {
            shape: self.shape,
            qkv: &values[0],
            prefix: (values.len() == 3).then(|| (values[1].view(), values[2].view())),
            prefix_lens: self.prefix_lens.as_deref(),
            starts: self.starts.as_deref(),
        }
    }
}

/// Brings every operand into the operand format.
fn in_format(
    device: &crate::Device,
    values: Vec<Tensor>,
    format: Format,
) -> Result<Vec<Tensor>, Error> {
    values
        .into_iter()
        .map(|v| if v.format() == format { Ok(v) } else { copy_as(device, &v, format) })
        .collect()
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        let values = in_format(cx.device, inputs, cx.compute.format())?;
        let (out, lse) = forward(cx.device, cx.compute, self.inputs(&values))?;
        self.lse = cx.records.then_some(lse);
        Ok(out)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let count = if self.shape.prefix > 0 { 3 } else { 1 };
        let values = (0..count).map(|i| cx.input(i)).collect::<Result<Vec<_>, _>>()?;
        let format = cx.compute().format();
        let values = in_format(cx.device(), values, format)?;
        let grad = in_format(cx.device(), vec![grad], format)?.remove(0);
        let out = cx.output()?;
        let lse = self.lse.take().expect("a recorded forward kept the log-sum-exp");
        let grads = backward(cx.device(), cx.compute(), self.inputs(&values), &out, &lse, &grad)?;
        cx.add_grad(0, grads.qkv)?;
        if let Some((keys, values)) = grads.prefix {
            cx.add_grad(1, keys)?;
            cx.add_grad(2, values)?;
        }
        Ok(())
    }
}

impl Tape<'_> {
    /// Attention over `qkv` `[B T, (H + 2 K) E]`: `[B T, H E]` in the operand format.
    ///
    /// `starts` gives for every token the place in its sequence where its document begins; `prefix`
    /// holds the `shape.prefix` keys and values that every token of a sequence sees.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Value`] when the sizes do not fit, [`Error::OutOfMemory`].
    pub fn attention(
        &mut self,
        qkv: Var,
        shape: AttentionShape,
        starts: Option<&Arc<[u32]>>,
        prefix: Option<&Prefix>,
    ) -> Result<Var, Error> {
        let rows = shape.batch * shape.tokens;
        if self.shape(qkv) != [rows, shape.qkv_cols()] {
            let expected = [rows, shape.qkv_cols()];
            return Err(error::shape("attention: qkv", &expected, &self.shape(qkv)));
        }
        check_heads(&shape)?;
        self.check_prefix(&shape, prefix)?;
        if let Some(starts) = starts {
            let fits = starts.len() == rows
                && starts.iter().enumerate().all(|(i, s)| *s as usize <= i % shape.tokens);
            if !fits {
                return Err(Error::Value {
                    what: "attention: starts".into(),
                    expected: format!("{rows} places at or before their token"),
                    got: format!("{} places", starts.len()),
                });
            }
        }
        let inputs: Vec<Var> =
            [qkv].into_iter().chain(prefix.into_iter().flat_map(|p| [p.keys, p.values])).collect();
        let prefix_lens = prefix.and_then(|prefix| prefix.lens.clone());
        let op = Attention { shape, starts: starts.cloned(), prefix_lens, lse: None };
        self.apply(Box::new(op), &inputs)
    }

    fn check_prefix(&self, shape: &AttentionShape, prefix: Option<&Prefix>) -> Result<(), Error> {
        let expected = [shape.batch * shape.prefix, shape.kv_heads * shape.head_dim];
        let Some(prefix) = prefix else {
            return match shape.prefix {
                0 => Ok(()),
                _ => Err(error::shape("attention: prefix", &expected, &[0, 0])),
            };
        };
        for var in [prefix.keys, prefix.values] {
            if shape.prefix == 0 || self.shape(var) != expected {
                return Err(error::shape("attention: prefix", &expected, &self.shape(var)));
            }
        }
        match &prefix.lens {
            Some(lens)
                if lens.len() != shape.batch
                    || lens.iter().any(|len| *len as usize > shape.prefix) =>
            {
                Err(Error::Value {
                    what: "attention: prefix".into(),
                    expected: format!("{} lengths up to {}", shape.batch, shape.prefix),
                    got: format!("{lens:?}"),
                })
            }
            _ => Ok(()),
        }
    }
}

fn check_heads(shape: &AttentionShape) -> Result<(), Error> {
    let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
    let sizes = heads > 0 && kv_heads > 0 && head_dim > 0;
    if sizes && heads.is_multiple_of(kv_heads) && head_dim.is_multiple_of(2) {
        return Ok(());
    }
    Err(Error::Value {
        what: "attention".into(),
        expected: "key-value heads that divide the heads, an even head size".into(),
        got: format!("{heads} heads, {kv_heads} key-value heads, head size {head_dim}"),
    })
}
