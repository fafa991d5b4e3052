//! What the machine has: threads, memory, kernels.

#![allow(unsafe_code)]

use std::fs;

use smidgen_tensor::{Level, available_threads};

/// The machine as far as plans depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Threads the process may use.
    pub threads: usize,
    /// Memory of the machine or of the process's group, whichever is smaller.
    pub memory_bytes: u64,
    /// The kernels it can run.
    pub level: Level,
}

impl Machine {
    /// The machine this runs on.
    pub fn detect() -> Machine {
        Machine {
            threads: available_threads(),
            memory_bytes: memory_bytes(),
            level: Level::detect(),
        }
    }
}

fn memory_bytes() -> u64 {
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits =
        groups.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain(physical_bytes()).min().unwrap_or(4 << 30)
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
    let high_water = |text: String| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    };
    fs::read_to_string("/proc/self/status").ok().and_then(high_water).unwrap_or_else(max_rss)
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
        assert!(peak_rss_bytes() > 1 << 20 && max_rss() > 1 << 20);
        assert!(!cpu_name().is_empty());
    }
}
