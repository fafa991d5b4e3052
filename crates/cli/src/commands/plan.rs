//! `plan`: the bytes of a run, before anything is spent.

use std::path::PathBuf;

use anyhow::Result;
use smidgen_store::{Bytes, RUN_TOML};
use smidgen_train::{Config, Machine, Relax, Silent, outlook, run_facts, source_facts};

use super::train::{self, budget_code};
use crate::exit::Fault;
use crate::out;

/// Show what a run would need: bytes by use, what was changed to fit, which contexts fit.
#[derive(Debug, clap::Args)]
#[command(after_help = "SOURCE is what `train` takes, or a run directory. Nothing is written.\n\
    By itself a plan changes only what leaves the losses as they are, to rounding: the chunk of the \
    loss, blocks computed again, micro-batches cut and accumulated, gradients streamed where no clip \
    needs them all. The rest is offered, and taken with `--allow`.\n\nExamples:\n  \
    smidgen plan notes/ --memory 1GiB\n  \
    smidgen plan config.toml --memory 2.5GiB --tier T1 --allow state,context\n  \
    smidgen plan runs/notes --memory 512MiB --json\n\n\
    Exit code 4 where no plan that is allowed fits.")]
pub(crate) struct Args {
    /// A folder or file of text, a configuration, or a run directory
    #[arg(value_name = "PATH|CONFIG|RUN_DIR")]
    source: PathBuf,
    #[command(flatten)]
    budget: Budget,
    /// Compute threads [default: all this process may use]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Set a key of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// What a run may use, and what it may give up for that.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Budget {
    /// The most private memory of the process, such as 2GiB [default: three quarters of all]
    #[arg(long, value_name = "BYTES")]
    memory: Option<Bytes>,
    /// What may change where nothing else fits: context, precision, state
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = relax)]
    allow: Vec<Relax>,
    /// The context by name: T1 4K, T2 8K, T3 16K, T4 32K, T5 64K, T6 128K tokens
    #[arg(long, value_name = "TIER")]
    tier: Option<String>,
}

fn relax(text: &str) -> Result<Relax, String> {
    let names = Relax::ALL.map(Relax::name).join(", ");
    let found = Relax::ALL.into_iter().find(|relax| relax.name() == text);
    found.ok_or_else(|| format!("expected one of: {names}"))
}

impl Budget {
    /// Puts the options above the keys.
    ///
    /// # Errors
    /// A tier that is unknown or beyond the model.
    pub(crate) fn apply(&self, config: &mut Config) -> Result<()> {
        config.memory = self.memory.or(config.memory);
        if !self.allow.is_empty() {
            config.allow.clone_from(&self.allow);
        }
        self.tier.as_deref().map_or(Ok(()), |tier| Ok(config.set_tier(tier)?))
    }

    /// The same as changes of a run's configuration.
    ///
    /// # Errors
    /// For a tier: the context of a run that has begun is fixed.
    pub(crate) fn changes(&self) -> Result<Vec<String>> {
        if self.tier.is_some() {
            return Err(Fault::usage("`--tier`: expected a new run, got `--resume`").into());
        }
        let names: Vec<String> =
            self.allow.iter().map(|relax| format!("{:?}", relax.name())).collect();
        let allow = (!names.is_empty()).then(|| format!("allow=[{}]", names.join(", ")));
        Ok(self
            .memory
            .map(|memory| format!("memory={}", memory.0))
            .into_iter()
            .chain(allow)
            .collect())
    }
}

/// Gives the exit code: 0, or 4 where nothing fits.
pub(crate) fn run(args: Args) -> Result<u8> {
    let (machine, progress) = (Machine::detect(), &mut Silent);
    let (mut config, facts) = if args.source.join(RUN_TOML).is_file() {
        let (config, facts) = run_facts(&args.source, &args.sets, machine, progress)?;
        (config, Some(facts))
    } else {
        (Config::read(&args.source, &args.sets)?, None)
    };
    config.threads = args.threads.or(config.threads);
    args.budget.apply(&mut config)?;
    let (config, facts) = match facts {
        Some(facts) => (config, facts),
        None => source_facts(&config, machine, progress)?,
    };
    let outlook = outlook(&config, &facts, progress)?;
    match args.json {
        true => out::json(&outlook)?,
        false => out::line(train::outlook(&outlook))?,
    }
    Ok(budget_code(&outlook))
}
