//! Values in a format: the bytes, and what is needed to read them.

use std::ops::Range;

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
        decode_chunk(&self.format, &self.layout, &self.header, self.bytes.as_ref(), dst);
        Ok(())
    }

    /// The bytes of a range of values that starts at a multiple of
    /// [`Layout::chunk_unit`] and ends at one or at the end of the tensor.
    pub fn chunk_bytes(&self, values: Range<usize>) -> Range<usize> {
        self.layout.prefix_bytes(values.start)..self.layout.prefix_bytes(values.end)
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
        encode_chunk(&self.format, layout, header, src, self.bytes.as_mut(), rounding);
        Ok(())
    }

    /// The blocks, to be written in place by [`encode_chunk`] or copied from a file.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut()
    }

    /// The values in place, where the format is plain `f32` and the storage is aligned for it.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        if !self.format.is_plain_f32() {
            return None;
        }
        bytemuck::try_cast_slice_mut(self.bytes.as_mut()).ok()
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

/// Codes a chunk of a tensor: values from a multiple of [`Layout::chunk_unit`] on, `dst` their
/// bytes ([`Packed::chunk_bytes`]), `rounding` advanced to the first of them.
pub fn encode_chunk(
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

/// Decodes a chunk of a tensor; the counterpart of [`encode_chunk`].
pub fn decode_chunk(format: &Format, layout: &Layout, header: &[u8], src: &[u8], dst: &mut [f32]) {
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
