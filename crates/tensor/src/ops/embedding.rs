//! Rows of a table by token; the gradient goes back to those rows.

use std::sync::Arc;

use crate::kernels::embed::{gather, scatter_add};
use crate::tape::{Backward, Forward, Op};
use crate::{Error, ParamId, Tape, Tensor, Var};

struct Embedding {
    table: ParamId,
    tokens: Arc<[u32]>,
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn params(&self) -> Vec<ParamId> {
        vec![self.table]
    }

    fn forward(&mut self, cx: &Forward<'_>, _inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        gather(cx.device, &cx.params.get(self.table).value, &self.tokens)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        if !cx.trains(self.table) {
            return Ok(());
        }
        let (mut table, started) = cx.param_grad(self.table)?;
        if !started {
            table.slice_mut::<f32>().fill(0.0);
        }
        scatter_add(cx.device(), &mut table, &self.tokens, &grad);
        drop(grad);
        cx.finish_param(self.table, table)
    }
}

impl Tape<'_> {
    /// The rows of `table` `[V, D]` for `tokens`: `[tokens, D]` in f32.
    ///
    /// # Errors
    /// [`Error::Value`] for a token outside the table, [`Error::OutOfMemory`].
    pub fn embedding(&mut self, table: ParamId, tokens: &Arc<[u32]>) -> Result<Var, Error> {
        let rows = self.params().get(table).value.rows();
        if let Some(bad) = tokens.iter().find(|token| **token as usize >= rows) {
            return Err(Error::Value {
                what: "embedding: token".into(),
                expected: format!("below {rows}"),
                got: bad.to_string(),
            });
        }
        self.apply(Box::new(Embedding { table, tokens: tokens.clone() }), &[])
    }
}
