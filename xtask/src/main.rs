//! Chores of the workspace: `cargo xtask soak`.

// A chore talks to the person who started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod log;
mod soak;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>

chores:
  soak    the long test tier; its output is kept in docs/results/soak.log

example: cargo xtask soak";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["soak"] => soak::soak(),
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
