//! The verbs and what is common to them.

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands::{
    bench, eval, export, fire, generate, link, lr_find, plan, report, runs, train,
};
use crate::logs;

/// Train, fine-tune and link language models on a byte budget.
#[derive(Debug, Parser)]
#[command(
    name = "smidgen",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  smidgen train .\n  \
        smidgen generate runs/NAME --prompt \"Once upon a time\"\n\n\
        Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 unreadable input,\n\
        4 budget cannot be met, 130 interrupted and saved"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: logs::Args,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Train(train::Args),
    LrFind(lr_find::Args),
    Generate(generate::Args),
    Eval(eval::Args),
    Export(export::Args),
    Fire(fire::Args),
    Plan(plan::Args),
    Link(link::Args),
    Runs(runs::Args),
    Report(report::Args),
    Bench(bench::Args),
}

/// Runs what was asked for, and gives the exit code.
///
/// # Errors
/// Whatever the command says.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    match cli.verb {
        Verb::Train(args) => return train::run(args),
        Verb::LrFind(args) => return lr_find::run(&args),
        Verb::Generate(args) => generate::run(args)?,
        Verb::Eval(args) => eval::run(args)?,
        Verb::Export(args) => export::run(args)?,
        Verb::Fire(args) => fire::run(args)?,
        Verb::Link(args) => return link::run(args),
        Verb::Plan(args) => return plan::run(args),
        Verb::Runs(args) => runs::run(args)?,
        Verb::Report(args) => report::run(&args)?,
        Verb::Bench(args) => bench::run(args)?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn options_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_does_something_shows_an_example() {
        fn check(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!leaf || after.contains("Example"), "`{}`", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
