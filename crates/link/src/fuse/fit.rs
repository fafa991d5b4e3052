//! The matrices of a [`linear`](super::linear) fuser, in closed form.
//!
//! For each layer and part, over calibration tokens: `[A | c] = (sum r [s; 1]^T) (sum [s; 1][s; 1]^T + a D)^-1`
//! with D the mean square of the inputs, and no penalty on c. Sums are products in f32 over a batch,
//! added in f64.

use nalgebra::DMatrix;
use smidgen_codec::Tag;
use smidgen_tensor::{Blend, Compute, Device, Format, Operand, Params, Tensor, product};

use super::rows::{Extent, LayerRows, check};
use super::{Arrival, At, Fuser, PREFIX, Part};
use crate::Error;
use crate::side::Prefill;

/// Sums over calibration tokens.
pub struct LinearFit {
    fuser: Fuser,
    device: Device,
    sums: Vec<Option<[Sums; 2]>>,
}

/// Those of one layer and part.
#[derive(Debug)]
struct Sums {
    /// `[I + 1, I + 1]`.
    squares: DMatrix<f64>,
    /// `[I + 1, O]`.
    cross: DMatrix<f64>,
    tokens: usize,
}

/// The maps that came out: `[I + 1, O]`, the constant last.
#[derive(Debug)]
pub struct LinearMaps(Vec<Option<[DMatrix<f64>; 2]>>);

impl LinearFit {
    /// No tokens so far.
    ///
    /// # Errors
    /// [`Error::Value`] for a fuser that is not linear.
    pub fn new(fuser: &Fuser, device: &Device) -> Result<LinearFit, Error> {
        if fuser.config().variant != "linear" {
            return Err(Error::value("variant", "linear", &fuser.config().variant));
        }
        let sums = |part: Part| {
            let (i, o) = (part.width(&fuser.pair().sharer), part.width(&fuser.pair().receiver));
            let (squares, cross) = (DMatrix::zeros(i + 1, i + 1), DMatrix::zeros(i + 1, o));
            Sums { squares, cross, tokens: 0 }
        };
        let sums = fuser.sources().iter().map(|source| source.map(|_| Part::BOTH.map(sums)));
        Ok(LinearFit { sums: sums.collect(), fuser: fuser.clone(), device: device.clone() })
    }

    /// Takes in a batch that both models have read.
    ///
    /// # Errors
    /// As for [`Fuser::fuse`].
    pub fn add(&mut self, base: &Prefill, arrivals: &[Arrival<'_>]) -> Result<(), Error> {
        let extent = Extent::of(base);
        check(self.fuser.pair(), extent, arrivals)?;
        for (layer, sums) in self.sums.iter_mut().enumerate() {
            let (Some(source), Some(sums)) = (self.fuser.sources()[layer], sums) else { continue };
            let rows = LayerRows::find(extent, arrivals, source);
            if rows.is_empty() {
                continue;
            }
            for part in Part::BOTH {
                let space = self.fuser.config().k_space;
                let own = &base.layers()[layer];
                let [input, own] = rows.gather(&self.device, own, arrivals, source, part, space)?;
                sums[part as usize].add(&self.device, &input, &own)?;
            }
        }
        Ok(())
    }

    /// The maps, with a penalty of `ridge` times the mean square of the inputs.
    ///
    /// # Errors
    /// [`Error::Value`] where there were no tokens, or the penalty is too small for so few of them.
    pub fn solve(&self, ridge: f64) -> Result<LinearMaps, Error> {
        let of = |sums: &Option<[Sums; 2]>| match sums {
            Some([keys, values]) => Ok(Some([keys.solve(ridge)?, values.solve(ridge)?])),
            None => Ok(None),
        };
        Ok(LinearMaps(self.sums.iter().map(of).collect::<Result<_, Error>>()?))
    }
}

impl Sums {
    fn add(&mut self, device: &Device, input: &Tensor, own: &Tensor) -> Result<(), Error> {
        let (rows, width) = (input.rows(), own.cols());
        let given = input.cols() - width;
        let make = |shape| Tensor::zeros(device.pool(), Tag::Workspace, shape, Format::F32);
        let mut x = make([rows, given + 1])?;
        for (row, to) in x.slice_mut::<f32>().chunks_exact_mut(given + 1).enumerate() {
            input.read_f32(row * input.cols(), &mut to[..given]);
            to[given] = 1.0;
        }
        let (mut squares, mut cross) = (make([given + 1, given + 1])?, make([given + 1, width])?);
        let left = Operand::of(&x).transposed();
        let times = |right, out: &mut Tensor| {
            product(device, Compute::F32, left, Operand::of(right), Blend::SET, out)
        };
        times(&x, &mut squares)?;
        times(own, &mut cross)?;
        for (sum, part) in [(&mut self.squares, &squares), (&mut self.cross, &cross)] {
            let part = part.slice::<f32>().iter().map(|x| f64::from(*x));
            *sum += DMatrix::from_row_iterator(sum.nrows(), sum.ncols(), part);
        }
        self.tokens += rows;
        Ok(())
    }

    fn solve(&self, ridge: f64) -> Result<DMatrix<f64>, Error> {
        let given = self.squares.nrows() - 1;
        let mean = self.squares.diagonal().rows(0, given).sum() / given as f64;
        let mut squares = self.squares.clone();
        (0..given).for_each(|i| squares[(i, i)] += ridge * mean);
        let solved = squares.cholesky().map(|of| of.solve(&self.cross));
        solved.filter(|map| map.iter().all(|x| x.is_finite())).ok_or_else(|| {
            let got = format!("{ridge} over {} tokens", self.tokens);
            Error::value("ridge", "a penalty that makes the sums regular", got)
        })
    }
}

impl LinearMaps {
    /// Puts the maps into a fuser's parameters, with the share `g` for all of them; 0 closes them.
    ///
    /// # Errors
    /// Those of the engine.
    ///
    /// # Panics
    /// When the parameters are not those of the fuser that was fitted.
    pub fn put(&self, params: &mut Params, g: f64) -> Result<(), Error> {
        for (layer, maps) in self.0.iter().enumerate() {
            for (part, map) in Part::BOTH.into_iter().zip(maps.iter().flatten()) {
                let at = At { layer, part };
                let (given, width) = (map.nrows() - 1, map.ncols());
                let row = |o: usize| {
                    let identity = move |i: usize| if i == o { 1.0 - g } else { 0.0 };
                    (0..given).map(move |i| g * map[(i, o)]).chain((0..width).map(identity))
                };
                let weight: Vec<f32> = (0..width).flat_map(row).map(|x| x as f32).collect();
                let bias: Vec<f32> = (0..width).map(|o| (g * map[(given, o)]) as f32).collect();
                for (name, values) in
                    [("map.weight", &weight), ("map.bias", &bias), ("gate", &vec![g as f32])]
                {
                    let name = format!("{PREFIX}{}.{}.{name}", at.layer, at.part.name());
                    let id = params.find(&name).expect("a linear fuser has these parameters");
                    params.load(id, values)?;
                }
            }
        }
        Ok(())
    }

    /// Puts the maps in with the share out of `shares` whose loss is the smallest, of equal ones the
    /// first; gives that share and its loss.
    ///
    /// # Errors
    /// [`Error::Value`] for no shares or none with a finite loss, and those of `loss`.
    pub fn search(
        &self,
        params: &mut Params,
        shares: &[f64],
        mut loss: impl FnMut(&Params) -> Result<f64, Error>,
    ) -> Result<(f64, f64), Error> {
        let mut best: Option<(f64, f64)> = None;
        for share in shares {
            self.put(params, *share)?;
            let loss = loss(params)?;
            if loss.is_finite() && best.is_none_or(|(_, least)| loss < least) {
                best = Some((*share, loss));
            }
        }
        let (share, loss) =
            best.ok_or_else(|| Error::value("shares", "one with a finite loss", "none"))?;
        self.put(params, share)?;
        Ok((share, loss))
    }
}
