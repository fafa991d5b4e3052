//! The loops under the operations: plain Rust compiled for every level, over rows shared out in fixed chunks.

pub(crate) mod attention;
pub(crate) mod decode;
pub(crate) mod dropout;
pub(crate) mod elementwise;
pub(crate) mod embed;
pub(crate) mod gate;
pub(crate) mod gated;
pub(crate) mod gelu;
#[cfg(test)]
pub(crate) mod levels;
pub(crate) mod loss;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod rope;

use crate::Team;

/// Rows of one task; fixed, so that sums over rows do not depend on the team.
pub(crate) const ROWS: usize = 64;

/// Runs `body(first_row, rows)` over all rows.
pub(crate) fn by_rows(team: &Team, rows: usize, body: impl Fn(usize, usize) + Sync) {
    team.run(rows.div_ceil(ROWS), |task| body(task * ROWS, ROWS.min(rows - task * ROWS)));
}

/// Calls a generic function with the element types of tensors: `with_format!(format, T => f::<T>())`.
macro_rules! with_format {
    ($format:expr, $t:ident => $body:expr) => {
        match $format {
            $crate::Format::F32 => {
                type $t = f32;
                $body
            }
            $crate::Format::Bf16 => {
                type $t = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_format;
