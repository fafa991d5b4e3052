//! Puts the commit into release builds, for `env.json`. A debug build has none: it would be built
//! anew after every commit.

use std::env::var;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    // A packed source has no repository, and then the commit is not known.
    if let (Some(commit), Some(log)) =
        (git(&["rev-parse", "HEAD"]), git(&["rev-parse", "--git-path", "logs/HEAD"]))
    {
        let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
        println!("cargo::rerun-if-changed={log}");
        println!("cargo::rustc-env=SMIDGEN_COMMIT={commit}{}", if dirty { "-dirty" } else { "" });
    }
}

/// What git says, if it says anything.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (output.status.success() && !text.is_empty()).then_some(text)
}
