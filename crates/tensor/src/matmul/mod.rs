//! Matrix products, f32 or bf16 operands with f32 accumulation.
//!
//! `C = A B`: the right operand is always packed into panels (from rows or from columns, which is where
//! transposes, strides and the rounding to bf16 are absorbed); the left one is read in place
//! ([`Left::Rows`]) or packed the same way when it comes transposed ([`Left::Columns`]).
//! The order of accumulation along k is fixed by one constant and the kernel alone, so results do not
//! depend on threads, tile sizes or the cutting into tasks. The plain fallback is the `gemm` crate.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_tiles.rs"]
mod avx512;
mod coded;
mod fallback;
pub(crate) mod operand;
mod panels;
mod product;
#[cfg(test)]
mod tests;

use smidgen_codec::Level;

pub(crate) use panels::{Panels, Right, pack, pack_into, panel_bytes, panel_bytes_at};
pub(crate) use product::KC;
pub(crate) use product::{Left, Out, Store, product, product_serial};

use crate::tensor::{Element, Format};
use crate::{Pool, Team};

/// The operand format of a product; sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// f32 operands.
    F32,
    /// Operands rounded to bf16.
    Bf16,
}

impl Compute {
    /// The format operands are kept in.
    pub fn format(self) -> Format {
        match self {
            Compute::F32 => Format::F32,
            Compute::Bf16 => Format::Bf16,
        }
    }

    pub(crate) fn values_per_word(self) -> usize {
        match self {
            Compute::F32 => 1,
            Compute::Bf16 => 2,
        }
    }
}

/// What a product needs to know of the machine.
#[derive(Clone, Copy)]
pub(crate) struct Engine<'a> {
    pub(crate) level: Level,
    pub(crate) compute: Compute,
    pub(crate) pool: &'a Pool,
    pub(crate) team: &'a Team,
}

/// Whether the register-tile kernels multiply operands of this format at a level.
pub(crate) fn tiles_apply(level: Level, compute: Compute) -> bool {
    cfg!(target_arch = "x86_64")
        && match compute {
            Compute::F32 => level >= Level::Avx512,
            Compute::Bf16 => level >= Level::Avx512Bf16,
        }
}

impl Engine<'_> {
    /// Whether the register-tile kernels apply; otherwise the portable product does.
    fn has_tiles(&self) -> bool {
        tiles_apply(self.level, self.compute)
    }

    fn panel_width(&self) -> usize {
        if self.has_tiles() { 32 } else { fallback::COLUMNS }
    }
}

crate::multiversion! {
    /// Copies values into another format; what `to` has more becomes zero.
    pub(crate) fn convert<A: Element, B: Element>(from: &[A], to: &mut [B]) {
        let (head, tail) = to.split_at_mut(from.len());
        for (to, from) in head.iter_mut().zip(from) {
            *to = B::from_f32(from.to_f32());
        }
        tail.fill(B::from_f32(0.0));
    }
}
