//! Which instructions the kernels may use, found once at run time.
//!
//! A hot loop is written once inside [`multiversion!`](crate::multiversion) and compiled for every level; plain Rust in
//! it never contracts a product and a sum, so all levels of an elementwise loop give the same bits.
//! On aarch64 the portable build already is the NEON build.

use std::sync::OnceLock;

/// A set of kernels. Ordered: a higher one may use everything of a lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Whatever the compiler makes of plain Rust: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with the BF16 dot product.
    Avx512Bf16,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The name in `env.json` and in `SMIDGEN_KERNELS`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable if cfg!(target_arch = "aarch64") => "neon",
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// Whether products of bf16 numbers have an instruction of their own.
    pub fn has_bf16_dot(self) -> bool {
        self == Level::Avx512Bf16
    }

    /// The highest level this machine can run.
    pub fn detect() -> Level {
        static FOUND: OnceLock<Level> = OnceLock::new();
        *FOUND.get_or_init(detect_now)
    }

    /// Every level this machine can run, lowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| *level <= Level::detect())
    }
}

#[cfg(target_arch = "x86_64")]
fn detect_now() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512, is_x86_feature_detected!("avx512bf16")) {
        (true, true, true) => Level::Avx512Bf16,
        (true, true, false) => Level::Avx512,
        (true, false, _) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect_now() -> Level {
    Level::Portable
}

/// Asks for values that will be read soon, a line of the cache at a time; nothing waits for them.
#[inline]
pub fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is that of a value, and nothing is read or written; SSE is part of x86-64.
        #[allow(unsafe_code)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Copies values past the caches, for what is larger than these: a line that is written whole is not read
/// from memory before. Another thread that is told of it in the usual ways sees all of it.
pub fn copy_streaming(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "room for each value");
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_sfence, _mm_stream_ps};
        const LINE: usize = 16;
        let head = to.as_ptr().align_offset(4 * LINE).min(to.len());
        let (from_head, from) = from.split_at(head);
        let (to_head, to) = to.split_at_mut(head);
        to_head.copy_from_slice(from_head);
        let ((from, from_tail), (to, to_tail)) =
            (from.as_chunks::<LINE>(), to.as_chunks_mut::<LINE>());
        for (from, to) in from.iter().zip(to) {
            for at in (0..LINE).step_by(4) {
                // SAFETY: four values from `at` on are in both, and a line begins at a multiple of 64
                // bytes; SSE is part of x86-64.
                #[allow(unsafe_code)]
                unsafe {
                    _mm_stream_ps(to.as_mut_ptr().add(at), _mm_loadu_ps(from.as_ptr().add(at)));
                }
            }
        }
        to_tail.copy_from_slice(from_tail);
        // SAFETY: it only orders what was written before what is written after.
        #[allow(unsafe_code)]
        unsafe {
            _mm_sfence();
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

/// Compiles one function for every [`Level`] and calls the one asked for as its first argument.
///
/// The body is inlined into each variant, so it must be plain Rust; closures it is given should be
/// small enough to inline. A level the machine lacks falls back to the highest it has.
#[macro_export]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($gen:ident $(: $bound:path)? ),+ $(; const $cn:ident : $ct:ty)*>)? (
        $($arg:ident : $ty:ty),* $(,)?
    ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name $(<$($gen $(: $bound)?),+ $(, const $cn: $ct)*>)? (level: $crate::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<$($gen $(: $bound)?),+ $(, const $cn: $ct)*>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<$($gen $(: $bound)?),+ $(, const $cn: $ct)*>)? ($($arg: $ty),*) $(-> $ret)? {
                body $(::<$($gen),+ $(, $cn)*>)? ($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<$($gen $(: $bound)?),+ $(, const $cn: $ct)*>)? ($($arg: $ty),*) $(-> $ret)? {
                body $(::<$($gen),+ $(, $cn)*>)? ($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            match level.min($crate::simd::Level::detect()) {
                $crate::simd::Level::Portable => {}
                // SAFETY: the level was compared with what the machine reports.
                $crate::simd::Level::Avx2 => return unsafe { avx2 $(::<$($gen),+ $(, $cn)*>)? ($($arg),*) },
                // SAFETY: as above.
                _ => return unsafe { avx512 $(::<$($gen),+ $(, $cn)*>)? ($($arg),*) },
            }
            let _ = level;
            body $(::<$($gen),+ $(, $cn)*>)? ($($arg),*)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streaming_copy_is_a_copy_wherever_it_begins_and_ends() {
        let from: Vec<f32> = (0..200).map(|i| i as f32).collect();
        for start in 0..20 {
            for len in [0, 1, 15, 16, 17, 63, 64, 150] {
                let mut to = vec![-1.0; 200];
                copy_streaming(&from[7..7 + len], &mut to[start..start + len]);
                assert_eq!(to[start..start + len], from[7..7 + len]);
                assert!(to[..start].iter().chain(&to[start + len..]).all(|x| *x == -1.0));
            }
        }
    }
}
