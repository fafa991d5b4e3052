//! `runs`: the run directories, at a glance, one by one, side by side, and what is left of others.

mod clean;
mod compare;
mod filter;
mod list;
mod row;
mod show;

use anyhow::Result;
use clap::Subcommand;

/// List, look at, compare and clean run directories.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    List(list::Args),
    Show(show::Args),
    Compare(compare::Args),
    Clean(clean::Args),
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.what {
        What::List(args) => list::run(&args),
        What::Show(args) => show::run(&args),
        What::Compare(args) => compare::run(&args),
        What::Clean(args) => clean::run(&args),
    }
}
