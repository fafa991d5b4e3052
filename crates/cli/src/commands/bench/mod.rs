//! `bench`: how fast the engine is on this machine, beside what the machine could do.

mod decode;
mod formats;
mod limits;
mod matmul;
mod optim;
mod optim_step;
mod shape;
mod step;
mod stepper;

use anyhow::Result;
use clap::Subcommand;

/// Measure the engine on this machine, beside the machine's own limits.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Step(step::Args),
    Decode(decode::Args),
    Matmul(matmul::Args),
    Optim(optim::Args),
    OptimStep(optim_step::Args),
    Formats(formats::Args),
    Limits(limits::Args),
}

/// Runs one measurement.
pub(crate) fn run(args: Args) -> Result<()> {
    match args.what {
        What::Step(args) => step::run(args),
        What::Decode(args) => decode::run(args),
        What::Matmul(args) => matmul::run(args),
        What::Optim(args) => optim::run(&args),
        What::OptimStep(args) => optim_step::run(&args),
        What::Formats(args) => formats::run(&args),
        What::Limits(args) => limits::run(args),
    }
}
