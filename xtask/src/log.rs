//! A kept log: what the terminal shows, without what belongs to one machine's folders.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// Lines of a build that say nothing about its result.
const NOISE: [&str; 6] =
    ["Compiling", "Downloading", "Downloaded", "Updating", "Locking", "Blocking"];

/// A log file that is shown while it is written.
pub(crate) struct Log {
    file: File,
    /// What is replaced, longest first.
    places: Vec<(String, &'static str)>,
}

impl Log {
    /// Begins a log for the workspace at `root`.
    pub(crate) fn create(root: &Path, path: &Path) -> anyhow::Result<Self> {
        let folder = path.parent().context("a log lies in a folder")?;
        std::fs::create_dir_all(folder)?;
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Log { file, places: places(root) })
    }

    /// Which revision, compiler and processor the log is about.
    pub(crate) fn machine(&mut self) -> anyhow::Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let revision = output("git", &["describe", "--always", "--dirty"]);
        let compiler = output("rustc", &["--version"]);
        for (name, value) in [("revision", revision), ("compiler", compiler), ("cpu", cpu())] {
            self.line(&format!("{name}: {}", value.as_deref().unwrap_or("unknown")))?;
        }
        self.line(&format!("threads: {cores}"))
    }

    /// Shows and keeps one line, unless it is noise.
    pub(crate) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        if NOISE.iter().any(|word| line.trim_start().starts_with(word)) {
            return Ok(());
        }
        let line = neutral(line, &self.places);
        println!("{line}");
        writeln!(self.file, "{line}").context("cannot write the log")
    }
}

/// The folders of this machine that a build's output names, and what stands for them.
fn places(root: &Path) -> Vec<(String, &'static str)> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| value.len() > 1);
    let named = [
        (variable("CARGO_TARGET_DIR"), "target"),
        (variable("CARGO_HOME"), "~/.cargo"),
        (Some(root.display().to_string()), "."),
        (variable("HOME"), "~"),
    ];
    let mut places: Vec<_> = named.into_iter().filter_map(|(path, to)| Some((path?, to))).collect();
    places.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    places
}

fn neutral(line: &str, places: &[(String, &'static str)]) -> String {
    places.iter().fold(line.to_string(), |line, (path, to)| line.replace(path, to))
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_folders_leave_the_log() {
        let places = [("/home/ada/smidgen".to_string(), "."), ("/home/ada".to_string(), "~")];
        let line = "Running /home/ada/smidgen/a and /home/ada/.x";
        assert_eq!(neutral(line, &places), "Running ./a and ~/.x");
    }

    #[test]
    fn noise_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results/soak.log");
        let mut log = Log::create(dir.path(), &path).unwrap();
        for line in ["   Compiling a v1", "test a ... ok"] {
            log.line(line).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "test a ... ok\n");
    }
}
