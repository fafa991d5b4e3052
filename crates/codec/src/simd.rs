//! Run-time dispatch: one plain loop, compiled for each vector width, the widest of this CPU run.
//!
//! Not intrinsics: the compiler vectorises the same body three times, so the results are the same
//! bits (there is no fused multiply-add and no reordering in a plain loop).

/// Compiles a function with a plain loop for AVX-512, AVX2 and the baseline, and calls the widest
/// that this CPU has. The body and what it calls must be `#[inline(always)]` to profit.
macro_rules! vectorize {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident ($($arg:ident: $ty:ty),* $(,)?) $body:block
    ) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn plain($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi2")]
            fn avx512($($arg: $ty),*) {
                plain($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi2")]
            fn avx2($($arg: $ty),*) {
                plain($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            match $crate::simd::level() {
                // SAFETY: `level` has found every feature that `avx512` enables.
                $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                // SAFETY: `level` has found every feature that `avx2` enables.
                $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                $crate::simd::Level::Baseline => {}
            }
            plain($($arg),*)
        }
    };
}

pub(crate) use vectorize;

/// The vector width that plain loops run at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every CPU of the architecture has.
    Baseline,
    /// 256-bit integer and float vectors.
    Avx2,
    /// 512-bit vectors, with the byte, double-word and 256-bit extensions.
    Avx512,
}

/// The widest level of this CPU. Cheap: the answer is kept by the standard library.
#[inline]
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
        let wide = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl");
        return if wide { Level::Avx512 } else { Level::Avx2 };
    }
    Level::Baseline
}
