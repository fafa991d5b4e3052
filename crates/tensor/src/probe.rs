//! What this machine could do at most, measured: register loops, memory copies, whole products.
//!
//! A figure of speed means little alone; these are the limits it is put beside. The loops touch no
//! memory and wait for nothing, so nothing that computes can be faster with the same instructions.

#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use smidgen_codec::{Rng, Stream, Tag};

use crate::matmul::{Left, Out, Panels, Right, Store, pack, product};
use crate::tensor::Shared;
use crate::{Buffer, Compute, Device, Error, Format, Level, Team, Tensor};

/// Time one measurement takes at least; shorter ones see the clock frequency of the moment.
const LEAST: Duration = Duration::from_millis(40);
/// Measurements of which the best counts: a limit is what was possible once.
const ROUNDS: usize = 5;
/// Independent sums of a loop: more than any core's latency times its pipes.
const SUMS: usize = 16;

/// The operands of a multiply-and-add loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// f32 products, f32 sums.
    F32,
    /// Pairs of bf16 products, f32 sums (`vdpbf16ps`).
    Bf16,
    /// Fours of int8 products, i32 sums (`vpdpbusd`).
    Int8,
}

/// Operations (products and sums) per second of a register loop on every thread of `team` at once;
/// `None` where the machine has no instruction for it.
pub fn register_rate(team: &Team, kind: Kind) -> Option<f64> {
    let (run, ops) = register_loop(kind)?;
    let mut reps = 10_000u64;
    let seconds = |reps: u64| {
        let started = Instant::now();
        team.run(team.threads(), |_| run(reps));
        started.elapsed()
    };
    while seconds(reps) < LEAST {
        reps *= 2;
    }
    let best = (0..ROUNDS).map(|_| seconds(reps)).min().expect("at least one round");
    Some((team.threads() as u64 * reps * ops) as f64 / best.as_secs_f64())
}

/// Bytes read and written per second, together, while all threads copy memory: 2 MiB pages where the
/// system gives them, and stores that pass the caches by where there is an instruction for it.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn copy_rate(device: &Device) -> Result<f64, Error> {
    // Far more than the caches hold, as weights and optimizer state are.
    const BYTES: usize = 256 << 20;
    const PART: usize = 1 << 20;
    let from = device.pool().zeroed(Tag::Workspace, BYTES)?;
    let mut to = device.pool().zeroed(Tag::Workspace, BYTES)?;
    let parts = Shared::new(to.as_mut());
    let mut copy = || {
        device.team().run(BYTES / PART, |task| {
            // SAFETY: parts do not overlap.
            let to = unsafe { parts.slice(task * PART, PART) };
            copy_past_caches(to, black_box(&from.as_ref()[task * PART..][..PART]));
        });
        Ok(())
    };
    Ok((2 * BYTES) as f64 / best_of(&mut copy)?)
}

/// Copies a part that is a multiple of 64 bytes and begins on one.
fn copy_past_caches(to: &mut [u8], from: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if Level::detect() >= Level::Avx512 {
        // SAFETY: the instructions are there; both slices are whole, aligned lines of one length.
        unsafe { x86::stream(to, from) };
        return;
    }
    to.copy_from_slice(from);
}

/// Operations per second of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductRate {
    /// From plain matrices; the right operand is packed on the way.
    pub whole: f64,
    /// With the right operand packed before, as in decoding.
    pub packed: f64,
}

/// How fast `[m, k] x [n, k]^T` is: left rows in the operand format, right rows in f32, f32 results.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn product_rate(
    device: &Device,
    compute: Compute,
    m: usize,
    n: usize,
    k: usize,
) -> Result<ProductRate, Error> {
    let left = random(device, [m, k], compute.format())?;
    let right = random(device, [n, k], Format::F32)?;
    let mut out = Tensor::uninit(device.pool(), Tag::Workspace, [m, n], Format::F32)?;
    let views = [right.view()];
    let engine = device.engine(compute);
    let make = || pack(&engine, Right::Transposed(&views), Tag::Packed);
    let mut multiply = |panels: &Panels<Buffer>| {
        product(&engine, Left::Rows(left.view()), panels, Out::tensor(&mut out), Store::Set)
    };
    let panels = make()?;
    let packed = best_of(|| multiply(&panels))?;
    drop(panels);
    let whole = best_of(|| multiply(&make()?))?;
    let ops = 2.0 * m as f64 * n as f64 * k as f64;
    Ok(ProductRate { whole: ops / whole, packed: ops / packed })
}

fn random(device: &Device, shape: [usize; 2], format: Format) -> Result<Tensor, Error> {
    let mut values = vec![0.0; shape[0] * shape[1]];
    Rng::new(0, Stream::Data).fill_normal(0, 0, 1.0, &mut values);
    let wide = Tensor::from_f32(device.pool(), Tag::Workspace, shape, &values)?;
    if format == Format::F32 {
        return Ok(wide);
    }
    let mut narrow = Tensor::uninit(device.pool(), Tag::Workspace, shape, format)?;
    for (to, from) in narrow.slice_mut::<half::bf16>().iter_mut().zip(&values) {
        *to = half::bf16::from_f32(*from);
    }
    Ok(narrow)
}

/// Seconds of the fastest of a few runs.
fn best_of(mut run: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let (mut best, mut spent, mut runs) = (Duration::MAX, Duration::ZERO, 0);
    while runs < ROUNDS || (spent < 5 * LEAST && runs < 100 * ROUNDS) {
        let started = Instant::now();
        run()?;
        let took = started.elapsed();
        (best, spent, runs) = (best.min(took), spent + took, runs + 1);
    }
    Ok(best.as_secs_f64().max(1e-9))
}

/// A loop and its operations per repetition.
type Loop = (fn(u64), u64);

#[cfg(target_arch = "x86_64")]
fn register_loop(kind: Kind) -> Option<Loop> {
    let level = Level::detect();
    let int8 = level >= Level::Avx512 && is_x86_feature_detected!("avx512vnni");
    let sums = SUMS as u64;
    Some(match kind {
        // SAFETY: here and below, the machine was asked for the instructions of the loop.
        Kind::F32 if level >= Level::Avx512 => (|n| unsafe { x86::f32_512(n) }, sums * 16 * 2),
        // SAFETY: as above.
        Kind::F32 if level >= Level::Avx2 => (|n| unsafe { x86::f32_256(n) }, sums * 8 * 2),
        Kind::F32 => portable(),
        // SAFETY: as above.
        Kind::Bf16 if level.has_bf16_dot() => (|n| unsafe { x86::bf16_512(n) }, sums * 32 * 2),
        // SAFETY: as above.
        Kind::Int8 if int8 => (|n| unsafe { x86::int8_512(n) }, sums * 64 * 2),
        Kind::Bf16 | Kind::Int8 => return None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn register_loop(kind: Kind) -> Option<Loop> {
    let _ = Level::detect();
    (kind == Kind::F32).then(portable)
}

/// Plain Rust: product and sum are two instructions, as everywhere in portable code.
fn portable() -> Loop {
    fn run(reps: u64) {
        let (a, b) = (black_box([0.999f32; 4]), black_box([1e-3f32; 4]));
        let mut sums = black_box([[0f32; 4]; SUMS / 2]);
        for _ in 0..reps {
            for sum in &mut sums {
                for lane in 0..4 {
                    sum[lane] = sum[lane] * a[lane] + b[lane];
                }
            }
        }
        black_box(sums);
    }
    (run, SUMS as u64 / 2 * 4 * 2)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::SUMS;

    /// # Safety
    /// Both slices have one length, a multiple of 64 bytes, and `to` begins on such a multiple.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn stream(to: &mut [u8], from: &[u8]) {
        for (to, from) in to.chunks_exact_mut(64).zip(from.chunks_exact(64)) {
            // SAFETY: 64 bytes each; buffers of the pool begin on 128.
            unsafe {
                _mm512_stream_si512(
                    to.as_mut_ptr().cast(),
                    _mm512_loadu_si512(from.as_ptr().cast()),
                )
            };
        }
        _mm_sfence();
    }

    /// One loop of independent sums over two operands that stay in registers.
    macro_rules! register_loop {
        ($name:ident, $features:literal, $zero:expr, $operand:expr, $step:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(reps: u64) {
                let (x, y) = (black_box($operand), black_box($operand));
                let mut sums = [$zero; SUMS];
                for _ in 0..reps {
                    for sum in &mut sums {
                        *sum = $step(*sum, x, y);
                    }
                }
                black_box(sums);
            }
        };
    }

    register_loop!(f32_256, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(0.5), |s, x, y| {
        _mm256_fmadd_ps(x, y, s)
    });
    register_loop!(f32_512, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(0.5), |s, x, y| {
        _mm512_fmadd_ps(x, y, s)
    });
    register_loop!(
        bf16_512,
        "avx512f,avx512bf16",
        _mm512_setzero_ps(),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)),
        |s, x, y| _mm512_dpbf16_ps(s, x, y)
    );
    register_loop!(
        int8_512,
        "avx512f,avx512vnni",
        _mm512_setzero_si512(),
        _mm512_set1_epi8(3),
        |s, x, y| _mm512_dpbusd_epi32(s, x, y)
    );
}

#[cfg(test)]
mod tests {
    use smidgen_codec::Ledger;

    use super::*;

    #[test]
    fn every_limit_is_a_positive_number() {
        let team = Team::new(1);
        assert!(register_rate(&team, Kind::F32).expect("every machine multiplies f32") > 0.0);
        let rates = [register_rate(&team, Kind::Bf16), register_rate(&team, Kind::Int8)];
        assert!(rates.into_iter().flatten().all(|rate| rate > 0.0));
        assert_eq!(rates[0].is_some(), Level::detect().has_bf16_dot());
        assert!(copy_rate(&Device::cpu(Ledger::new(), 1)).unwrap() > 0.0);
    }

    #[test]
    fn products_of_any_size_have_a_rate() {
        let device = Device::cpu(Ledger::new(), 1);
        for compute in [Compute::F32, Compute::Bf16] {
            let rate = product_rate(&device, compute, 3, 33, 8).unwrap();
            assert!(rate.whole > 0.0 && rate.packed > 0.0, "{rate:?}");
        }
    }
}
