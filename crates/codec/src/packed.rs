//! Values in a format: the bytes, and what is needed to read them.

use std::iter;

use crate::{Error, Format, Layout, Rounding};

/// A tensor of shape `[rows, cols]` in a [`Format`], in any storage of bytes.
///
/// Lengths are checked once, when it is made; after that, coding cannot fail.
#[derive(Clone, Debug)]
pub struct Packed<S = Vec<u8>> {
    format: Format,
    layout: Layout,
    header: Vec<u8>,
    bytes: S,
}

impl Packed {
    /// Codes `src` into storage of its own.
    ///
    /// # Errors
    /// [`Error::Length`] unless `src` has `rows * cols` values.
    pub fn encode(
        format: Format,
        shape: [usize; 2],
        src: &[f32],
        rounding: Rounding,
    ) -> Result<Self, Error> {
        let layout = format.layout(shape);
        check("values", &format, &layout, layout.values(), src.len())?;
        let header = vec![0; layout.header_bytes];
        let bytes = vec![0; layout.code_bytes()];
        let mut packed = Self { format, layout, header, bytes };
        packed.encode_from(src, rounding)?;
        Ok(packed)
    }
}

impl<S: AsRef<[u8]>> Packed<S> {
    /// Takes bytes that are already in `format`, for example from a file.
    ///
    /// # Errors
    /// [`Error::Length`] unless header and bytes have the lengths of the layout.
    pub fn from_parts(
        format: Format,
        shape: [usize; 2],
        header: Vec<u8>,
        bytes: S,
    ) -> Result<Self, Error> {
        let layout = format.layout(shape);
        check("header bytes", &format, &layout, layout.header_bytes, header.len())?;
        check("bytes", &format, &layout, layout.code_bytes(), bytes.as_ref().len())?;
        Ok(Self { format, layout, header, bytes })
    }

    /// The format of the bytes.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.layout.shape
    }

    /// Where the values lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The per-tensor header; empty in most formats.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// What the blocks are stored in.
    pub fn storage(&self) -> &S {
        &self.bytes
    }

    /// The blocks, `layout().code_bytes()` long.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The values in place, where the format is plain `f32` and the storage is aligned for it.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if !self.format.is_plain_f32() {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes.as_ref()).ok()
    }

    /// Decodes all values into `dst`.
    ///
    /// # Errors
    /// [`Error::Length`] unless `dst` has `rows * cols` values.
    pub fn decode_into(&self, dst: &mut [f32]) -> Result<(), Error> {
        check("values", &self.format, &self.layout, self.layout.values(), dst.len())?;
        decode(&self.format, &self.layout, &self.header, self.bytes.as_ref(), dst);
        Ok(())
    }
}

impl<S: AsRef<[u8]>> Packed<S> {
    /// Decodes `dst.len()` values from `at` on; both ends must be multiples of
    /// [`Layout::chunk_unit`] or the end of the tensor.
    ///
    /// # Panics
    /// When the values lie outside the tensor.
    pub fn decode_at(&self, at: usize, dst: &mut [f32]) {
        let start = self.layout.prefix_bytes(at);
        let end = self.layout.prefix_bytes(at + dst.len());
        decode(&self.format, &self.layout, &self.header, &self.bytes.as_ref()[start..end], dst);
    }
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> Packed<S> {
    /// Codes `src` over the present values, header included.
    ///
    /// # Errors
    /// [`Error::Length`] unless `src` has `rows * cols` values.
    pub fn encode_from(&mut self, src: &[f32], rounding: Rounding) -> Result<(), Error> {
        check("values", &self.format, &self.layout, self.layout.values(), src.len())?;
        self.header = self.format.header(src);
        let (layout, header) = (&self.layout, &self.header);
        encode(&self.format, layout, header, src, self.bytes.as_mut(), rounding);
        Ok(())
    }

    /// Cuts the tensor into chunks of `values`, a multiple of [`Layout::chunk_unit`]; the last may
    /// be shorter. Chunks are apart, so several threads can update one tensor.
    ///
    /// # Panics
    /// If `values` is 0 or no multiple of the unit.
    pub fn chunks_mut(&mut self, values: usize) -> impl Iterator<Item = ChunkMut<'_>> {
        let layout = self.layout;
        let unit = layout.chunk_unit().max(1);
        assert!(values > 0 && values.is_multiple_of(unit), "a chunk ends where a block ends");
        let (format, header) = (&self.format, self.header.as_slice());
        let mut rest = self.bytes.as_mut();
        let mut first = 0;
        iter::from_fn(move || {
            let end = layout.values().min(first + values);
            let len = layout.prefix_bytes(end) - layout.prefix_bytes(first);
            let bytes = rest.split_off_mut(..len).expect("the layout has as many bytes");
            let chunk = ChunkMut { format, layout, header, first, values: end - first, bytes };
            first = end;
            (chunk.values > 0).then_some(chunk)
        })
    }

    /// The values in place, where the format is plain `f32` and the storage is aligned for it.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        if !self.format.is_plain_f32() {
            return None;
        }
        bytemuck::try_cast_slice_mut(self.bytes.as_mut()).ok()
    }

    /// The blocks, for writing codes of the format.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut()
    }

    /// Replaces header and bytes, for example with those of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Length`] unless both have the lengths of the layout; nothing is changed then.
    pub fn copy_from_parts(&mut self, header: &[u8], bytes: &[u8]) -> Result<(), Error> {
        let (format, layout) = (&self.format, &self.layout);
        check("header bytes", format, layout, layout.header_bytes, header.len())?;
        check("bytes", format, layout, layout.code_bytes(), bytes.len())?;
        self.header.copy_from_slice(header);
        self.bytes.as_mut().copy_from_slice(bytes);
        Ok(())
    }
}

/// A part of a [`Packed`] tensor that starts and ends where a block does.
#[derive(Debug)]
pub struct ChunkMut<'a> {
    format: &'a Format,
    layout: Layout,
    header: &'a [u8],
    first: usize,
    values: usize,
    bytes: &'a mut [u8],
}

impl ChunkMut<'_> {
    /// The index in the tensor of the first value.
    pub fn first(&self) -> usize {
        self.first
    }

    /// How many values are in the chunk.
    pub fn values(&self) -> usize {
        self.values
    }

    /// The values in place, where the format is plain `f32` and the storage is aligned for it.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        if !self.format.is_plain_f32() {
            return None;
        }
        bytemuck::try_cast_slice_mut(self.bytes).ok()
    }

    /// Decodes `dst.len()` values from `at` on, counted from the start of the chunk; both ends must
    /// be multiples of the chunk unit or the end of the chunk.
    pub fn decode(&self, at: usize, dst: &mut [f32]) {
        let start = self.layout.prefix_bytes(at);
        let end = self.layout.prefix_bytes(at + dst.len());
        decode(self.format, &self.layout, self.header, &self.bytes[start..end], dst);
    }

    /// Codes `src` over the values from `at` on, under the same condition. `rounding` is that of
    /// the whole tensor: the index of the chunk is added here.
    pub fn encode(&mut self, at: usize, src: &[f32], rounding: Rounding) {
        let start = self.layout.prefix_bytes(at);
        let end = self.layout.prefix_bytes(at + src.len());
        let rounding = rounding.advance(self.first + at);
        let dst = &mut self.bytes[start..end];
        encode(self.format, &self.layout, self.header, src, dst, rounding);
    }
}

/// Codes run after run; `rounding` is that of the first value.
fn encode(
    format: &Format,
    layout: &Layout,
    header: &[u8],
    src: &[f32],
    dst: &mut [u8],
    rounding: Rounding,
) {
    let (run, run_bytes) = run_of(layout);
    for (i, (src, dst)) in src.chunks(run).zip(dst.chunks_mut(run_bytes)).enumerate() {
        format.encode(src, header, dst, rounding.advance(i * run));
    }
}

/// Decodes run after run.
fn decode(format: &Format, layout: &Layout, header: &[u8], src: &[u8], dst: &mut [f32]) {
    let (run, run_bytes) = run_of(layout);
    for (src, dst) in src.chunks(run_bytes).zip(dst.chunks_mut(run)) {
        format.decode(src, header, dst);
    }
}

/// Values and bytes of the longest run, at least 1 each so that slices can be cut by them.
fn run_of(layout: &Layout) -> (usize, usize) {
    let run = layout.run_values().max(1);
    (run, layout.run_bytes(run).max(1))
}

fn check(
    what: &'static str,
    format: &Format,
    layout: &Layout,
    expected: usize,
    got: usize,
) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Length { what, format: format.full_name(), shape: layout.shape, expected, got })
}
