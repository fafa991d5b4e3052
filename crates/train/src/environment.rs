//! `env.json`: where, with what and by which command a run was computed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smidgen_store::{ENV_JSON, RunDir};
use smidgen_tensor::{Compute, Device};

use crate::machine::cpu_name;
use crate::{Error, Event, Progress};

/// What is computed in a run.
#[derive(Clone, Copy, Debug)]
pub struct Computed<'a> {
    /// By what kind of program: the name of an objective, or of an evaluation.
    pub objective: &'a str,
    /// Of everything that is drawn.
    pub seed: u64,
    /// The operand format.
    pub compute: Compute,
    /// What it learns from, where that is a file or a folder.
    pub source: Option<&'a Path>,
}

/// What a run was computed on. The machine's name and its user are nobody's business.
#[derive(Serialize, Deserialize)]
struct Environment {
    version: String,
    /// Commit of this program, where the build knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    objective: String,
    kernels: String,
    threads: usize,
    compute: String,
    cpu: String,
    os: String,
    /// Release of the operating system's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    os_kernel: Option<String>,
    seed: u64,
    /// Commit of the source, where it lies in a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_commit: Option<String>,
    /// The command line.
    #[serde(default)]
    command: Vec<String>,
}

/// Writes `env.json`; a resume on another kernel set says so, for its bits will differ.
///
/// [`fit`](crate::fit) does it for every run that is trained.
///
/// # Errors
/// [`Error::Store`] where it cannot be written.
pub fn note_environment(
    run: &RunDir,
    computed: &Computed<'_>,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let kernels = device.level().name();
    if let Some(before) = before(run, progress).filter(|before| before.kernels != kernels) {
        let text = format!(
            "this run was computed with `{}` kernels and goes on with `{kernels}`: \
             its numbers will differ in the last bits",
            before.kernels
        );
        progress.event(Event::Notice(&text));
    }
    let environment = Environment {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("SMIDGEN_COMMIT").map(Into::into),
        objective: computed.objective.into(),
        kernels: kernels.into(),
        threads: device.team().threads(),
        compute: computed.compute.format().name().into(),
        cpu: cpu_name(),
        os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        os_kernel: first_line(Path::new("/proc/sys/kernel/osrelease")),
        seed: computed.seed,
        source_commit: computed.source.and_then(commit_of),
        command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
    };
    Ok(run.write_json(ENV_JSON, &environment)?)
}

/// What an earlier process noted.
fn before(run: &RunDir, progress: &mut dyn Progress) -> Option<Environment> {
    match run.read_json(ENV_JSON) {
        Ok(before) => Some(before),
        Err(error) if run.file(ENV_JSON).exists() => {
            let text = format!("{error}; which kernels the run was computed with is not known");
            progress.event(Event::Notice(&text));
            None
        }
        Err(_) => None,
    }
}

fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().next()?.trim().to_string())
}

/// The commit that the repository around `path` stands at, read from its files: no program is
/// started for a note.
fn commit_of(path: &Path) -> Option<String> {
    let git = path.ancestors().map(|folder| folder.join(".git")).find(|git| git.exists())?;
    let git = if git.is_file() { linked(&git)? } else { git };
    let head = first_line(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else { return Some(head) };
    // The branches of a linked working tree lie in the repository that it belongs to.
    let common = first_line(&git.join("commondir")).map_or(git.clone(), |dir| git.join(dir));
    first_line(&common.join(name)).or_else(|| packed(&common, name))
}

/// Where the file `.git` of a linked working tree or of a submodule points.
fn linked(file: &Path) -> Option<PathBuf> {
    let line = first_line(file)?;
    Some(file.parent()?.join(line.strip_prefix("gitdir: ")?))
}

fn packed(git: &Path, name: &str) -> Option<String> {
    let refs = fs::read_to_string(git.join("packed-refs")).ok()?;
    let mut pairs = refs.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(_, of)| *of == name).map(|(commit, _)| commit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_found_however_the_repository_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let (git, source) = (dir.path().join(".git"), dir.path().join("src/deep"));
        fs::create_dir_all(&source).unwrap();
        assert_eq!(commit_of(&source).is_some(), commit_of(dir.path()).is_some());
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(commit_of(&source), None, "no commit yet");
        fs::write(git.join("packed-refs"), "# packed\nabc refs/heads/main\n").unwrap();
        assert_eq!(commit_of(&source).as_deref(), Some("abc"));
        fs::write(git.join("refs/heads/main"), "def\n").unwrap();
        assert_eq!(commit_of(&source).as_deref(), Some("def"));

        let linked = dir.path().join("linked");
        let its = git.join("worktrees/linked");
        fs::create_dir_all(&linked).unwrap();
        fs::create_dir_all(&its).unwrap();
        fs::write(linked.join(".git"), format!("gitdir: {}\n", its.display())).unwrap();
        fs::write(its.join("commondir"), "../..\n").unwrap();
        fs::write(its.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(commit_of(&linked).as_deref(), Some("def"));
        fs::write(its.join("HEAD"), "0123\n").unwrap();
        assert_eq!(commit_of(&linked).as_deref(), Some("0123"));
    }
}
