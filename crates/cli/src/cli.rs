//! The verbs and what is common to them.

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands::bench;

/// Train, fine-tune and link language models on a byte budget.
#[derive(Debug, Parser)]
#[command(name = "smidgen", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Bench(bench::Args),
}

/// Reads the command line; help and usage errors end the process here, with code 0 or 2.
pub(crate) fn parse() -> Result<Cli> {
    Ok(Cli::parse())
}

/// Runs what was asked for.
///
/// # Errors
/// Whatever the command says.
pub(crate) fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Bench(args) => bench::run(args),
    }
}
