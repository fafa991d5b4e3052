//! The sandbox against programs that try to get out. The programs are the ignored tests of
//! `attacks`: the sandbox runs this very file with the name of one.

#![cfg(target_os = "linux")]

mod attacks;
mod compiling;
mod outside;

use std::path::PathBuf;

use smidgen_eval::Error;
use smidgen_eval::sandbox::{Ending, Finished, Limits, Program, Sandbox, SandboxPolicy};

/// Little enough that a test is over soon.
fn limits() -> Limits {
    Limits { cpu_s: 2, wall_ms: 10_000, processes: 16, disk_bytes: 8 << 20, ..Limits::default() }
}

/// A sandbox, or the name of what the system refuses.
fn sandbox(limits: Limits) -> Option<Sandbox> {
    match Sandbox::new(&SandboxPolicy { limits, allow_unsandboxed: false }) {
        Ok(sandbox) => Some(sandbox),
        Err(Error::Unavailable { what, source }) => skip(&format!("no {what}: {source}")),
        Err(error) => panic!("{error}"),
    }
}

#[allow(clippy::print_stderr)]
fn skip<T>(why: &str) -> Option<T> {
    eprintln!("skipped: {why}");
    None
}

fn this_program() -> PathBuf {
    std::env::current_exe().unwrap().canonicalize().unwrap()
}

/// Runs one of `attacks` inside.
fn attack(sandbox: &Sandbox, name: &str, stdin: &str) -> Finished {
    let path = this_program();
    let name = format!("attacks::{name}");
    let args = ["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"];
    let readable = [path.clone()];
    let program = Program {
        path: &path,
        args: &args,
        environment: &[],
        stdin: stdin.as_bytes(),
        readable: &readable,
    };
    sandbox.run(&program).unwrap()
}

/// An attack that finds itself repelled ends well.
fn repelled(name: &str, stdin: &str) {
    let Some(sandbox) = sandbox(limits()) else { return };
    let finished = attack(&sandbox, name, stdin);
    let output = String::from_utf8_lossy(&finished.output);
    assert_eq!(finished.ending, Ending::Exited(0), "{output}");
    assert!(output.contains("1 passed"), "{output}");
}

/// Of all living processes, arguments with a zero byte between them.
fn command_lines() -> impl Iterator<Item = String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Command lines of this program that name an attack; a copy of it may run the same one elsewhere.
fn survivors(name: &str) -> Vec<String> {
    let (own, name) = (this_program().display().to_string(), format!("attacks::{name}"));
    command_lines().filter(|line| line.starts_with(&own) && line.contains(&name)).collect()
}
