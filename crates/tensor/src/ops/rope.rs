//! Rotary positions for the query and key columns, in place.

use std::ops::Range;
use std::sync::Arc;

use smidgen_codec::Tag;

use crate::kernels::rope::{RopeTable, rotate};
use crate::tape::{Backward, Forward, Op};
use crate::{Device, Error, Tape, Tensor, Var, error};

struct Rope {
    table: Arc<RopeTable>,
    positions: Arc<[u32]>,
    range: Range<usize>,
}

impl Rope {
    fn turn(&self, device: &Device, mut x: Tensor, sign: f32) -> Result<Tensor, Error> {
        if !x.is_sole_owner() {
            let mut copy = Tensor::uninit(device.pool(), Tag::Activations, x.shape(), x.format())?;
            copy.as_bytes_mut().copy_from_slice(x.as_bytes());
            x = copy;
        }
        rotate(device, &mut x, self.range.clone(), &self.table, &self.positions, sign);
        Ok(x)
    }
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn forward(&mut self, cx: &Forward<'_>, mut inputs: Vec<Tensor>) -> Result<Tensor, Error> {
        self.turn(cx.device, inputs.remove(0), 1.0)
    }

    fn backward(&mut self, cx: &mut Backward<'_, '_>, grad: Tensor) -> Result<(), Error> {
        let grad = self.turn(cx.device(), grad, -1.0)?;
        cx.add_grad(0, grad)
    }
}

impl Tape<'_> {
    /// Turns the heads in columns `range` by each row's position. Works in the memory of `x` unless it was
    /// read before; either way nothing may read `x` afterwards.
    ///
    /// # Errors
    /// [`Error::Value`] for a position past the table or columns that are not whole heads inside `x`,
    /// [`Error::Shape`] for rows without a position.
    pub fn rope(
        &mut self,
        x: Var,
        table: &Arc<RopeTable>,
        positions: &Arc<[u32]>,
        range: Range<usize>,
    ) -> Result<Var, Error> {
        let [rows, cols] = self.shape(x);
        if positions.len() != rows {
            return Err(error::shape("rope: positions", &[rows], &[positions.len()]));
        }
        let e = table.head_dim();
        if range.start > range.end || range.end > cols || !range.len().is_multiple_of(e) {
            return Err(Error::Value {
                what: "rope: columns".into(),
                expected: format!("whole heads of {e} below {cols}"),
                got: format!("{range:?}"),
            });
        }
        if let Some(bad) = positions.iter().find(|p| **p as usize >= table.len()) {
            return Err(Error::Value {
                what: "rope: position".into(),
                expected: format!("below {}", table.len()),
                got: bad.to_string(),
            });
        }
        self.apply(
            Box::new(Rope { table: table.clone(), positions: positions.clone(), range }),
            &[x],
        )
    }
}
