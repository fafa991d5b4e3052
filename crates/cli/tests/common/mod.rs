//! A small corpus, a small run, and the program.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a corpus in `text/`, and room for runs.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().expect("a temporary folder") };
        let folder = place.path("text");
        fs::create_dir(&folder).expect("a new folder");
        let animals = ["cat", "dog", "owl", "fox", "hen"];
        for (i, animal) in animals.iter().enumerate() {
            let lines = (0..60).map(|n| {
                let other = animals[(i + n) % animals.len()];
                format!("{n}. The {animal} met the {other}, and they ate {} apples.\n", n * 7 % 13)
            });
            fs::write(folder.join(format!("{animal}.txt")), lines.collect::<String>())
                .expect("a new file");
        }
        place
    }

    /// A path inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, called from inside.
    pub(crate) fn smidgen(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.dir.path()).args(args).env_remove("CI");
        command
    }

    /// The program with a small run of `steps` on the corpus.
    pub(crate) fn train(&self, out: &str, steps: u64, more: &[&str]) -> Command {
        let mut command = self.smidgen(&["train", "text", "--out", out, "--threads", "1"]);
        command.args(small(steps)).args(more);
        command
    }
}

/// The program under test.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_smidgen")
}

/// Options of a run that takes about a second.
pub(crate) fn small(steps: u64) -> Vec<String> {
    let keys = [
        "model.preset=tiny".into(),
        "data.vocab=300".into(),
        "train.batch=2".into(),
        "train.context=32".into(),
        format!("train.steps={steps}"),
    ];
    keys.into_iter().flat_map(|key: String| ["--set".to_string(), key]).collect()
}

/// Standard output of a command that has to succeed.
pub(crate) fn stdout(mut command: Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).expect("text is UTF-8")
}

/// The object on the last line, which has to be the only line.
pub(crate) fn object(command: Command) -> Value {
    let text = stdout(command);
    assert_eq!(text.lines().count(), 1, "one object on one line: {text}");
    serde_json::from_str(&text).expect("an object")
}

/// Fails with this code, and this in the message on standard error; nothing panics.
#[track_caller]
pub(crate) fn fails(mut command: Command, code: i32, message: &str) {
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(message), "expected `{message}`, got: {said}");
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("bug in smidgen") && !said.contains("panicked"), "{said}");
}

/// A file of the newest checkpoint.
pub(crate) fn newest(run: &Path, file: &str) -> PathBuf {
    let mut steps: Vec<PathBuf> = fs::read_dir(run.join("ckpt"))
        .expect("a run has checkpoints")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .collect();
    steps.sort();
    steps.pop().expect("at least one checkpoint").join(file)
}
