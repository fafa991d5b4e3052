//! Products for everybody: operands by view, results blended into a tensor.
//!
//! The right operand is packed in strips of columns, so that its panels take a few megabytes however large
//! it is. A product with its own transpose is symmetric: only the tiles on and below the diagonal are
//! computed, and the rest is mirrored, which is half the work.

#![allow(unsafe_code)]

use smidgen_codec::{Packed, Tag};

use super::coded::{self, Coded};
use super::fallback::put_row;
use super::product::{Mix, Ready, Region, product_of};
use super::{Engine, Left, Out, Panels, Right, Store, pack, panel_bytes};
use crate::error::shape;
use crate::kernels::with_format;
use crate::tensor::{Element, Shared, View};
use crate::{Compute, Device, Error, Format, Tensor};

/// Bytes of panels alive at once, at most (but always one panel).
const STRIP_BYTES: usize = 8 << 20;
/// Side of the squares in which a result is mirrored.
const SQUARE: usize = 64;

/// An operand of a product: `[rows, cols]` values, read as they lie or transposed.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    values: Values<'a>,
    is_transposed: bool,
}

/// Numbers as they are stored.
#[derive(Clone, Copy)]
enum Values<'a> {
    Dense(View<'a>),
    Coded(&'a dyn Coded),
}

impl<'a> Operand<'a> {
    /// A tensor.
    pub fn of(tensor: &'a Tensor) -> Operand<'a> {
        Operand { values: Values::Dense(tensor.view()), is_transposed: false }
    }

    /// Values row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] when the count differs.
    pub fn slice<T: Element>(values: &'a [T], shape: [usize; 2]) -> Result<Operand<'a>, Error> {
        if shape[0].checked_mul(shape[1]) != Some(values.len()) {
            return Err(self::shape("operand", &shape, &[values.len()]));
        }
        let view = View::new(values, shape[0], shape[1], shape[1]);
        Ok(Operand { values: Values::Dense(view), is_transposed: false })
    }

    /// Values in a number format: a right operand that is decoded where it is used, a strip at a time.
    pub fn packed<S: AsRef<[u8]> + Sync>(packed: &'a Packed<S>) -> Operand<'a> {
        Operand { values: Values::Coded(packed), is_transposed: false }
    }

    /// The transpose; nothing is copied.
    pub fn transposed(self) -> Operand<'a> {
        Operand { is_transposed: !self.is_transposed, ..self }
    }

    /// `[rows, cols]`, as the product sees it.
    pub fn shape(&self) -> [usize; 2] {
        let [rows, cols] = match self.values {
            Values::Dense(view) => [view.rows, view.cols],
            Values::Coded(matrix) => matrix.shape(),
        };
        if self.is_transposed { [cols, rows] } else { [rows, cols] }
    }

    fn left(self) -> Result<Left<'a>, Error> {
        match (self.values, self.is_transposed) {
            (Values::Dense(view), false) => Ok(Left::Rows(view)),
            (Values::Dense(view), true) => Ok(Left::Columns(view)),
            (Values::Coded(_), _) => Err(Error::Value {
                what: "product: left operand".into(),
                expected: "values in f32 or bf16".into(),
                got: "packed ones".into(),
            }),
        }
    }

    /// Packs columns `col..col + cols` of the operand.
    fn pack(
        &self,
        engine: &Engine<'_>,
        col: usize,
        cols: usize,
    ) -> Result<Panels<crate::Buffer>, Error> {
        let decoded;
        let strip = match (self.values, self.is_transposed) {
            (Values::Dense(view), false) => view.window(0, view.rows, col, cols),
            (Values::Dense(view), true) => view.window(col, cols, 0, view.cols),
            (Values::Coded(matrix), false) => {
                decoded = coded::columns(engine, matrix, col, cols)?;
                decoded.view()
            }
            (Values::Coded(matrix), true) => {
                decoded = coded::rows(engine, matrix, col, cols)?;
                decoded.view()
            }
        };
        let right = match self.is_transposed {
            false => Right::Stacked(&[strip]),
            true => Right::Transposed(&[strip]),
        };
        pack(engine, right, Tag::Workspace)
    }
}

/// What becomes of a product: `out = by * product + times * other`.
#[derive(Clone, Copy, Debug)]
pub struct Blend<'a> {
    by: f32,
    with: With<'a>,
}

#[derive(Clone, Copy, Debug)]
enum With<'a> {
    Nothing,
    Out(f32),
    Other(f32, &'a Tensor),
}

impl<'a> Blend<'a> {
    /// The product alone.
    pub const SET: Blend<'static> = Blend { by: 1.0, with: With::Nothing };

    /// The product times a number.
    pub fn scaled(by: f32) -> Blend<'static> {
        Blend { by, with: With::Nothing }
    }

    /// Adds `times` another tensor of the result's shape, f32 or bf16.
    pub fn plus(self, times: f32, other: &'a Tensor) -> Blend<'a> {
        Blend { with: With::Other(times, other), ..self }
    }

    /// Adds `times` what the result held before.
    pub fn onto(self, times: f32) -> Blend<'a> {
        Blend { with: With::Out(times), ..self }
    }

    /// The form that tiles know, for a result that begins where `out` does.
    fn mix(&self, out: &mut Tensor) -> Result<Mix, Error> {
        let (times, other, format, stride) = match self.with {
            With::Nothing => (0.0, std::ptr::null(), Format::F32, 0),
            With::Out(times) => {
                let start = out.as_bytes_mut().as_mut_ptr().cast_const();
                (times, start, out.format(), out.cols())
            }
            With::Other(_, other) if other.shape() != out.shape() => {
                return Err(shape("product: other", &out.shape(), &other.shape()));
            }
            With::Other(times, other) => {
                (times, other.as_bytes().as_ptr(), other.format(), other.cols())
            }
        };
        Ok(Mix { by: self.by, times, other, format, stride, out: out.format() })
    }
}

/// `out = a b`, blended as `blend` says. `out` is f32 or bf16, `[rows of a, cols of b]`; sums are f32
/// and rounded once. The same bits for any number of threads.
///
/// # Errors
/// [`Error::Shape`] when operands, result or the other tensor do not fit; [`Error::OutOfMemory`].
///
/// # Panics
/// When somebody else holds the bytes of `out`.
pub fn product(
    device: &Device,
    compute: Compute,
    a: Operand<'_>,
    b: Operand<'_>,
    blend: Blend<'_>,
    out: &mut Tensor,
) -> Result<(), Error> {
    let ([m, k], [rows, n]) = (a.shape(), b.shape());
    if rows != k {
        return Err(shape("product: right operand", &[k, n], &[rows, n]));
    }
    if out.shape() != [m, n] {
        return Err(shape("product: result", &[m, n], &out.shape()));
    }
    multiply(&device.engine(compute), a, b, blend, out, false)
}

/// `out = x x^T`, blended as `blend` says, in half the work of [`product`]: tiles on and below the diagonal
/// are computed, the rest is mirrored. What is blended in must be symmetric too. For a symmetric matrix
/// this is its square.
///
/// # Errors
/// As for [`product`].
///
/// # Panics
/// When somebody else holds the bytes of `out`.
pub fn gram(
    device: &Device,
    compute: Compute,
    x: Operand<'_>,
    blend: Blend<'_>,
    out: &mut Tensor,
) -> Result<(), Error> {
    let m = x.shape()[0];
    if out.shape() != [m, m] {
        return Err(shape("gram: result", &[m, m], &out.shape()));
    }
    multiply(&device.engine(compute), x, x.transposed(), blend, out, true)?;
    mirror(device, out);
    Ok(())
}

/// The product in strips of columns; `lower` leaves out what lies above the diagonal.
fn multiply(
    engine: &Engine<'_>,
    a: Operand<'_>,
    b: Operand<'_>,
    blend: Blend<'_>,
    out: &mut Tensor,
    lower: bool,
) -> Result<(), Error> {
    let [k, n] = b.shape();
    let (mix, bytes) = (blend.mix(out)?, out.format().bytes());
    if let (Left::Rows(x), Values::Coded(matrix), true) = (a.left()?, b.values, b.is_transposed)
        && x.rows == 1
    {
        let mut sums = Tensor::uninit(engine.pool, Tag::Workspace, [1, n], Format::F32)?;
        coded::one_row(engine, x, matrix, sums.slice_mut());
        put_row(Out::tensor(out), Store::Mix(mix), 0, sums.slice());
        return Ok(());
    }
    let ready = Ready::new(engine, a.left()?)?;
    let to = Out::tensor(out);
    let cols = strip_cols(engine, k, n);
    for col in (0..n).step_by(cols) {
        let panels = b.pack(engine, col, cols.min(n - col))?;
        let region = if lower { Region::Lower { first_col: col } } else { Region::Full };
        let store = Store::Mix(mix.at_col(col));
        product_of(engine, &ready, &panels, to.window(0, col, bytes), store, region)?;
    }
    Ok(())
}

/// Columns packed at once: whole panels.
fn strip_cols(engine: &Engine<'_>, k: usize, n: usize) -> usize {
    let panel = panel_bytes(engine, k, 32).max(1);
    (STRIP_BYTES / panel).max(1).saturating_mul(32).min(n.max(1))
}

/// Copies what lies below the diagonal of a square above it.
fn mirror(device: &Device, out: &mut Tensor) {
    let n = out.cols();
    with_format!(out.format(), T => {
        let values = Shared::new(out.slice_mut::<T>());
        device.team().run(n.div_ceil(SQUARE), |task| {
            let rows = task * SQUARE..(task * SQUARE + SQUARE).min(n);
            for first in (rows.start..n).step_by(SQUARE) {
                for row in rows.clone() {
                    for col in first.max(row + 1)..(first + SQUARE).min(n) {
                        // SAFETY: what is written lies above the diagonal, in rows of this task; what is
                        // read lies below it, where nobody writes.
                        unsafe { values.copy(col * n + row, row * n + col) };
                    }
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use smidgen_codec::{Ledger, Rounding};

    use super::*;
    use crate::Level;
    use crate::matmul::tiles_apply;

    fn numbers(shape: [usize; 2], seed: usize) -> Vec<f32> {
        let one = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
        // Exact in bf16, so that every operand format multiplies the same numbers.
        (0..shape[0] * shape[1]).map(|i| bf16::from_f32(one(i)).to_f32()).collect()
    }

    fn tensor(device: &Device, format: Format, shape: [usize; 2], values: &[f32]) -> Tensor {
        let wide = Tensor::from_f32(device.pool(), Tag::Workspace, shape, values).unwrap();
        if format == Format::F32 {
            return wide;
        }
        let mut narrow = Tensor::uninit(device.pool(), Tag::Workspace, shape, format).unwrap();
        for (to, from) in narrow.slice_mut::<bf16>().iter_mut().zip(values) {
            *to = bf16::from_f32(*from);
        }
        narrow
    }

    fn transpose([rows, cols]: [usize; 2], x: &[f32]) -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    }

    fn sums([m, k, n]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<f64> {
        let one = |i: usize, j: usize| {
            (0..k).map(|t| f64::from(a[i * k + t]) * f64::from(b[t * n + j])).sum()
        };
        (0..m * n).map(|at| one(at / n, at % n)).collect()
    }

    fn devices() -> impl Iterator<Item = (Device, Compute)> {
        let at = |level| Device::cpu_at(Ledger::new(), 2, level);
        let both = [Compute::F32, Compute::Bf16];
        Level::available().flat_map(move |l| both.map(|compute| (at(l), compute)))
    }

    /// Rounding of the sums, and of the result where that is bf16.
    fn close(got: &Tensor, exact: &[f64], k: usize) {
        let largest = exact.iter().fold(1.0, |most, x| f64::max(most, x.abs()));
        let rounding = if got.format() == Format::Bf16 { 1.0 / 250.0 } else { 0.0 };
        let tolerance = largest * rounding + 4e-6 * (k as f64).sqrt() + 2e-7 * k as f64;
        for (got, exact) in got.to_vec().iter().zip(exact) {
            assert!((f64::from(*got) - exact).abs() <= tolerance, "{got} is not {exact}");
        }
    }

    /// Every order, format and blend against sums in f64.
    #[test]
    fn products_match_the_plain_sum() {
        for (device, compute) in devices() {
            for [m, k, n] in [[1, 1, 1], [5, 33, 70], [40, 2050, 33], [97, 64, 130]] {
                let (a, b) = (numbers([m, k], 1), numbers([k, n], 2));
                let other = numbers([m, n], 3);
                let plain = sums([m, k, n], &a, &b);
                let mixed = |by: f64, times: f64| -> Vec<f64> {
                    plain.iter().zip(&other).map(|(x, o)| by * x + times * f64::from(*o)).collect()
                };
                for format in [Format::F32, Format::Bf16] {
                    let (at, bt) = (transpose([m, k], &a), transpose([k, n], &b));
                    let a = tensor(&device, format, [m, k], &a);
                    let at = tensor(&device, format, [k, m], &at);
                    let b = tensor(&device, format, [k, n], &b);
                    let bt = tensor(&device, format, [n, k], &bt);
                    let second = tensor(&device, format, [m, n], &other);
                    for a in [Operand::of(&a), Operand::of(&at).transposed()] {
                        for b in [Operand::of(&b), Operand::of(&bt).transposed()] {
                            for out in [Format::F32, Format::Bf16] {
                                let run = |blend: Blend<'_>, exact: Vec<f64>| {
                                    let mut c = tensor(&device, out, [m, n], &other);
                                    product(&device, compute, a, b, blend, &mut c).unwrap();
                                    close(&c, &exact, k);
                                };
                                run(Blend::SET, mixed(1.0, 0.0));
                                run(Blend::scaled(-0.5), mixed(-0.5, 0.0));
                                run(Blend::scaled(2.0).plus(3.0, &second), mixed(2.0, 3.0));
                                run(Blend::SET.onto(-1.0), mixed(1.0, -1.0));
                            }
                        }
                    }
                }
            }
        }
    }

    /// The symmetric product is that of the general one below the diagonal (to the bit where the tiles
    /// multiply; the `gemm` crate sums in an order that depends on the columns), and symmetric.
    #[test]
    fn a_symmetric_product_is_the_product() {
        for (device, compute) in devices() {
            for [m, k] in [[1, 3], [31, 64], [200, 96], [130, 2304]] {
                let x = tensor(&device, Format::Bf16, [m, k], &numbers([m, k], 1));
                for format in [Format::F32, Format::Bf16] {
                    let zeros = || tensor(&device, format, [m, m], &vec![0.0; m * m]);
                    let (mut full, mut half, mut square) = (zeros(), zeros(), zeros());
                    let x = Operand::of(&x);
                    product(&device, compute, x, x.transposed(), Blend::SET, &mut full).unwrap();
                    gram(&device, compute, x, Blend::SET, &mut half).unwrap();
                    let (full, got) = (full.to_vec(), half.to_vec());
                    for (i, j) in (0..m * m).map(|at| (at / m, at % m)) {
                        let (got, below) = (got[i * m + j], full[i.max(j) * m + i.min(j)]);
                        let far = (got - below).abs() > below.abs().max(1.0) * 1e-2;
                        let tiles = tiles_apply(device.level(), compute);
                        assert!(!far && (got == below || !tiles), "{i} {j}: {got} {below}");
                    }
                    let by = Blend::scaled(0.25).plus(2.0, &half);
                    gram(&device, compute, Operand::of(&half), by, &mut square).unwrap();
                    let got = half.to_vec();
                    let exact = sums([m, m, m], &got, &got);
                    let largest = exact.iter().fold(1.0, |most, x| f64::max(most, x.abs()));
                    for ((square, exact), half) in square.to_vec().iter().zip(&exact).zip(&got) {
                        let exact = 0.25 * exact + 2.0 * f64::from(*half);
                        assert!((f64::from(*square) - exact).abs() <= largest * 0.004);
                    }
                }
            }
        }
    }

    /// The same bits for every number of threads, also where the work is cut into strips.
    #[test]
    fn threads_do_not_change_a_bit() {
        for level in Level::available() {
            let of = |threads| {
                let device = Device::cpu_at(Ledger::new(), threads, level);
                let x = tensor(&device, Format::F32, [230, 310], &numbers([230, 310], 1));
                let mut out = tensor(&device, Format::F32, [230, 230], &[0.0; 230 * 230]);
                gram(&device, Compute::Bf16, Operand::of(&x), Blend::SET, &mut out).unwrap();
                let mut back = tensor(&device, Format::Bf16, [230, 310], &[0.0; 230 * 310]);
                let (a, b) = (Operand::of(&out), Operand::of(&x));
                product(&device, Compute::Bf16, a, b, Blend::SET, &mut back).unwrap();
                (out.to_vec(), back.to_vec())
            };
            assert!(of(1) == of(2) && of(1) == of(5));
        }
    }

    /// A matrix in a format is the matrix of its decoded values, for one row and for many, in blocks that
    /// lie across the ends of rows and columns.
    #[test]
    fn packed_operands_are_their_decoded_values() {
        for (device, compute) in devices() {
            for name in ["f32", "bf16", "int8/64", "int8/2048", "int4", "nf4", "q8_0"] {
                for [m, k, n] in [[1, 96, 70], [1, 2100, 33], [7, 96, 70], [40, 131, 64]] {
                    let (x, w) = (numbers([m, k], 1), numbers([n, k], 2));
                    let format = smidgen_codec::Format::by_name(name).unwrap();
                    let pack = |shape, values: &[f32]| {
                        Packed::encode(format.clone(), shape, values, Rounding::Nearest).unwrap()
                    };
                    let lies = pack([n, k], &w);
                    let stands = pack([k, n], &transpose([n, k], &w));
                    let x = tensor(&device, Format::F32, [m, k], &x);
                    for (packed, b) in [
                        (&lies, Operand::packed(&lies).transposed()),
                        (&stands, Operand::packed(&stands)),
                    ] {
                        let mut plain = vec![0.0; n * k];
                        packed.decode_into(&mut plain).unwrap();
                        let dense = Operand::slice(&plain, packed.shape()).unwrap();
                        let dense = if b.is_transposed { dense.transposed() } else { dense };
                        let result = |b: Operand<'_>| {
                            let mut out = tensor(&device, Format::F32, [m, n], &vec![1.0; m * n]);
                            let blend = Blend::scaled(2.0).onto(-1.0);
                            product(&device, compute, Operand::of(&x), b, blend, &mut out).unwrap();
                            out.to_vec()
                        };
                        let rounds = if compute == Compute::Bf16 { 2e-2 } else { 2e-5 };
                        let tolerance = rounds * (k as f32).sqrt();
                        for (got, expected) in result(b).iter().zip(result(dense)) {
                            assert!((got - expected).abs() < tolerance, "{name}: {got} {expected}");
                        }
                    }
                }
            }
        }
        let device = Device::cpu(Ledger::new(), 1);
        let format = smidgen_codec::Format::F32;
        let packed = Packed::encode(format, [1, 1], &[1.0], Rounding::Nearest).unwrap();
        let (left, one) = (Operand::packed(&packed), [1f32]);
        let right = Operand::slice(&one, [1, 1]).unwrap();
        let mut out = tensor(&device, Format::F32, [1, 1], &[0.0]);
        let error = product(&device, Compute::F32, left, right, Blend::SET, &mut out);
        assert!(error.unwrap_err().to_string().contains("packed"));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let device = Device::cpu(Ledger::new(), 1);
        let make = |shape: [usize; 2]| tensor(&device, Format::F32, shape, &numbers(shape, 1));
        let (a, b, mut c) = (make([3, 4]), make([4, 5]), make([3, 5]));
        let (a, b) = (Operand::of(&a), Operand::of(&b));
        let message = |result: Result<(), Error>| result.unwrap_err().to_string();
        let swapped = product(&device, Compute::F32, b, a, Blend::SET, &mut c);
        let expected = "`product: right operand`: expected shape [5, 4], got [3, 4]";
        assert_eq!(message(swapped), expected);
        let mut wrong = make([5, 3]);
        assert!(product(&device, Compute::F32, a, b, Blend::SET, &mut wrong).is_err());
        let other = Blend::SET.plus(1.0, &wrong);
        assert!(message(product(&device, Compute::F32, a, b, other, &mut c)).contains("other"));
        assert!(message(gram(&device, Compute::F32, a, Blend::SET, &mut c)).contains("gram"));
        assert!(Operand::slice(&[0f32; 5], [2, 3]).is_err());
        assert!(Operand::slice::<f32>(&[], [usize::MAX, 2]).is_err());
    }
}
