//! Chores of the workspace: `cargo xtask soak`, `fuzz`, `tables`.

// A chore talks to the person who started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod fuzz;
mod log;
mod soak;
mod tables;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>

chores:
  soak    the long test tier; its output is kept in docs/results/soak.log
  fuzz    [--cases N] [READER..]: a million hostile inputs for every reader
  tables  the tables of docs/results/ from their raw logs again

examples: cargo xtask soak
          cargo xtask fuzz --cases 10000 gguf";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["soak"] => soak::soak(),
        ["tables"] => tables::tables(),
        ["fuzz", ref arguments @ ..] => fuzz::fuzz(arguments),
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
