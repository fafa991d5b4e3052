//! What the operating system says about this process and this machine.

/// Peak resident memory of this process in MiB; 0 where the system does not tell.
pub(crate) fn peak_rss_mib() -> f64 {
    // `VmHWM` counts from the start of this program; `getrusage` would count its parent's pages too.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(0.0, |kib| kib / 1024.0)
}

/// The processor's name, where the system tells.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split(':').nth(1)).map(str::trim);
    name.unwrap_or(std::env::consts::ARCH).to_string()
}
