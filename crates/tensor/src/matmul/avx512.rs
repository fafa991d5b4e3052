//! AVX-512 products: a register tile of 12 rows x 32 columns over packed panels.
//!
//! A step of the tile multiplies one *word* per row with 32 words of a panel: a word is one f32, or
//! two bf16 neighbours along k for `vdpbf16ps`. Twelve rows and two vectors use 24 accumulators, which
//! hides the latency of both pipes; the row words come from memory as broadcasts.
//! A panel is `[k][32]` words; a transposed left operand comes as panels too, twelve columns at a time.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::product::Mix;
use super::{Compute, Out, Store};
use crate::tensor::{Format, View};

/// Rows of the register tile.
pub(super) const MR: usize = 12;
/// Columns of the register tile and of a panel.
pub(super) const NR: usize = 32;

/// Left operand of a tile: where word (row, k) lies.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) start: *const u8,
    /// Bytes from a row to the next; one word in a panel.
    pub(super) row: usize,
    /// Whether the words of a row lie side by side; else they are columns of a panel.
    pub(super) direct: bool,
}

macro_rules! tiles {
    ($tile:ident, $rows:expr, $direct:expr, $($arg:expr),*) => {
        match $rows {
            1 => $tile::<1, $direct>($($arg),*),
            2 => $tile::<2, $direct>($($arg),*),
            3 => $tile::<3, $direct>($($arg),*),
            4 => $tile::<4, $direct>($($arg),*),
            5 => $tile::<5, $direct>($($arg),*),
            6 => $tile::<6, $direct>($($arg),*),
            7 => $tile::<7, $direct>($($arg),*),
            8 => $tile::<8, $direct>($($arg),*),
            9 => $tile::<9, $direct>($($arg),*),
            10 => $tile::<10, $direct>($($arg),*),
            11 => $tile::<11, $direct>($($arg),*),
            _ => $tile::<12, $direct>($($arg),*),
        }
    };
}

/// One register tile: `rows` x `cols` values at (row, col) of `out`.
///
/// # Safety
/// The machine has AVX-512 (and BF16 for [`Compute::Bf16`]); `k` words of every row and of the panel
/// are readable; the place in `out` is writable by this thread alone.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn run_tile(
    compute: Compute,
    k: usize,
    rows: usize,
    a: Words,
    panel: *const u8,
    out: &Out,
    store: Store,
    row: usize,
    col: usize,
    cols: usize,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (compute, a.direct) {
            (Compute::Bf16, true) => {
                tiles!(tile_bf16, rows, true, k, a, panel, out, store, row, col, cols)
            }
            (Compute::Bf16, false) => {
                tiles!(tile_bf16, rows, false, k, a, panel, out, store, row, col, cols)
            }
            (Compute::F32, true) => {
                tiles!(tile_f32, rows, true, k, a, panel, out, store, row, col, cols)
            }
            (Compute::F32, false) => {
                tiles!(tile_f32, rows, false, k, a, panel, out, store, row, col, cols)
            }
        }
    }
}

#[inline(always)]
unsafe fn multiply<const BF16: bool>(sum: __m512, x: __m512, y: __m512) -> __m512 {
    // SAFETY: only called inside `tile`, which enables both instruction sets.
    unsafe {
        if BF16 {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512, __m512bh>(x),
                std::mem::transmute::<__m512, __m512bh>(y),
            )
        } else {
            _mm512_fmadd_ps(x, y, sum)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_bf16<const ROWS: usize, const DIRECT: bool>(
    k: usize,
    a: Words,
    panel: *const u8,
    out: &Out,
    store: Store,
    row: usize,
    col: usize,
    cols: usize,
) {
    // SAFETY: see `run_tile`.
    unsafe { tile::<ROWS, DIRECT, true>(k, a, panel, out, store, row, col, cols) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_f32<const ROWS: usize, const DIRECT: bool>(
    k: usize,
    a: Words,
    panel: *const u8,
    out: &Out,
    store: Store,
    row: usize,
    col: usize,
    cols: usize,
) {
    // SAFETY: see `run_tile`.
    unsafe { tile::<ROWS, DIRECT, false>(k, a, panel, out, store, row, col, cols) }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // Constant indices keep the sums in registers.
unsafe fn tile<const ROWS: usize, const DIRECT: bool, const BF16: bool>(
    k: usize,
    a: Words,
    panel: *const u8,
    out: &Out,
    store: Store,
    row: usize,
    col: usize,
    cols: usize,
) {
    // SAFETY: see `run_tile`.
    unsafe {
        let mut sum = [[_mm512_setzero_ps(); 2]; ROWS];
        let step = if DIRECT { 4 } else { NR * 4 };
        let stride = if DIRECT { a.row } else { 4 };
        let mut left = a.start;
        let mut right = panel.cast::<f32>();
        for _ in 0..k {
            let y0 = _mm512_loadu_ps(right);
            let y1 = _mm512_loadu_ps(right.add(16));
            for i in 0..ROWS {
                let x = _mm512_set1_ps(left.add(i * stride).cast::<f32>().read_unaligned());
                sum[i][0] = multiply::<BF16>(sum[i][0], x, y0);
                sum[i][1] = multiply::<BF16>(sum[i][1], x, y1);
            }
            left = left.add(step);
            right = right.add(NR);
        }
        // Both halves by constant index: a computed one would keep the sums in memory.
        let (left, right) = (lanes(cols), lanes(cols.saturating_sub(16)));
        for i in 0..ROWS {
            put::<BF16>(out, store, row + i, col, left, sum[i][0]);
            if right != 0 {
                put::<BF16>(out, store, row + i, col + 16, right, sum[i][1]);
            }
        }
    }
}

/// A mask of the first `n` of 16 lanes.
#[inline(always)]
fn lanes(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

#[inline(always)]
unsafe fn put<const BF16: bool>(
    out: &Out,
    store: Store,
    row: usize,
    col: usize,
    mask: __mmask16,
    value: __m512,
) {
    // SAFETY: see `run_tile`; masked lanes touch no memory.
    unsafe {
        let at = row * out.stride + col;
        match store {
            Store::Set => _mm512_mask_storeu_ps(out.start.cast::<f32>().add(at), mask, value),
            Store::Add => {
                let to = out.start.cast::<f32>().add(at);
                _mm512_mask_storeu_ps(
                    to,
                    mask,
                    _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, to)),
                );
            }
            Store::AddTo { other, stride } => {
                let other = _mm512_maskz_loadu_ps(mask, other.add(row * stride + col));
                _mm512_mask_storeu_ps(
                    out.start.cast::<f32>().add(at),
                    mask,
                    _mm512_add_ps(value, other),
                );
            }
            Store::Bf16 => {
                debug_assert!(BF16, "only bf16 products are stored as bf16");
                let to = out.start.cast::<i16>().add(at);
                if BF16 {
                    _mm256_mask_storeu_epi16(to, mask, round(value));
                }
            }
            Store::Mix(mix) => mixed::<BF16>(out, &mix, row, col, mask, value),
        }
    }
}

/// [`put`] for [`Store::Mix`]; apart, so that the other stores stay short.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn mixed<const BF16: bool>(
    out: &Out,
    mix: &Mix,
    row: usize,
    col: usize,
    mask: __mmask16,
    value: __m512,
) {
    // SAFETY: see `run_tile`; masked lanes touch no memory.
    unsafe {
        let mut sum = _mm512_mul_ps(value, _mm512_set1_ps(mix.by));
        if !mix.other.is_null() {
            let at = row * mix.stride + col;
            let other = match mix.format {
                Format::F32 => _mm512_maskz_loadu_ps(mask, mix.other.cast::<f32>().add(at)),
                Format::Bf16 => {
                    let codes = _mm256_maskz_loadu_epi16(mask, mix.other.cast::<i16>().add(at));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(codes)))
                }
            };
            sum = _mm512_fmadd_ps(other, _mm512_set1_ps(mix.times), sum);
        }
        let at = row * out.stride + col;
        match mix.out {
            Format::F32 => _mm512_mask_storeu_ps(out.start.cast::<f32>().add(at), mask, sum),
            Format::Bf16 => {
                debug_assert!(BF16, "only bf16 products are stored as bf16");
                if BF16 {
                    let to = out.start.cast::<i16>().add(at);
                    _mm256_mask_storeu_epi16(to, mask, round(sum));
                }
            }
        }
    }
}

/// Nearest even, as `Element::from_f32` for every finite value above the denormals.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn round(value: __m512) -> __m256i {
    // SAFETY: both are 256 plain bits.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value)) }
}

/// Sixteen values of a row as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn widened_f32(view: &View<'_>, row: usize, col: usize, mask: __mmask16) -> __m512i {
    // SAFETY: as in `widened_bf16`.
    unsafe {
        let at = view.at(row, col);
        match view.format {
            Format::F32 => _mm512_maskz_loadu_epi32(mask, at.cast()),
            Format::Bf16 => _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(
                _mm256_maskz_loadu_epi16(mask, at.cast()),
            )),
        }
    }
}

/// Packs columns `col..col + count` of the source `[k, n]` as words `[k][32]`; lanes past the end are 0.
///
/// # Safety
/// The machine has AVX-512, and BF16 for [`Compute::Bf16`]; `dst` holds `words(k) * 32` words.
pub(super) unsafe fn pack_columns(
    compute: Compute,
    source: View<'_>,
    col: usize,
    count: usize,
    dst: *mut i32,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match compute {
            Compute::F32 => columns_f32(source, col, count, dst),
            Compute::Bf16 => columns_bf16(source, col, count, dst),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn columns_f32(source: View<'_>, col: usize, count: usize, dst: *mut i32) {
    let (low, high) = (lanes(count), lanes(count.saturating_sub(16)));
    for t in 0..source.rows {
        // SAFETY: masks keep the reads inside the row, and the panel has 32 words for it.
        unsafe {
            let to = dst.add(t * NR);
            _mm512_storeu_epi32(to, widened_f32(&source, t, col, low));
            _mm512_storeu_epi32(to.add(16), widened_f32(&source, t, col + 16, high));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn columns_bf16(source: View<'_>, col: usize, count: usize, dst: *mut i32) {
    // Word i takes value i of both rows.
    let pairs: [i16; 64] = std::array::from_fn(|i| (i / 2 + i % 2 * 32) as i16);
    // SAFETY: 64 indices; masks keep the reads inside the rows; the panel has 32 words for each pair.
    unsafe {
        let low = _mm512_loadu_epi16(pairs.as_ptr());
        let high = _mm512_loadu_epi16(pairs.as_ptr().add(32));
        for t in (0..source.rows).step_by(2) {
            let first = pair_words(&source, t, col, count);
            let second = if t + 1 < source.rows {
                pair_words(&source, t + 1, col, count)
            } else {
                _mm512_setzero_si512()
            };
            let to = dst.add(t / 2 * NR);
            _mm512_storeu_epi32(to, _mm512_permutex2var_epi16(first, low, second));
            _mm512_storeu_epi32(to.add(16), _mm512_permutex2var_epi16(first, high, second));
        }
    }
}

/// Packs up to 32 rows of the source `[n, k]` as words `[k][32]`, word `w` of a row at `[w][lane]`.
///
/// # Safety
/// As for [`pack_columns`]; `rows` gives at most 32 rows, each of `k` values.
pub(super) unsafe fn pack_rows(compute: Compute, rows: &[View<'_>], k: usize, dst: *mut i32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match compute {
            Compute::F32 => rows_f32(rows, k, dst),
            Compute::Bf16 => rows_bf16(rows, k, dst),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn rows_f32(rows: &[View<'_>], k: usize, dst: *mut i32) {
    // SAFETY: passed on from the caller; the mask keeps reads inside the row.
    unsafe { transposed(rows, k, 1, dst, |row, col| widened_f32(row, 0, col, lanes(k - col))) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn rows_bf16(rows: &[View<'_>], k: usize, dst: *mut i32) {
    // SAFETY: as above.
    unsafe { transposed(rows, k, 2, dst, |row, col| pair_words(row, 0, col, k - col)) }
}

/// Fills a panel block by block of 16 x 16 words; `read` gives sixteen words of a row from a column on.
#[inline(always)]
unsafe fn transposed(
    rows: &[View<'_>],
    k: usize,
    per_word: usize,
    dst: *mut i32,
    read: impl Fn(&View<'_>, usize) -> __m512i,
) {
    let words = k.div_ceil(per_word);
    for lane in (0..NR).step_by(16) {
        for word in (0..words).step_by(16) {
            // SAFETY: `dst` holds `words` rows of 32 words, and the caller has AVX-512.
            unsafe {
                let mut block = [_mm512_setzero_si512(); 16];
                for (v, row) in block.iter_mut().zip(rows.iter().skip(lane)) {
                    *v = read(row, word * per_word);
                }
                transpose(&mut block);
                for (w, v) in block.iter().enumerate().take(words - word) {
                    _mm512_storeu_si512(dst.add((word + w) * NR + lane).cast(), *v);
                }
            }
        }
    }
}

/// Up to 32 neighbours of a row as sixteen words of two bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pair_words(view: &View<'_>, row: usize, col: usize, left: usize) -> __m512i {
    // SAFETY: masked lanes touch no memory.
    unsafe {
        let at = view.at(row, col);
        match view.format {
            Format::F32 => {
                let low = _mm512_maskz_loadu_ps(lanes(left), at.cast());
                let high = _mm512_maskz_loadu_ps(
                    lanes(left.saturating_sub(16)),
                    at.cast::<f32>().wrapping_add(16),
                );
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
            }
            Format::Bf16 => {
                let mask = if left >= 32 { !0 } else { (1u32 << left) - 1 };
                _mm512_maskz_loadu_epi16(mask, at.cast())
            }
        }
    }
}

/// Transposes sixteen rows of sixteen words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: &mut [__m512i; 16]) {
    let mut t = *r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in (0..16).step_by(4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for i in 0..4 {
        t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[i + 4]);
        t[i + 4] = _mm512_shuffle_i32x4::<0xdd>(r[i], r[i + 4]);
        t[i + 8] = _mm512_shuffle_i32x4::<0x88>(r[i + 8], r[i + 12]);
        t[i + 12] = _mm512_shuffle_i32x4::<0xdd>(r[i + 8], r[i + 12]);
    }
    for i in 0..4 {
        r[i] = _mm512_shuffle_i32x4::<0x88>(t[i], t[i + 8]);
        r[i + 8] = _mm512_shuffle_i32x4::<0xdd>(t[i], t[i + 8]);
        r[i + 4] = _mm512_shuffle_i32x4::<0x88>(t[i + 4], t[i + 12]);
        r[i + 12] = _mm512_shuffle_i32x4::<0xdd>(t[i + 4], t[i + 12]);
    }
}
