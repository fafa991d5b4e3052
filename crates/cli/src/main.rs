//! `smidgen`: the command line.
//!
//! What a person types, sees and can stop. It is not a place for arithmetic or decisions: every
//! command reads options, calls one library crate and shows what came back. Data goes to standard
//! output, everything else to standard error.
//!
//! Read first: [`cli::Cli`] (the verbs), [`out::Table`] (how figures are shown) and [`exit::report`]
//! (how a failure becomes a message and a code).

mod cli;
mod commands;
mod exit;
mod machine;
mod out;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::install_panic_hook();
    match cli::parse().and_then(cli::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
