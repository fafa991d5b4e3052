//! Who gets how many bits under a cap: allocators, one file each.

mod dp;
mod greedy;
mod hull;
mod lagrange;

pub use dp::RdDp;
pub use greedy::RdGreedyV0;
pub use hull::RdHull;
pub use lagrange::RdLagrange;

use super::problem::{Choice, Problem};
use crate::Error;

/// Chooses a recipe, or none, for each token.
pub trait Allocator: Sync {
    /// The name in configs and tables.
    fn name(&self) -> &'static str;

    /// A choice whose planned bytes are at most the cap: never over it, whatever the weights.
    ///
    /// # Errors
    /// [`Error::Value`] where the problem is too large for an exact method.
    fn allocate(&self, problem: &Problem) -> Result<Choice, Error>;
}

/// Every allocator. Configs, errors and the tests read this list.
pub static ALLOCATORS: &[&dyn Allocator] = &[&RdGreedyV0, &RdHull, &RdLagrange, &RdDp];

/// The name of the allocator that is used where none is named.
pub const DEFAULT_ALLOCATOR: &str = "rd_hull";

/// The allocator of this name.
///
/// # Errors
/// [`Error::UnknownName`] lists the registry and the nearest name.
pub fn allocator_by_name(name: &str) -> Result<&'static dyn Allocator, Error> {
    let known = ALLOCATORS.iter().map(|allocator| allocator.name());
    let found = ALLOCATORS.iter().find(|allocator| allocator.name() == name).copied();
    found.ok_or_else(|| Error::unknown("allocator", name, known))
}
