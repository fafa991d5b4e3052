//! The long tier: a list of steps, run one after another, each reported as passed, failed or
//! skipped by name. A failed step does not stop the others; it fails the whole at the end.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

use crate::log::Log;

/// One program of the long tier.
struct Step {
    name: &'static str,
    /// Arguments of `cargo` that succeed where the step's program is installed.
    probe: &'static [&'static str],
    /// Arguments of `cargo` that are the step.
    run: &'static [&'static str],
    /// Environment of the step, besides that of the chore.
    env: &'static [(&'static str, &'static str)],
}

const STEPS: &[Step] = &[
    Step {
        name: "full kill and fault counts",
        probe: &["--version"],
        run: &["test", "--workspace", "--release", "--", "--ignored", "soak_"],
        env: &[],
    },
    Step {
        name: "every test optimised, 4000 cases of every property",
        probe: &["--version"],
        run: &["test", "--workspace", "--release"],
        env: &[("PROPTEST_CASES", "4000")],
    },
    Step {
        name: "a million hostile inputs for every reader",
        probe: &["--version"],
        run: &["run", "--release", "-p", "xtask", "--", "fuzz"],
        env: &[],
    },
    Step {
        name: "each feature alone (cargo-hack)",
        probe: &["hack", "--version"],
        run: &["hack", "check", "--workspace", "--each-feature", "--no-dev-deps"],
        env: &[],
    },
    Step {
        name: "dependency licences and advisories (cargo-deny)",
        probe: &["deny", "--version"],
        run: &["deny", "check"],
        env: &[],
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped, not installed",
        }
    }
}

/// Runs every step; the exit code is 1 where one failed.
pub(crate) fn soak() -> anyhow::Result<ExitCode> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in a workspace")?;
    let mut log = Log::create(root, &root.join("docs/results/soak.log"))?;
    log.machine()?;
    let mut outcomes = Vec::new();
    for step in STEPS {
        let env: String = step.env.iter().map(|(key, value)| format!("{key}={value} ")).collect();
        log.line(&format!("== {}: {env}cargo {}", step.name, step.run.join(" ")))?;
        let outcome = run(root, step, &mut log)?;
        log.line(&format!("== {}: {}", step.name, outcome.word()))?;
        outcomes.push(outcome);
    }
    log.line("")?;
    for (step, outcome) in STEPS.iter().zip(&outcomes) {
        log.line(&format!("{:<24}{}", outcome.word(), step.name))?;
    }
    let failed = outcomes.contains(&Outcome::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run(root: &Path, step: &Step, log: &mut Log) -> anyhow::Result<Outcome> {
    let installed = cargo(root, step.probe).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        return Ok(Outcome::Skipped);
    }
    // One pipe for both streams, so that the log has their lines in order.
    let (reader, writer) = io::pipe()?;
    let mut command = cargo(root, step.run);
    command.envs(step.env.iter().copied());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", step.name))?;
    // The command holds the pipe's writing ends; with them open the reading would not end.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        log.line(&String::from_utf8_lossy(&line?))?;
    }
    let passed = child.wait()?.success();
    Ok(if passed { Outcome::Passed } else { Outcome::Failed })
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).current_dir(root).env("CARGO_TERM_COLOR", "never").stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(probe: &'static [&'static str], run: &'static [&'static str]) -> (Outcome, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("soak.log");
        let mut log = Log::create(folder.path(), &path).unwrap();
        let outcome =
            super::run(folder.path(), &Step { name: "test", probe, run, env: &[] }, &mut log);
        (outcome.unwrap(), std::fs::read_to_string(&path).unwrap())
    }

    #[test]
    fn steps_pass_fail_and_are_skipped() {
        let (passed, log) = outcome(&["--version"], &["--version"]);
        assert!(passed == Outcome::Passed && log.starts_with("cargo "), "{log}");
        let (failed, log) = outcome(&["--version"], &["no-such-chore"]);
        assert!(failed == Outcome::Failed && log.contains("no-such-chore"), "{log}");
        let (skipped, log) = outcome(&["no-such-chore"], &["--version"]);
        assert!(skipped == Outcome::Skipped && log.is_empty(), "{log}");
    }
}
