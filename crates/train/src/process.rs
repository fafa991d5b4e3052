//! Memory that no ledger counts: what the process needs besides tensors, and what data preparation
//! needs before there are any.
//!
//! The shares were measured as writable private bytes of real runs (`docs/results/memory.md`) and are
//! generous: a promise about memory is only as good as the part of it that nobody counts.

use smidgen_model::Spec;
use smidgen_tensor::{Compute, Level};

/// Code's own data, allocator, tables of the tokenizer's code, files being written.
pub(crate) const BASE_BYTES: u64 = 40 << 20;
/// A thread that computes: its stack, its share of the allocator, scratch of the kernels.
const THREAD_BYTES: u64 = 6 << 20;
/// A token of the vocabulary, in every table of the tokenizer.
const VOCAB_ENTRY_BYTES: u64 = 700;
/// A token of a batch: ids, targets, weights, places, losses.
const TOKEN_BYTES: u64 = 36;
/// Batches that exist at once: those made ahead, the one being made and the one in use.
const BATCHES: u64 = 6;
/// Bytes of memory for a byte of text while it is read, split and encoded.
const TEXT_FACTOR: u64 = 4;
/// Text that is read however small the memory.
const LITTLE_TEXT_BYTES: u64 = 4 << 20;
/// Rows of a block of the portable product, whose operands are on no ledger.
const PORTABLE_ROWS: u64 = 64;

/// Rounding of buffers to pages, in shares of all of them.
const PAGE_SHARE: u64 = 128;

/// What the process part of a plan depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) threads: usize,
    pub(crate) level: Level,
    pub(crate) compute: Compute,
    /// Tokens of a micro-batch.
    pub(crate) tokens: usize,
}

impl Process<'_> {
    /// Bytes beside tensors of `tensor_bytes`, the rounding of those to pages included.
    pub(crate) fn bytes(&self, tensor_bytes: u64) -> u64 {
        let spec = self.spec;
        let numbers = [
            base(self.threads),
            self.portable_bytes(),
            VOCAB_ENTRY_BYTES.saturating_mul(spec.vocab as u64),
            (self.tokens as u64).saturating_mul(TOKEN_BYTES * BATCHES),
            // Cosines and sines of every position.
            (spec.context as u64 * 4).saturating_mul(spec.head_dim as u64),
            (1 << 20) + tensor_bytes / PAGE_SHARE,
        ];
        numbers.into_iter().fold(0, u64::saturating_add)
    }

    /// Operands of the `gemm` crate's products: a block of rows and its result for each thread.
    fn portable_bytes(&self) -> u64 {
        let has_tiles = match self.compute {
            Compute::F32 => self.level >= Level::Avx512,
            Compute::Bf16 => self.level >= Level::Avx512Bf16,
        };
        if has_tiles {
            return 0;
        }
        let spec = self.spec;
        let wide = spec.vocab.max(2 * spec.ffn).max(spec.qkv_cols()).max(self.tokens) as u64;
        (PORTABLE_ROWS * 4 * self.threads as u64).saturating_mul(2 * wide)
    }
}

/// Bytes that reading, splitting and encoding a text needs, before there are tensors.
pub(crate) fn preparation_bytes(text_bytes: u64, vocab: usize, threads: usize) -> u64 {
    let vocab = VOCAB_ENTRY_BYTES.saturating_mul(vocab as u64);
    base(threads).saturating_add(vocab).saturating_add(text_bytes.saturating_mul(TEXT_FACTOR))
}

/// Bytes of text that can be prepared within so much memory. A little is read in any case: where there
/// is no memory for anything, it is the plan that says how much would do.
pub(crate) fn most_text(memory_bytes: u64, threads: usize) -> u64 {
    (memory_bytes.saturating_sub(base(threads)) / TEXT_FACTOR).max(LITTLE_TEXT_BYTES)
}

fn base(threads: usize) -> u64 {
    BASE_BYTES + THREAD_BYTES * threads as u64
}
