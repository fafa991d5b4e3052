//! Rows of one value over rows of another.

use std::sync::Arc;

use smidgen_codec::Tag;

use crate::kernels::elementwise::copy_as;
use crate::kernels::embed::gather;
use crate::tape::{Backward, Forward, Op};
use crate::{Error, Format, Tape, Tensor, Var, error};

struct PutRows {
    places: Arc<[u32]>,
}

impl Op for PutRows {
    fn name(&self) -> &'static str {
        "put_rows"
    }

    fn forward(&mut self, cx: &Forward<'_>, inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        let mut out = copy_as(cx.device, &inputs[0], Format::F32)?;
        let (cols, to) = (out.cols(), out.slice_mut::<f32>());
        for (i, place) in self.places.iter().enumerate() {
            inputs[1].read_f32(i * cols, &mut to[*place as usize * cols..][..cols]);
        }
        Ok(out)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let dx = gather(cx.device(), &grad, &self.places)?;
        cx.add_grad(1, dx)?;
        if !cx.wants(0) {
            return Ok(());
        }
        let mut rest =
            Tensor::uninit(cx.device().pool(), Tag::Activations, grad.shape(), Format::F32)?;
        grad.read_f32(0, rest.slice_mut());
        let cols = grad.cols();
        for place in self.places.iter() {
            rest.slice_mut::<f32>()[*place as usize * cols..][..cols].fill(0.0);
        }
        cx.add_grad(0, rest)
    }
}

impl Tape<'_> {
    /// `base` with row i of `x` in the place of its row `places[i]`, in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when the widths differ or a row has no place, [`Error::Value`] for places that are
    /// not ascending rows of `base`, [`Error::OutOfMemory`].
    pub fn put_rows(&mut self, base: Var, x: Var, places: &Arc<[u32]>) -> Result<Var, Error> {
        let ([rows, cols], got) = (self.shape(base), self.shape(x));
        if got != [places.len(), cols] {
            return Err(error::shape("put rows", &[places.len(), cols], &got));
        }
        let ascends = places.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascends || places.last().is_some_and(|last| *last as usize >= rows) {
            return Err(Error::Value {
                what: "put rows: places".into(),
                expected: format!("ascending, below {rows}"),
                got: format!("{:?}", &places[..places.len().min(8)]),
            });
        }
        self.apply(Box::new(PutRows { places: places.clone() }), &[base, x])
    }
}
