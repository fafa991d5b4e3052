//! `train`: from a folder or a configuration to a run directory, and on from one.

mod screen;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use serde::Serialize;
use smidgen_store::Error as Store;
use smidgen_train::{
    Changes, Config, Context, Error, Machine, Outcome, Outlook, Rate, Status, dry_run, find_done,
    fresh_run_dir, resume,
};

pub(in crate::commands) use self::screen::Screen;
use super::plan::Budget;
use crate::exit::{Fault, INTERRUPTED, OVER_BUDGET};
use crate::{out, signals};

pub(super) use self::tables::{outcome, outlook, shown};

/// Where runs go that name no folder.
pub(super) const RUNS: &str = "runs";

/// Train a language model on a folder of code or text, or go on with a run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "PATH is a folder, a text file or a .jsonl file with a `text` field; everything \
    else is automatic.\nCONFIG is a .toml file. The run directory keeps tokenizer, data, checkpoints and \
    metrics.\n\nExamples:\n  smidgen train .\n  \
    smidgen train notes/ --out runs/notes --max-minutes 10\n  \
    smidgen train config.toml --set train.steps=500 --set train.lr=1e-3\n  \
    smidgen train notes/ --init model.gguf\n  \
    smidgen train --resume runs/notes\n\n\
    Ctrl-C finishes the step and saves (exit code 130); a second one ends at once."
)]
pub(crate) struct Args {
    /// A folder or file of text, or a configuration
    #[arg(value_name = "PATH|CONFIG", required_unless_present = "resume")]
    source: Option<PathBuf>,
    /// Go on with this run; a finished one stays as it is
    #[arg(long, value_name = "RUN_DIR", conflicts_with_all = ["source", "out", "dry_run", "include"])]
    resume: Option<PathBuf>,
    /// Go on although the configuration changed
    #[arg(long = "override", requires = "resume")]
    override_config: bool,
    /// Lengthen a finished run by so many steps; its schedule begins again for them
    #[arg(long, value_name = "N", requires = "resume", conflicts_with = "max_steps")]
    extend: Option<u64>,
    /// The run directory, new or empty [default: runs/NAME, after the source]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Begin with the weights, shape and tokenizer of this run or model
    #[arg(long, value_name = "RUN|MODEL", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// End by the clock, after the step that passes it
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    max_minutes: Option<f64>,
    /// End after this step
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// The learning rate; `auto` finds it with a range test and goes through one cycle
    #[arg(
        long,
        value_name = "RATE|auto",
        conflicts_with = "resume",
        allow_negative_numbers = true
    )]
    lr: Option<Rate>,
    /// Compile samples even where the system cannot lock the compiler in
    #[arg(long)]
    allow_unsandboxed: bool,
    /// Compute threads [default: all this process may use]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    budget: Budget,
    /// Take files that the rules would skip; may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Set a key of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Write TensorBoard event files as well, into RUN/events
    #[arg(long)]
    tensorboard: bool,
    /// Where a finished run was asked for just the same, name it and do nothing
    #[arg(long, conflicts_with_all = ["resume", "dry_run"])]
    skip_done: bool,
    /// Show the plan and its bytes, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one object on one line at the end; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Gives the exit code: 0, or 130 when it was interrupted and saved.
pub(crate) fn run(args: Args) -> Result<u8> {
    let stop = signals::stop_flag()?;
    let mut screen = Screen::new(args.json, stop.clone());
    let outcome = match (&args.resume, &args.source) {
        (Some(run), _) => {
            let (sets, override_config) = (args.changes()?, args.override_config);
            let changes = Changes { sets, override_config, extend: args.extend };
            resume(run, &changes, Context::new(&mut screen, &stop))
        }
        (None, source) => {
            let source = source.clone().unwrap_or_default();
            let config = args.config(&source)?;
            args.out.as_deref().map_or(Ok(()), check_out)?;
            if args.dry_run {
                return plan(&args, &config, &mut screen);
            }
            if let Some(done) = args.done(&config)? {
                return skipped(&args, &done, &mut screen);
            }
            args.train(&config, &source, &mut screen, &stop)
        }
    };
    let shown = screen.finish();
    let outcome = outcome?;
    shown?;
    if args.json {
        out::json(&outcome)?;
    }
    Ok(if outcome.status == Status::Interrupted { INTERRUPTED } else { 0 })
}

/// Names the run that did it already.
fn skipped(args: &Args, done: &Outcome, screen: &mut Screen) -> Result<u8> {
    screen.say(format_args!("already done: {}; nothing to do", shown(&done.run_dir)));
    screen.finish()?;
    if args.json {
        out::json(&Skipped { skipped: true, outcome: done })?;
    }
    Ok(0)
}

/// The object of a run that was done before.
#[derive(Serialize)]
struct Skipped<'a> {
    skipped: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// A run directory is a new or empty folder below folders.
fn check_out(dir: &Path) -> Result<()> {
    match dir.ancestors().find(|path| path.exists()) {
        Some(path) if !path.is_dir() => {
            let text = format!(
                "`--out`: expected a new or empty folder, but {} is a file",
                path.display()
            );
            Err(Fault::usage(text).into())
        }
        _ => Ok(()),
    }
}

fn plan(args: &Args, config: &Config, screen: &mut Screen) -> Result<u8> {
    let outlook = dry_run(config, Machine::detect(), screen);
    screen.finish()?;
    let outlook = outlook?;
    if args.json {
        out::json(&outlook)?;
    }
    Ok(budget_code(&outlook))
}

/// 0, or 4 for a plan that does not fit.
pub(super) fn budget_code(outlook: &Outlook) -> u8 {
    if outlook.plan.choice.fits { 0 } else { OVER_BUDGET }
}

impl Args {
    /// The outcome of a finished run beside the new one, where such a one is to be kept.
    fn done(&self, config: &Config) -> Result<Option<Outcome>> {
        let beside = self.out.as_deref().map(|out| out.parent().unwrap_or(out));
        let parent = match beside {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new(RUNS),
        };
        Ok(if self.skip_done { find_done(config, parent, Machine::detect())? } else { None })
    }

    /// Trains into the folder that was named, or into a fresh one.
    fn train(
        &self,
        config: &Config,
        source: &Path,
        screen: &mut Screen,
        stop: &AtomicBool,
    ) -> Result<Outcome, Error> {
        loop {
            let fresh = || fresh_run_dir(Path::new(RUNS), source);
            let dir = self.out.clone().unwrap_or_else(fresh);
            match smidgen_train::train(config, &dir, Context::new(screen, stop)) {
                // Another process took the same fresh name in this moment.
                Err(Error::Store(Store::RunExists { .. } | Store::InUse { .. }))
                    if self.out.is_none() => {}
                other => return other,
            }
        }
    }

    /// The configuration as far as a person wrote it; options stand above keys.
    fn config(&self, source: &Path) -> Result<Config> {
        let mut config = Config::read(source, &self.sets)?;
        config.threads = self.threads.or(config.threads);
        self.budget.apply(&mut config)?;
        config.model.init = self.init.clone().or(config.model.init);
        config.train.max_minutes = self.max_minutes.or(config.train.max_minutes);
        config.train.max_steps = self.max_steps.or(config.train.max_steps);
        config.train.lr = self.lr.or(config.train.lr);
        config.validate.allow_unsandboxed |= self.allow_unsandboxed;
        config.track.tensorboard |= self.tensorboard;
        config.data.include.extend(self.include.iter().cloned());
        Ok(config)
    }

    /// The same options as changes of a run's configuration.
    fn changes(&self) -> Result<Vec<String>> {
        let mut sets = self.sets.clone();
        sets.extend(self.budget.changes()?);
        sets.extend(self.threads.map(|threads| format!("threads={threads}")));
        sets.extend(self.tensorboard.then(|| "track.tensorboard=true".to_string()));
        // With a decimal point, because the key takes a fraction.
        sets.extend(self.max_minutes.map(|minutes| format!("train.max_minutes={minutes:?}")));
        if self.allow_unsandboxed {
            sets.push("validate.allow_unsandboxed=true".into());
        }
        sets.extend(self.max_steps.map(|steps| format!("train.max_steps={steps}")));
        Ok(sets)
    }
}
