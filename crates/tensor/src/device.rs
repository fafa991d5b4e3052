//! The seam to the machine: memory, threads and kernels behind one handle.

use std::sync::Arc;

use smidgen_codec::Ledger;

use crate::matmul::Engine;
use crate::{Compute, Level, Pages, Pool, Team};

/// Where tensors live and operations run. Clones share everything.
///
/// The CPU is the only kind so far; another one changes nothing outside this crate.
#[derive(Clone)]
pub struct Device {
    pool: Pool,
    team: Arc<Team>,
    level: Level,
}

impl Device {
    /// The CPU, with `threads` threads and the best kernels it can run.
    pub fn cpu(ledger: Ledger, threads: usize) -> Device {
        Device::cpu_at(ledger, threads, Level::detect())
    }

    /// The CPU with a given kernel set, or the highest it has below that.
    pub fn cpu_at(ledger: Ledger, threads: usize, level: Level) -> Device {
        Device {
            pool: Pool::new(ledger),
            team: Arc::new(Team::new(threads)),
            level: level.min(Level::detect()),
        }
    }

    /// The same device, with a file for what is kept in pages.
    pub fn with_pages(self, pages: Pages) -> Device {
        Device { pool: self.pool.with_pages(pages), ..self }
    }

    /// Where memory comes from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Who computes.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// The kernel set in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The ledger all memory is counted in.
    pub fn ledger(&self) -> &Ledger {
        self.pool.ledger()
    }

    /// The operand format that is fastest here: bf16 where the CPU multiplies it natively, else f32.
    pub fn preferred_compute(&self) -> Compute {
        if self.level.has_bf16_dot() { Compute::Bf16 } else { Compute::F32 }
    }

    pub(crate) fn engine(&self, compute: Compute) -> Engine<'_> {
        Engine { level: self.level, compute, pool: &self.pool, team: &self.team }
    }
}
