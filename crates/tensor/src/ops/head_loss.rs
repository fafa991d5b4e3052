//! Output matrix and cross-entropy in chunks of tokens: the logits never exist whole.
//!
//! `loss = scale * sum_i weight_i * (logsumexp(W x_i) - (W x_i)[target_i])`. On a tape that records, each
//! chunk's gradient is made while its logits are there, so they are computed once; the way back only
//! hands the gradients on.

use std::sync::Arc;

use smidgen_codec::Tag;

use crate::kernels::loss::cross_entropy;
use crate::matmul::{Left, Out, Panels, Right, Store, pack, product};
use crate::tape::{Backward, Forward, Op};
use crate::{Buffer, Error, Format, ParamId, Tape, Tensor, Var, error};

/// What the loss is taken over.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The token each row should predict.
    pub tokens: Arc<[u32]>,
    /// A row's share in the loss; 0 leaves it out.
    pub weights: Arc<[f32]>,
    /// Multiplies the sum: one over the target tokens of the whole step.
    pub scale: f32,
    /// Bytes of logits alive at once, at most (but always one row).
    pub chunk_bytes: usize,
}

struct HeadLoss {
    weight: ParamId,
    targets: Targets,
    dx: Option<Tensor>,
    dw: Option<Tensor>,
}

/// Tokens whose logits are alive at once.
pub(crate) fn chunk_rows(chunk_bytes: usize, vocab: usize) -> usize {
    // Whole register tiles, so that only the last chunk has a ragged edge.
    let rows = chunk_bytes / (vocab * 4).max(1);
    if rows >= 12 { rows / 12 * 12 } else { rows.max(1) }
}

impl Op for HeadLoss {
    fn name(&self) -> &'static str {
        "head_loss"
    }

    fn params(&self) -> Vec<ParamId> {
        vec![self.weight]
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        let (x, weight, pool) = (&inputs[0], cx.params.get(self.weight), cx.device.pool());
        let [vocab, width] = weight.value.shape();
        let engine = cx.engine();
        let by_lane = pack(&engine, Right::Transposed(&[weight.value.view()]), Tag::Packed)?;
        let mut grads = None;
        if cx.records {
            let stacked = pack(&engine, Right::Stacked(&[weight.value.view()]), Tag::Packed)?;
            let dx = cx.tensor([x.rows(), width], cx.compute.format())?;
            let dw = match (weight.trainable, x.rows()) {
                (false, _) => None,
                // No chunk will write it.
                (true, 0) => Some(Tensor::zeros(pool, Tag::Grads, [vocab, width], Format::F32)?),
                (true, _) => Some(Tensor::uninit(pool, Tag::Grads, [vocab, width], Format::F32)?),
            };
            grads = Some(ChunkGrads { stacked, dx, dw });
        }
        let rows = chunk_rows(self.targets.chunk_bytes, vocab).min(x.rows());
        let mut losses = vec![0f64; x.rows()];
        for from in (0..x.rows()).step_by(rows.max(1)) {
            let count = rows.min(x.rows() - from);
            self.chunk(cx, x, from, count, &by_lane, &mut losses, grads.as_mut())?;
        }
        if let Some(grads) = grads {
            (self.dx, self.dw) = (Some(grads.dx), grads.dw);
        }
        let mut loss = cx.tensor([1, 1], Format::F32)?;
        // Summed in f64 and in order.
        loss.slice_mut::<f32>()[0] =
            (losses.iter().sum::<f64>() * f64::from(self.targets.scale)) as f32;
        Ok(loss)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let factor = grad.slice::<f32>()[0];
        let mut dx = self.dx.take().expect("a recorded forward kept the gradients");
        if factor != 1.0 {
            cx.scale(&mut dx, factor);
        }
        cx.add_grad(0, dx)?;
        if let Some(mut dw) = self.dw.take() {
            if factor != 1.0 {
                cx.scale(&mut dw, factor);
            }
            let sum = match cx.param_grad_started(self.weight)? {
                Some(mut sum) => {
                    crate::kernels::elementwise::add_assign(cx.device(), &mut sum, &dw);
                    sum
                }
                None => dw,
            };
            cx.finish_param(self.weight, sum)?;
        }
        Ok(())
    }
}

struct ChunkGrads {
    /// The weight with the vocabulary along k, for `dx = dlogits W`.
    stacked: Panels<Buffer>,
    dx: Tensor,
    dw: Option<Tensor>,
}

impl HeadLoss {
    #[allow(clippy::too_many_arguments)]
    fn chunk(
        &self,
        cx: &Forward<'_>,
        x: &Tensor,
        from: usize,
        count: usize,
        by_lane: &Panels<Buffer>,
        losses: &mut [f64],
        grads: Option<&mut ChunkGrads>,
    ) -> Result<(), Error> {
        let engine = cx.engine();
        let (vocab, width) = (by_lane.n, by_lane.k);
        let workspace =
            |cols, format| Tensor::uninit(cx.device.pool(), Tag::Workspace, [count, cols], format);
        let mut logits = workspace(vocab, Format::F32)?;
        let rows = x.view().window(from, count, 0, width);
        product(&engine, Left::Rows(rows), by_lane, Out::tensor(&mut logits), Store::Set)?;
        let (targets, weights) =
            (&self.targets.tokens[from..from + count], &self.targets.weights[from..from + count]);
        let losses = &mut losses[from..from + count];
        let Some(grads) = grads else {
            cross_entropy(
                cx.device,
                &mut logits,
                targets,
                weights,
                self.targets.scale,
                losses,
                None,
            );
            return Ok(());
        };
        // An even stride, so that a row is whole words of two bf16.
        let mut dlogits = workspace(vocab.next_multiple_of(2), cx.compute.format())?;
        cross_entropy(
            cx.device,
            &mut logits,
            targets,
            weights,
            self.targets.scale,
            losses,
            Some(&mut dlogits),
        );
        drop(logits);
        let left = dlogits.view().window(0, count, 0, vocab);
        let dx = Out::tensor(&mut grads.dx).window(from, 0, cx.compute.format().bytes());
        let store = if cx.compute.format() == Format::Bf16 { Store::Bf16 } else { Store::Set };
        product(&engine, Left::Rows(left), &grads.stacked, dx, store)?;
        if let Some(dw) = &mut grads.dw {
            let x = pack(&engine, Right::Stacked(&[rows]), Tag::Workspace)?;
            let store = if from == 0 { Store::Set } else { Store::Add };
            product(&engine, Left::Columns(left), &x, Out::tensor(dw), store)?;
        }
        Ok(())
    }
}

impl Tape<'_> {
    /// Cross-entropy of the rows of `x` `[N, D]` under the output matrix `weight` `[V, D]`: `[1, 1]` in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes do not fit, [`Error::Value`] for a target outside the vocabulary,
    /// [`Error::OutOfMemory`].
    pub fn head_loss(&mut self, x: Var, weight: ParamId, targets: Targets) -> Result<Var, Error> {
        let [rows, width] = self.shape(x);
        let param = self.params().get(weight);
        let vocab = param.value.rows();
        if param.value.cols() != width {
            return Err(error::shape(param.name.clone(), &[vocab, width], &param.value.shape()));
        }
        if targets.tokens.len() != rows || targets.weights.len() != rows {
            return Err(error::shape(
                "head_loss: targets",
                &[rows],
                &[targets.tokens.len(), targets.weights.len()],
            ));
        }
        if let Some(bad) = targets.tokens.iter().find(|t| **t as usize >= vocab) {
            return Err(Error::Value {
                what: "head_loss: target".into(),
                expected: format!("below {vocab}"),
                got: bad.to_string(),
            });
        }
        self.apply(Box::new(HeadLoss { weight, targets, dx: None, dw: None }), &[x])
    }
}
