//! What one program may use.

/// Limits of one program. The defaults are for a compiler that checks one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processor time of each process, in seconds.
    pub cpu_s: u64,
    /// Time by the clock for all of it, in milliseconds.
    pub wall_ms: u64,
    /// Addresses of each process, in bytes.
    pub memory_bytes: u64,
    /// The largest file it may write, in bytes.
    pub file_bytes: u64,
    /// All it may write, in bytes; held in memory.
    pub disk_bytes: u64,
    /// Open files of each process.
    pub files: u64,
    /// Processes and threads at a time.
    pub processes: u64,
    /// Output that is kept, in bytes; the rest is read and dropped.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_s: 10,
            wall_ms: 15_000,
            memory_bytes: 2 << 30,
            file_bytes: 16 << 20,
            disk_bytes: 64 << 20,
            files: 64,
            processes: 16,
            output_bytes: 256 << 10,
        }
    }
}

/// A resource as the C library numbers it.
#[cfg(target_env = "gnu")]
pub(super) type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
pub(super) type Resource = libc::c_int;

impl Limits {
    /// Each limit as the system takes it: resource, soft, hard.
    pub(super) fn resources(&self) -> [(Resource, u64, u64); 6] {
        let both = |resource, limit| (resource, limit, limit);
        [
            // A second between the signal that can be caught and the one that cannot.
            (libc::RLIMIT_CPU, self.cpu_s, self.cpu_s + 1),
            both(libc::RLIMIT_AS, self.memory_bytes),
            both(libc::RLIMIT_FSIZE, self.file_bytes),
            both(libc::RLIMIT_NOFILE, self.files),
            both(libc::RLIMIT_CORE, 0),
            both(libc::RLIMIT_NPROC, self.processes),
        ]
        .map(within_own)
    }
}

/// Nobody may go above the limits he has himself.
#[allow(unsafe_code)]
fn within_own((resource, soft, hard): (Resource, u64, u64)) -> (Resource, u64, u64) {
    let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live struct of the right type.
    match unsafe { libc::getrlimit(resource, &mut own) } {
        0 => (resource, soft.min(own.rlim_max), hard.min(own.rlim_max)),
        _ => (resource, soft, hard),
    }
}
