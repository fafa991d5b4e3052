//! How the values of one tensor become blocks of bytes.

/// Where the values of a tensor of shape `[rows, cols]` lie in its bytes.
///
/// Values are cut into blocks in row-major order, and each block is coded alone. A *run* is a
/// stretch of values that starts at a block and ends at a block or at the end of the tensor (of the
/// row, for row-aligned formats); codecs see runs only, so that a tensor can be coded in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows and columns of the tensor.
    pub shape: [usize; 2],
    /// Values per block, at least 1.
    pub block_values: usize,
    /// Bytes per whole block.
    pub block_bytes: usize,
    /// Bytes of a last block that is not full; `block_bytes` where short blocks are padded.
    pub tail_bytes: usize,
    /// Whether every row starts a new block, as matrix kernels and GGUF want it.
    pub row_aligned: bool,
    /// Bytes of the per-tensor header, kept apart from the blocks.
    pub header_bytes: usize,
}

impl Layout {
    /// Blocks that run over row ends; the last one is padded; no header.
    pub fn blocks(shape: [usize; 2], block_values: usize, block_bytes: usize) -> Self {
        let tail_bytes = block_bytes;
        assert!(block_values > 0, "a block holds at least one value");
        Self { shape, block_values, block_bytes, tail_bytes, row_aligned: false, header_bytes: 0 }
    }

    /// The same layout with a new block at each row.
    pub fn row_aligned(self) -> Self {
        Self { row_aligned: true, ..self }
    }

    /// The same layout with a header of `bytes`.
    pub fn with_header(self, bytes: usize) -> Self {
        Self { header_bytes: bytes, ..self }
    }

    /// The same layout where a short last block of n values takes `bytes(n)`.
    pub fn with_tail(self, bytes: impl Fn(usize) -> usize) -> Self {
        match self.run_values() % self.block_values {
            0 => self,
            values => Self { tail_bytes: bytes(values), ..self },
        }
    }

    /// Values in the tensor. Saturates, as all sums here: no real buffer has `usize::MAX` bytes,
    /// so a shape from a broken file fails the length check instead of wrapping.
    pub fn values(&self) -> usize {
        self.shape[0].saturating_mul(self.shape[1])
    }

    /// Values in the longest run: the tensor, or a row where blocks are cut short at row ends.
    pub fn run_values(&self) -> usize {
        if self.row_aligned && !self.shape[1].is_multiple_of(self.block_values) {
            self.shape[1]
        } else {
            self.values()
        }
    }

    /// The number of values every multiple of which starts a block.
    ///
    /// Chunks of a tensor are multiples of it; the last one may be shorter.
    pub fn chunk_unit(&self) -> usize {
        match self.run_values() {
            run if run < self.values() => run,
            _ => self.block_values,
        }
    }

    /// Bytes of a run of `values`.
    pub fn run_bytes(&self, values: usize) -> usize {
        let whole = (values / self.block_values).saturating_mul(self.block_bytes);
        let tail = if values.is_multiple_of(self.block_values) { 0 } else { self.tail_bytes };
        whole.saturating_add(tail)
    }

    /// Bytes of the first `values` values, which must be whole runs or a multiple of the chunk unit.
    pub fn prefix_bytes(&self, values: usize) -> usize {
        match self.run_values() {
            0 => 0,
            run if run < self.values() => {
                let rows = (values / run).saturating_mul(self.run_bytes(run));
                rows.saturating_add(self.run_bytes(values % run))
            }
            _ => self.run_bytes(values),
        }
    }

    /// Bytes of all blocks, without the header.
    pub fn code_bytes(&self) -> usize {
        self.prefix_bytes(self.values())
    }

    /// Bytes of the tensor: header and blocks.
    pub fn bytes(&self) -> usize {
        self.code_bytes().saturating_add(self.header_bytes)
    }

    /// Bits per value, header and padding included; 0 for an empty tensor.
    pub fn bits_per_value(&self) -> f64 {
        match self.values() {
            0 => 0.0,
            values => 8.0 * self.bytes() as f64 / values as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_run_over_rows_unless_aligned() {
        let flat = Layout::blocks([3, 10], 8, 12);
        assert_eq!((flat.values(), flat.code_bytes(), flat.chunk_unit()), (30, 4 * 12, 8));
        let rows = flat.row_aligned();
        assert_eq!((rows.code_bytes(), rows.chunk_unit()), (3 * 2 * 12, 10));
        assert_eq!(rows.prefix_bytes(20), 4 * 12);
        let even = Layout::blocks([3, 16], 8, 12).row_aligned();
        assert_eq!((even.code_bytes(), even.chunk_unit()), (3 * 2 * 12, 8));
    }

    #[test]
    fn short_tails_and_headers_are_counted() {
        let flat = Layout::blocks([1, 20], 16, 18).with_tail(|v| 2 + v).with_header(4);
        assert_eq!((flat.code_bytes(), flat.bytes()), (18 + 6, 28));
        assert_eq!(flat.bits_per_value(), 8.0 * 28.0 / 20.0);
        let rows = Layout::blocks([2, 20], 16, 18).row_aligned().with_tail(|v| 2 + v);
        assert_eq!(rows.code_bytes(), 2 * (18 + 6));
    }

    #[test]
    fn empty_and_huge_shapes_do_not_panic() {
        for shape in [[0, 0], [0, 7], [7, 0]] {
            let layout = Layout::blocks(shape, 8, 12).row_aligned().with_tail(|v| v);
            assert_eq!((layout.bytes(), layout.bits_per_value()), (0, 0.0));
        }
        assert_eq!(Layout::blocks([usize::MAX, 2], 1, 4).bytes(), usize::MAX);
        assert_eq!(Layout::blocks([usize::MAX, 9], 8, 12).row_aligned().bytes(), usize::MAX);
    }
}
