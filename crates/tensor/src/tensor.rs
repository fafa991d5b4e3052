//! Dense tensors: two dimensions, row-major, f32 or bf16, in pooled memory.

#![allow(unsafe_code)]

use std::sync::Arc;

use half::bf16;
use smidgen_codec::Tag;
use smidgen_codec::element::bf16::{expand, from_f32_slice, round, to_f32_slice};

use crate::error::shape;
use crate::{Buffer, Error, Pool};

/// The number format of a dense tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// bfloat16, 2 bytes: the upper half of an f32.
    Bf16,
    /// IEEE single precision, 4 bytes.
    F32,
}

impl Format {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 => 2,
        }
    }

    /// The name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
        }
    }
}

/// A number a dense tensor can hold.
pub trait Element: Copy + Send + Sync + bytemuck::Pod {
    /// Its format.
    const FORMAT: Format;
    /// Widens to f32, exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const FORMAT: Format = Format::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> f32 {
        value
    }
}

impl Element for bf16 {
    const FORMAT: Format = Format::Bf16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        expand(self.to_bits())
    }
    #[inline(always)]
    fn from_f32(value: f32) -> bf16 {
        bf16::from_bits(round(value))
    }
}

/// Bytes of all values; more than there can be where the product leaves the range.
fn bytes_of(shape: [usize; 2], format: Format) -> usize {
    shape[0].saturating_mul(shape[1]).saturating_mul(format.bytes())
}

/// A dense array `[rows, cols]`. Cloning shares the bytes; writing needs sole ownership.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: [usize; 2],
    format: Format,
    data: Arc<Buffer>,
}

impl Tensor {
    /// A tensor that holds whatever was in its memory before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn uninit(
        pool: &Pool,
        tag: Tag,
        shape: [usize; 2],
        format: Format,
    ) -> Result<Tensor, Error> {
        let data = pool.bytes(tag, bytes_of(shape, format))?;
        Ok(Tensor { shape, format, data: Arc::new(data) })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros(
        pool: &Pool,
        tag: Tag,
        shape: [usize; 2],
        format: Format,
    ) -> Result<Tensor, Error> {
        let data = pool.zeroed(tag, bytes_of(shape, format))?;
        Ok(Tensor { shape, format, data: Arc::new(data) })
    }

    /// An f32 tensor with the given values, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] when the count differs, [`Error::OutOfMemory`].
    pub fn from_f32(
        pool: &Pool,
        tag: Tag,
        shape: [usize; 2],
        values: &[f32],
    ) -> Result<Tensor, Error> {
        if shape[0].checked_mul(shape[1]) != Some(values.len()) {
            return Err(self::shape("values", &shape, &[values.len()]));
        }
        let mut tensor = Tensor::uninit(pool, tag, shape, Format::F32)?;
        tensor.slice_mut::<f32>().copy_from_slice(values);
        Ok(tensor)
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.shape[1]
    }

    /// Number format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of all values.
    pub fn byte_len(&self) -> usize {
        self.shape[0] * self.shape[1] * self.format.bytes()
    }

    /// The values in host memory.
    ///
    /// # Panics
    /// When `T` is not the tensor's format.
    pub fn slice<T: Element>(&self) -> &[T] {
        assert!(T::FORMAT == self.format, "asked a tensor for another format than its own");
        bytemuck::cast_slice(self.data.as_ref().as_ref())
    }

    /// The values in host memory, for writing.
    ///
    /// # Panics
    /// When `T` is not the tensor's format or the bytes are shared.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert!(T::FORMAT == self.format, "asked a tensor for another format than its own");
        let data = Arc::get_mut(&mut self.data).expect("a tensor that is written has one owner");
        bytemuck::cast_slice_mut(data.as_mut())
    }

    /// All values as f32.
    pub fn to_vec(&self) -> Vec<f32> {
        match self.format {
            Format::F32 => self.slice::<f32>().to_vec(),
            Format::Bf16 => self.slice::<bf16>().iter().map(|v| v.to_f32()).collect(),
        }
    }

    /// Widens the values from `at` on into `to`.
    ///
    /// # Panics
    /// When there are fewer than that.
    pub fn read_f32(&self, at: usize, to: &mut [f32]) {
        let end = at + to.len();
        match self.format {
            Format::F32 => to.copy_from_slice(&self.slice()[at..end]),
            Format::Bf16 => to_f32_slice(&self.slice()[at..end], to),
        }
    }

    /// Puts `from` over the values from `at` on, rounded to nearest.
    ///
    /// # Panics
    /// When there are fewer than that, or the bytes are shared.
    pub fn write_f32(&mut self, at: usize, from: &[f32]) {
        let end = at + from.len();
        match self.format {
            Format::F32 => self.slice_mut()[at..end].copy_from_slice(from),
            Format::Bf16 => from_f32_slice(from, &mut self.slice_mut()[at..end]),
        }
    }

    /// Whether nobody else holds the bytes.
    pub fn is_sole_owner(&mut self) -> bool {
        Arc::get_mut(&mut self.data).is_some()
    }

    /// The same values under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the count differs.
    pub fn reshape(mut self, shape: [usize; 2]) -> Result<Tensor, Error> {
        if shape[0].checked_mul(shape[1]) != Some(self.shape[0] * self.shape[1]) {
            return Err(self::shape("reshape", &self.shape, &shape));
        }
        self.shape = shape;
        Ok(self)
    }

    /// Books the bytes under another tag, if nobody else holds them.
    pub fn retag(&mut self, tag: Tag) {
        if let Some(data) = Arc::get_mut(&mut self.data) {
            data.retag(tag);
        }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.data.as_ref().as_ref()
    }

    /// The raw bytes, for writing.
    ///
    /// # Panics
    /// When the bytes are shared.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        Arc::get_mut(&mut self.data).expect("a tensor that is written has one owner").as_mut()
    }

    /// The whole tensor as an operand of a product.
    pub(crate) fn view(&self) -> View<'_> {
        View {
            start: self.as_bytes().as_ptr(),
            format: self.format,
            rows: self.rows(),
            cols: self.cols(),
            stride: self.cols(),
            life: std::marker::PhantomData,
        }
    }
}

/// Rows of values in memory, `stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) start: *const u8,
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
    pub(crate) life: std::marker::PhantomData<&'a [u8]>,
}

// SAFETY: a view only reads, and its lifetime is that of a shared borrow.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// `rows` rows of `cols` values, `stride` apart.
    pub(crate) fn new<T: Element>(
        values: &'a [T],
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> View<'a> {
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * stride + cols <= values.len(),
            "a view lies inside its values"
        );
        View {
            start: values.as_ptr().cast(),
            format: T::FORMAT,
            rows,
            cols,
            stride,
            life: std::marker::PhantomData,
        }
    }

    /// A rectangle of this view.
    pub(crate) fn window(self, row: usize, rows: usize, col: usize, cols: usize) -> View<'a> {
        assert!(
            row + rows <= self.rows && col + cols <= self.cols,
            "a window lies inside its view"
        );
        View { start: self.at(row, col), rows, cols, ..self }
    }

    /// Address of a value; may be one row past the end.
    pub(crate) fn at(&self, row: usize, col: usize) -> *const u8 {
        self.start.wrapping_add((row * self.stride + col) * self.format.bytes())
    }

    /// One row of values.
    pub(crate) fn row<T: Element>(&self, row: usize) -> &'a [T] {
        assert!(T::FORMAT == self.format && row < self.rows, "a row of the view's own format");
        // SAFETY: construction checked that the row lies inside the borrowed values.
        unsafe { std::slice::from_raw_parts(self.at(row, 0).cast(), self.cols) }
    }
}

/// Memory that tasks write in places that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: whoever makes slices of it promises that they do not overlap.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(values: &mut [T]) -> Shared<T> {
        Shared { start: values.as_mut_ptr(), len: values.len() }
    }

    /// The address of a value.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len);
        self.start.wrapping_add(index)
    }

    /// Copies a value that nobody writes to a place that nobody else touches.
    ///
    /// # Safety
    /// Both are as it says.
    pub(crate) unsafe fn copy(&self, from: usize, to: usize)
    where
        T: Copy,
    {
        assert!(from < self.len && to < self.len, "places inside the memory");
        // SAFETY: inside the memory; the caller promises the rest.
        unsafe { *self.start.add(to) = *self.start.add(from) }
    }

    /// A part of the memory for one task.
    ///
    /// # Safety
    /// No other live slice may overlap it, and the memory must outlive it.
    pub(crate) unsafe fn slice<'a>(&self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from + len <= self.len, "a task's part lies inside the memory");
        // SAFETY: inside the memory; the caller promises that nothing overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}
