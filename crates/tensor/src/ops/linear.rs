//! `y = x W^T (+ b) (+ residual)` for one or several stacked weights.
//!
//! Stacked weights (q, k, v; gate, up) stay parameters of their own: only the panels and the rows of the
//! result join them. On the way back `dx = dy W` comes first, so that each weight may be updated the
//! moment its `dW = dy^T x` is complete.

use smidgen_codec::Tag;

use crate::kernels::elementwise::{add_bias, copy_as};
use crate::matmul::{Left, Out, Right, Store, pack, product};
use crate::tape::{Backward, Forward, Op};
use crate::tensor::View;
use crate::{Error, Format, Param, ParamId, Params, Tape, Tensor, Var, error};

struct Linear {
    weights: Vec<ParamId>,
    biases: Vec<Option<ParamId>>,
    /// Whether the second input is added to the result, which is f32 then.
    residual: bool,
}

fn views<'a>(params: &'a Params, weights: &[ParamId]) -> Vec<View<'a>> {
    weights.iter().map(|id| params.get(*id).value.view()).collect()
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn params(&self) -> Vec<ParamId> {
        self.weights.iter().copied().chain(self.biases.iter().flatten().copied()).collect()
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        let engine = cx.engine();
        let weights = views(cx.params, &self.weights);
        let panels = pack(&engine, Right::Transposed(&weights), Tag::Packed)?;
        let shape = [inputs[0].rows(), panels.n];
        let (format, store) = match inputs.get(1).filter(|_| self.residual) {
            Some(other) => (
                Format::F32,
                Store::AddTo { other: other.slice::<f32>().as_ptr(), stride: panels.n },
            ),
            None if cx.compute.format() == Format::Bf16 => (Format::Bf16, Store::Bf16),
            None => (Format::F32, Store::Set),
        };
        let mut out = cx.tensor(shape, format)?;
        product(&engine, Left::Rows(inputs[0].view()), &panels, Out::tensor(&mut out), store)?;
        let mut col = 0;
        for (weight, bias) in weights.iter().zip(&self.biases) {
            if let Some(bias) = bias {
                add_bias(cx.device, &mut out, col, cx.params.get(*bias).value.slice());
            }
            col += weight.rows;
        }
        Ok(out)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let format = cx.compute().format();
        // Both products read the gradient in the operand format; round it once.
        let rounded = if grad.format() == format {
            grad.clone()
        } else {
            copy_as(cx.device(), &grad, format)?
        };
        if cx.wants(0) {
            let dx = self.input_grad(cx, &rounded)?;
            cx.add_grad(0, dx)?;
        }
        if self.params().iter().any(|id| cx.trains(*id)) {
            self.weight_grads(cx, &rounded)?;
        }
        drop(rounded);
        if self.residual { cx.add_grad(1, grad) } else { Ok(()) }
    }
}

impl Linear {
    fn input_grad(&self, cx: &Backward<'_, '_>, grad: &Tensor) -> Result<Tensor, Error> {
        let engine = cx.engine();
        let values: Vec<Tensor> =
            self.weights.iter().map(|id| cx.param(*id).value.clone()).collect();
        let weights: Vec<View<'_>> = values.iter().map(Tensor::view).collect();
        let panels = pack(&engine, Right::Stacked(&weights), Tag::Packed)?;
        let format = cx.compute().format();
        let mut dx = cx.tensor([grad.rows(), panels.n], format)?;
        let store = if format == Format::Bf16 { Store::Bf16 } else { Store::Set };
        product(&engine, Left::Rows(grad.view()), &panels, Out::tensor(&mut dx), store)?;
        Ok(dx)
    }

    fn weight_grads(&self, cx: &mut Backward<'_, '_>, grad: &Tensor) -> Result<(), Error> {
        let x = cx.input(0)?;
        let panels = pack(&cx.engine(), Right::Stacked(&[x.view()]), Tag::Workspace)?;
        drop(x);
        let mut col = 0;
        for (weight, bias) in self.weights.iter().zip(&self.biases) {
            let rows = cx.param(*weight).value.rows();
            let part = grad.view().window(0, grad.rows(), col, rows);
            if cx.trains(*weight) {
                let (mut dw, started) = cx.param_grad(*weight)?;
                let store = if started { Store::Add } else { Store::Set };
                product(&cx.engine(), Left::Columns(part), &panels, Out::tensor(&mut dw), store)?;
                cx.finish_param(*weight, dw)?;
            }
            if let Some(bias) = bias.filter(|id| cx.trains(*id)) {
                bias_grad(cx, bias, grad, col)?;
            }
            col += rows;
        }
        Ok(())
    }
}

fn bias_grad(
    cx: &mut Backward<'_, '_>,
    bias: ParamId,
    grad: &Tensor,
    col: usize,
) -> Result<(), Error> {
    let (mut db, started) = cx.param_grad(bias)?;
    let to = db.slice_mut::<f32>();
    if !started {
        to.fill(0.0);
    }
    let (cols, width) = (grad.cols(), to.len());
    crate::kernels::with_format!(grad.format(), A => {
        for row in grad.slice::<A>().chunks_exact(cols) {
            crate::kernels::embed::add_row(cx.device().level(), to, &row[col..col + width]);
        }
    });
    cx.finish_param(bias, db)
}

/// A linear map before it is applied: stacked weights, their biases, a residual.
#[derive(Clone, Debug)]
pub struct LinearSpec {
    /// Weights `[out, in]`, joined along `out`.
    pub weights: Vec<ParamId>,
    /// One optional bias `[1, out]` per weight.
    pub biases: Vec<Option<ParamId>>,
}

impl LinearSpec {
    /// Weights without biases.
    pub fn new(weights: impl Into<Vec<ParamId>>) -> LinearSpec {
        let weights = weights.into();
        LinearSpec { biases: vec![None; weights.len()], weights }
    }
}

/// Rows of all weights together, if weights and biases fit each other and `width`.
pub(crate) fn stacked_rows(
    weights: &[&Param],
    biases: &[Option<&Param>],
    width: usize,
) -> Result<usize, Error> {
    if weights.is_empty() || biases.len() != weights.len() {
        return Err(Error::Value {
            what: "linear".into(),
            expected: "at least one weight, and one optional bias for each".into(),
            got: format!("{} weights, {} biases", weights.len(), biases.len()),
        });
    }
    let mut out = 0;
    for (weight, bias) in weights.iter().zip(biases) {
        let [rows, cols] = weight.value.shape();
        if cols != width {
            return Err(error::shape(weight.name.clone(), &[rows, width], &[rows, cols]));
        }
        if let Some(bias) = bias.filter(|bias| bias.value.shape() != [1, rows]) {
            return Err(error::shape(bias.name.clone(), &[1, rows], &bias.value.shape()));
        }
        out += rows;
    }
    Ok(out)
}

impl Tape<'_> {
    /// `x W^T + b`: `[rows, sum of out]` in the operand format; with `residual` (f32, the result's shape)
    /// the sum of both, in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes do not fit, or when a weight before the last has an odd number of rows,
    /// [`Error::Value`] for no weights or a residual that is not f32, [`Error::OutOfMemory`].
    pub fn linear(
        &mut self,
        x: Var,
        spec: &LinearSpec,
        residual: Option<Var>,
    ) -> Result<Var, Error> {
        let [rows, width] = self.shape(x);
        let param = |id: &ParamId| self.params().get(*id);
        let weights: Vec<&Param> = spec.weights.iter().map(param).collect();
        let biases: Vec<Option<&Param>> =
            spec.biases.iter().map(|id| id.as_ref().map(param)).collect();
        let out = stacked_rows(&weights, &biases, width)?;
        // On the way back the weights are stacked along k, where two bf16 neighbours share a word.
        for weight in &weights[..weights.len() - 1] {
            let [rows, cols] = weight.value.shape();
            if !rows.is_multiple_of(2) {
                return Err(error::shape(weight.name.clone(), &[rows + 1, cols], &[rows, cols]));
            }
        }
        let mut inputs = vec![x];
        if let Some(other) = residual {
            if self.shape(other) != [rows, out] {
                return Err(error::shape("linear: residual", &[rows, out], &self.shape(other)));
            }
            if self.format(other) != Format::F32 {
                return Err(Error::Value {
                    what: "linear: residual".into(),
                    expected: Format::F32.name().into(),
                    got: self.format(other).name().into(),
                });
            }
            inputs.push(other);
        }
        let op = Linear {
            weights: spec.weights.clone(),
            biases: spec.biases.clone(),
            residual: residual.is_some(),
        };
        self.apply(Box::new(op), &inputs)
    }
}
