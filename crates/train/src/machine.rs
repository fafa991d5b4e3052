//! What the machine has: threads, memory, kernels.

#![allow(unsafe_code)]

use std::fs;

use smidgen_tensor::{Level, available_threads};

use crate::cgroup::Limits;

/// The machine as far as plans depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Threads the process may use: its affinity, cut to the quota of its control groups.
    pub threads: usize,
    /// Memory of the machine or of the process's control groups, whichever is smaller.
    pub memory_bytes: u64,
    /// What of it the system could give now, other programs' share left to them.
    pub available_bytes: u64,
    /// The kernels it can run.
    pub level: Level,
}

impl Machine {
    /// The machine this runs on.
    pub fn detect() -> Machine {
        let limits = Limits::detect();
        let quota = limits.cpus.map_or(usize::MAX, |cpus| (cpus as usize).max(1));
        let memory = limits.memory_bytes.into_iter().chain(physical_bytes()).min();
        let memory_bytes = memory.unwrap_or(4 << 30);
        let available = field("/proc/meminfo", "MemAvailable:").unwrap_or(memory_bytes);
        Machine {
            threads: available_threads().min(quota),
            memory_bytes,
            available_bytes: available.min(memory_bytes),
            level: Level::detect(),
        }
    }
}

/// A number of KiB behind a name in a file of the system, in bytes.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Private memory of this process that is no file's, now resident, in bytes; 0 where the system does
/// not say. A promise about memory is about this.
pub fn anonymous_bytes() -> u64 {
    field("/proc/self/status", "RssAnon:").unwrap_or(0)
}

/// Private memory that this process may write, resident or not, in bytes: what a limit on data counts.
pub(crate) fn data_bytes() -> u64 {
    field("/proc/self/status", "VmData:").unwrap_or(0)
}

fn physical_bytes() -> Option<u64> {
    // SAFETY: sysconf reads two numbers and has no other effect.
    let (pages, size) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(size).ok()?)
}

/// The name of the processor.
pub fn cpu_name() -> String {
    let named = |text: String| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let found = fs::read_to_string("/proc/cpuinfo").ok().and_then(named);
    found.unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

/// The most memory this process ever had resident, in bytes; 0 where the system does not say.
pub fn peak_rss_bytes() -> u64 {
    // Not from `getrusage` where there is another source: that counts the parent before `exec` too.
    field("/proc/self/status", "VmHWM:").unwrap_or_else(max_rss)
}

fn max_rss() -> u64 {
    // SAFETY: an all-zero `rusage` is a valid value, and `getrusage` writes only into it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_something() {
        let machine = Machine::detect();
        assert!(machine.threads >= 1 && machine.memory_bytes > 64 << 20);
        assert!((1..=machine.memory_bytes).contains(&machine.available_bytes));
        assert!(anonymous_bytes() > 0 || !cfg!(target_os = "linux"));
        assert!(data_bytes() >= anonymous_bytes() / 2);
        assert!(peak_rss_bytes() > 1 << 20 && max_rss() > 1 << 20);
        assert!(!cpu_name().is_empty());
    }
}
