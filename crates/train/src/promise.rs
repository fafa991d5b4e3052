//! The promise about memory: what the ledger may count, so that the whole process keeps to the plan.

#![allow(unsafe_code)]

use smidgen_codec::Ledger;
use smidgen_tensor::Device;

use crate::machine::data_bytes;
use crate::process::BASE_BYTES;
use crate::{Machine, Plan};

/// A device whose tensors leave the process its share of the plan's memory. Where data preparation
/// left more behind than was planned for, that much less is for tensors.
pub(crate) fn device(plan: &Plan, machine: &Machine) -> Device {
    give_back_heap();
    let planned = plan.choice.process_bytes;
    // Stacks, batches and tables are still to come.
    let measured = data_bytes().saturating_add(planned.saturating_sub(BASE_BYTES));
    let limit = plan.choice.memory_bytes.saturating_sub(planned.max(measured));
    let ledger = Ledger::limited(usize::try_from(limit).unwrap_or(usize::MAX));
    Device::cpu_at(ledger, plan.threads(), machine.level)
}

/// What the allocator still holds of texts and tables that are gone.
fn give_back_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the allocator's own function, which may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
