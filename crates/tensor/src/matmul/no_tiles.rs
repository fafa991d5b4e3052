//! Register tiles on machines that have none: the products never come here.

#![allow(unsafe_code, clippy::too_many_arguments)]

use super::{Compute, Out, Store};
use crate::tensor::View;

pub(super) const MR: usize = 12;
pub(super) const NR: usize = 32;

#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) start: *const u8,
    pub(super) row: usize,
    pub(super) direct: bool,
}

/// # Safety
/// None needed: it does not return.
pub(super) unsafe fn run_tile(
    _: Compute,
    _: usize,
    _: usize,
    a: Words,
    _: *const u8,
    _: &Out,
    _: Store,
    _: usize,
    _: usize,
    _: usize,
) {
    unreachable!("no tiles here: {:?} {} {}", a.start, a.row, a.direct)
}

/// # Safety
/// None needed: it does not return.
pub(super) unsafe fn pack_columns(_: Compute, _: View<'_>, _: usize, _: usize, _: *mut i32) {
    unreachable!("no tiles here")
}

/// # Safety
/// None needed: it does not return.
pub(super) unsafe fn pack_rows(_: Compute, _: &[View<'_>], _: usize, _: *mut i32) {
    unreachable!("no tiles here")
}
