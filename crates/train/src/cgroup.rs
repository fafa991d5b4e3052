//! Limits that a control group puts on this process, in version 1 and 2 of the interface.
//!
//! A group is bound by its own limits and by those of every group around it, so each folder from the
//! process's own up to the mount is read. In a container the names in `/proc/self/cgroup` may lie
//! outside of what is mounted; the mount itself is then all there is, and is read as well.

use std::fs;
use std::path::Path;

/// What is known of the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Bytes of memory.
    pub(crate) memory_bytes: Option<u64>,
    /// Processors' time per time.
    pub(crate) cpus: Option<f64>,
}

impl Limits {
    /// Those of this process.
    pub(crate) fn detect() -> Limits {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Limits::read(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// Those of the groups in the text of `/proc/self/cgroup`, below the folder `root`.
    fn read(groups: &str, root: &Path) -> Limits {
        let mut limits = Limits::default();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let mounts = match controllers {
                // Version 2 stands alone, or beside version 1 in a folder of its own.
                "" => vec![root.to_path_buf(), root.join("unified")],
                _ => vec![root.join(controllers)],
            };
            for mount in mounts {
                let inner = Path::new(path.trim_start_matches('/'));
                for folder in inner.ancestors().map(|inner| mount.join(inner)) {
                    limits.tighten(&folder);
                }
            }
        }
        limits
    }

    /// Takes the limits of one folder in.
    fn tighten(&mut self, folder: &Path) {
        let text = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        for name in ["memory.max", "memory.limit_in_bytes"] {
            if let Ok(bytes) = text(name).trim().parse::<u64>() {
                self.memory_bytes = Some(self.memory_bytes.map_or(bytes, |old| old.min(bytes)));
            }
        }
        let both = format!("{} {}", text("cpu.cfs_quota_us"), text("cpu.cfs_period_us"));
        for quota in [text("cpu.max"), both].iter().filter_map(|text| cpus(text)) {
            self.cpus = Some(self.cpus.map_or(quota, |old| old.min(quota)));
        }
    }
}

/// `QUOTA PERIOD` in microseconds; `max` or -1 is no quota.
fn cpus(text: &str) -> Option<f64> {
    let mut parts = text.split_whitespace().map(|part| part.parse::<f64>().ok());
    let (quota, period) = (parts.next()??, parts.next()??);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_group_around_counts_in_version_2() {
        let root = tree(&[
            ("a/memory.max", "2000\n"),
            ("a/b/memory.max", "max\n"),
            ("a/cpu.max", "150000 100000\n"),
            ("a/b/cpu.max", "max 100000\n"),
        ]);
        let limits = Limits::read("0::/a/b\n", root.path());
        assert_eq!(limits, Limits { memory_bytes: Some(2000), cpus: Some(1.5) });
    }

    #[test]
    fn version_1_has_a_folder_for_each_controller() {
        let root = tree(&[
            ("memory/x/memory.limit_in_bytes", "3000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu,cpuacct/x/cpu.cfs_quota_us", "50000\n"),
            ("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        let groups = "3:memory:/x\n2:cpu,cpuacct:/x\n1:name=systemd:/x\n0::/\n";
        let limits = Limits::read(groups, root.path());
        assert_eq!(limits, Limits { memory_bytes: Some(3000), cpus: Some(0.5) });
    }

    #[test]
    fn names_from_outside_a_container_lead_to_its_mount() {
        let root = tree(&[("memory.max", "4000")]);
        let limits = Limits::read("0::/../outside/name\n", root.path());
        assert_eq!(limits.memory_bytes, Some(4000));
        assert_eq!(Limits::read("nonsense\n:::\n", root.path()).cpus, None);
    }
}
