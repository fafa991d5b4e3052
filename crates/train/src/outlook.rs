//! What a plan says before anything is spent: its bytes, what was decided, and which contexts fit.

use std::path::Path;

use serde::Serialize;
use smidgen_data::Dataset;
use smidgen_store::{Bytes, RUN_TOML, RunView, config};

use crate::init::Init;
use crate::process::preparation_bytes;
use crate::source::{Scan, dataset_facts};
use crate::{Config, Error, Event, Facts, Machine, Plan, Progress, consider};

/// Names of context lengths, in tokens.
pub const TIERS: [(&str, usize); 6] = [
    ("T1", 4 << 10),
    ("T2", 8 << 10),
    ("T3", 16 << 10),
    ("T4", 32 << 10),
    ("T5", 64 << 10),
    ("T6", 128 << 10),
];

/// A plan, and what it would be with other contexts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// The plan, or the smallest there is where nothing fits.
    #[serde(flatten)]
    pub plan: Plan,
    /// Each tier, granted or not.
    pub tiers: Vec<Tier>,
    /// Memory the system could give now.
    pub available_bytes: u64,
}

/// A context length, and whether the memory is enough for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// Its name.
    pub name: &'static str,
    /// Tokens of a sequence.
    pub context: usize,
    /// Whether a plan fits.
    pub granted: bool,
    /// Bytes it needs, the process included, where it can be at all.
    pub needed_bytes: Option<u64>,
    /// What it changes, or why it is not granted.
    pub reason: String,
}

impl Config {
    /// Trains with the context of a tier. A model from scratch is made for it.
    ///
    /// # Errors
    /// [`Error::Value`] for an unknown tier, and for a model that is written to be made for less.
    pub fn set_tier(&mut self, name: &str) -> Result<(), Error> {
        let found = TIERS.iter().find(|(tier, _)| tier.eq_ignore_ascii_case(name));
        let Some((_, context)) = found else {
            let names: Vec<&str> = TIERS.iter().map(|(name, _)| *name).collect();
            return Err(Error::value("tier", format!("one of: {}", names.join(", ")), name));
        };
        let positions = *self.model.context.get_or_insert(*context);
        if positions < *context {
            let expected = format!("at least the {context} positions of {name}");
            return Err(Error::value("model.context", expected, positions));
        }
        self.train.context = Some(*context);
        Ok(())
    }
}

/// The configuration and the facts of a run that has begun.
///
/// # Errors
/// Those of the run's files, and of its source where its data is not made yet.
pub fn run_facts(
    dir: &Path,
    sets: &[String],
    machine: Machine,
    progress: &mut dyn Progress,
) -> Result<(Config, Facts), Error> {
    let run = RunView::open(dir)?;
    let config: Config = config::load(&run.read_text(RUN_TOML)?, &run.file(RUN_TOML), sets)?;
    let facts = match Dataset::exists(run.path()) {
        true => dataset_facts(&Dataset::open(run.path())?, machine),
        false => return source_facts(&config, machine, progress),
    };
    Ok((config, facts))
}

/// What a plan depends on, from the text of a source and from the model that it begins with, if there
/// is one; nothing is written.
///
/// # Errors
/// Those of the source and of the model.
pub fn source_facts(
    config: &Config,
    machine: Machine,
    progress: &mut dyn Progress,
) -> Result<(Config, Facts), Error> {
    let (config, _) = Init::of(config)?;
    // Nothing is prepared here: whether there is room for that is part of the plan.
    let unbounded = Config { memory: None, ..config.clone() };
    let facts = Scan::read(&unbounded, None, progress)?.facts(machine);
    Ok((config, facts))
}

/// Plans a run and its tiers without writing anything.
///
/// # Errors
/// Those of [`crate::resolve`], but for the memory: where nothing fits, the plan says so.
pub fn outlook(
    config: &Config,
    facts: &Facts,
    progress: &mut dyn Progress,
) -> Result<Outlook, Error> {
    let mut plan = consider(config, facts)?;
    if facts.tokens.is_none() {
        let text = facts.train_bytes.saturating_add(facts.val_bytes);
        let choice = &mut plan.choice;
        let preparation = preparation_bytes(text, 0, plan.config.threads.expect("settled"));
        choice.needed_bytes = choice.needed_bytes.max(preparation);
        choice.fits = choice.needed_bytes <= choice.memory_bytes;
    }
    let tiers = TIERS.map(|(name, context)| tier(config, facts, name, context));
    let available_bytes = facts.machine.available_bytes;
    let outlook = Outlook { plan, tiers: tiers.into(), available_bytes };
    progress.event(Event::Outlook(&outlook));
    Ok(outlook)
}

fn tier(config: &Config, facts: &Facts, name: &'static str, context: usize) -> Tier {
    if let Some(positions) = config.model.context.filter(|positions| *positions < context) {
        let reason = format!("the model is made for {positions}");
        return Tier { name, context, granted: false, needed_bytes: None, reason };
    }
    let mut config = config.clone();
    let planned = config.set_tier(name).and_then(|()| consider(&config, facts));
    let (granted, needed_bytes, reason) = match planned {
        Ok(plan) if plan.choice.fits && plan.context() == context => {
            (true, Some(plan.choice.needed_bytes), plan.choice.levers.join(", "))
        }
        Ok(plan) if plan.choice.fits => (false, None, "only with a shorter context".into()),
        Ok(plan) => {
            let needed = plan.choice.needed_bytes;
            let over = Bytes(needed - plan.choice.memory_bytes);
            (false, Some(needed), format!("{over} too much"))
        }
        Err(error) => (false, None, error.first_line()),
    };
    Tier { name, context, granted, needed_bytes, reason }
}
