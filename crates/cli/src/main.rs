//! `smidgen`: the command line.
//!
//! What a person types, sees and can stop. It is not a place for arithmetic or decisions: every
//! command reads options, calls one library crate and shows what came back. Data goes to standard
//! output, logs and errors to standard error.
//!
//! Read first: [`cli::Cli`] (the verbs), [`out::Table`] (how figures are shown) and [`exit::report`]
//! (how a failure becomes a message and a code).

mod cli;
mod commands;
mod exit;
mod logs;
mod out;
mod report;
mod signals;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    exit::install_panic_hook();
    // Help and usage errors end the process here, with code 0 or 2.
    let cli = cli::Cli::parse();
    cli.log.begin();
    ExitCode::from(cli::run(cli).unwrap_or_else(|error| exit::report(&error)))
}
