//! Causal attention over rows `[q | k | v]`, with an optional prefix that gets gradients.

use std::sync::Arc;

use crate::kernels::attention::{AttentionShape, Inputs, backward, forward};
use crate::kernels::elementwise::copy_as;
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Format, Tape, Tensor, Var, error};

struct Attention {
    shape: AttentionShape,
    starts: Option<Arc<[u32]>>,
    lse: Option<Tensor>,
}

impl Attention {
    fn inputs<'a>(&'a self, values: &'a [Tensor]) -> Inputs<'a> {
        Inputs {
            shape: self.shape,
            qkv: &values[0],
            prefix: (values.len() == 3).then(|| (values[1].view(), values[2].view())),
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
    /// holds keys and values `[B P, K E]` that every token of the sequence sees.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Value`] when the sizes do not fit, [`Error::OutOfMemory`].
    pub fn attention(
        &mut self,
        qkv: Var,
        shape: AttentionShape,
        starts: Option<&Arc<[u32]>>,
        prefix: Option<(Var, Var)>,
    ) -> Result<Var, Error> {
        let rows = shape.batch * shape.tokens;
        if self.shape(qkv) != [rows, shape.qkv_cols()] {
            return Err(error::shape(
                "attention: qkv",
                &[rows, shape.qkv_cols()],
                &self.shape(qkv),
            ));
        }
        if shape.heads == 0
            || shape.kv_heads == 0
            || shape.head_dim == 0
            || !shape.heads.is_multiple_of(shape.kv_heads)
            || !shape.head_dim.is_multiple_of(2)
        {
            let got = format!(
                "{} heads, {} key-value heads, head size {}",
                shape.heads, shape.kv_heads, shape.head_dim
            );
            return Err(Error::Value {
                what: "attention".into(),
                expected: "key-value heads that divide the heads, an even head size".into(),
                got,
            });
        }
        let mut inputs = vec![qkv];
        let prefix_shape = [shape.batch * shape.prefix, shape.kv_heads * shape.head_dim];
        for var in prefix.iter().flat_map(|(k, v)| [*k, *v]) {
            if shape.prefix == 0 || self.shape(var) != prefix_shape {
                return Err(error::shape("attention: prefix", &prefix_shape, &self.shape(var)));
            }
            inputs.push(var);
        }
        if prefix.is_none() && shape.prefix > 0 {
            return Err(error::shape("attention: prefix", &prefix_shape, &[0, 0]));
        }
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
        self.apply(Box::new(Attention { shape, starts: starts.cloned(), lse: None }), &inputs)
    }
}
