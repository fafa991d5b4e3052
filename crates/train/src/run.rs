//! The verbs: begin a run, go on with one, see what one would be.

mod extend;
mod range;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Value, json};
use smidgen_data::Dataset;
use smidgen_store::{Checkpoint, Disk, Files, PLAN_JSON, REQUEST_JSON, RUN_TOML, RunDir, config};

pub use self::range::{lr_find_run, lr_find_source};

use self::extend::is_lengthening;
use self::range::find_rate;
use crate::compiling::check_sandbox;
use crate::fit::{Around, Course, go};
use crate::init::{Init, first_values};
use crate::logged::Logged;
use crate::outcome::OUTCOME_JSON;
use crate::paging::with_pages;
use crate::plan::settle;
use crate::request::Request;
use crate::source::{Scan, dataset_facts};
use crate::{
    Config, Error, Event, LanguageModel, Machine, Outcome, Outlook, Plan, Progress, Rate, Recipe,
    Trainer, outlook, promise, resolve, source_facts,
};

/// Keys that a resumed run may change freely: they do not touch the course of its numbers.
const FREE_KEYS: [&str; 8] = [
    "threads",
    "memory",
    "allow",
    "data.path",
    "train.max_minutes",
    "train.max_steps",
    "validate.allow_unsandboxed",
    "track.tensorboard",
];

/// What a run is done with.
pub struct Context<'a> {
    /// The seam every write goes through.
    pub files: Arc<dyn Files>,
    /// Who is told.
    pub progress: &'a mut dyn Progress,
    /// Set to end the run after its present step.
    pub stop: &'a AtomicBool,
    /// Where it computes.
    pub machine: Machine,
}

impl<'a> Context<'a> {
    /// On the real disk and this machine.
    pub fn new(progress: &'a mut dyn Progress, stop: &'a AtomicBool) -> Context<'a> {
        Context { files: Arc::new(Disk), progress, stop, machine: Machine::detect() }
    }
}

/// What a resumed run is to do otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// `key=value` arguments over the run's configuration.
    pub sets: Vec<String>,
    /// Goes on although the configuration changed.
    pub override_config: bool,
    /// Steps that a finished run is lengthened by.
    pub extend: Option<u64>,
}

/// Plans a run without writing anything.
///
/// # Errors
/// Those of the source and of [`outlook`].
pub fn dry_run(
    config: &Config,
    machine: Machine,
    progress: &mut dyn Progress,
) -> Result<Outlook, Error> {
    let progress = &mut Logged(progress);
    let (config, facts) = source_facts(config, machine, progress)?;
    outlook(&config, &facts, progress)
}

/// A folder for a new run: `runs/NAME` after the source, with a number where that is taken.
pub fn fresh_run_dir(parent: &Path, source: &Path) -> PathBuf {
    let full = source.canonicalize().unwrap_or_else(|_| source.to_path_buf());
    let stem = if full.is_file() { full.file_stem() } else { full.file_name() };
    let name = stem.map_or("run".into(), |name| name.to_string_lossy().into_owned());
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.clone()).chain(numbered).map(|name| parent.join(name));
    names.find(|path| !path.exists()).expect("numbers do not end")
}

/// Begins a run in the new or empty folder `dir` and trains it to its end, or until it is stopped.
///
/// # Errors
/// Those of configuration, source, store and engine. Where the source or the configuration is at
/// fault nothing is left behind.
pub fn train(config: &Config, dir: &Path, cx: Context<'_>) -> Result<Outcome, Error> {
    let started = Instant::now();
    let mut logged = Logged(cx.progress);
    let cx = Context { progress: &mut logged, ..cx };
    let mut config = settle(config, &cx.machine);
    check_sandbox(&config)?;
    let source = config.data.path.take().ok_or(Error::NoSource)?;
    // The run may be resumed from another folder.
    let absolute = source.canonicalize();
    config.data.path = Some(absolute.map_err(|_| smidgen_data::Error::Missing { path: source })?);
    for file in &mut config.data.contamination {
        // One that is not there is named when it is read.
        *file = file.canonicalize().unwrap_or_else(|_| std::mem::take(file));
    }
    let run = RunDir::create(cx.files.clone(), dir, &config::to_text(&config)?)?;
    let prepared = prepare(&config, &run, cx.machine, cx.progress);
    let (plan, dataset) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            if is_input_error(&error) {
                // Nothing was spent: a folder that cannot be trained on leaves no run.
                let _ = cx.files.remove_dir_all(dir);
            }
            return Err(error);
        }
    };
    begin(plan, dataset, &run, None, cx, started)
}

/// Whether the person's input is at fault, and not the disk.
fn is_input_error(error: &Error) -> bool {
    !matches!(
        error,
        Error::Store(smidgen_store::Error::Io { .. })
            | Error::Data(smidgen_data::Error::Store(smidgen_store::Error::Io { .. }))
    )
}

/// From the source to data and plan; the configuration is on record before the data is.
fn prepare(
    config: &Config,
    run: &RunDir,
    machine: Machine,
    progress: &mut dyn Progress,
) -> Result<(Plan, Dataset), Error> {
    let exclude = run.path().canonicalize().unwrap_or_else(|_| run.path().to_path_buf());
    let (config, init) = Init::of(config)?;
    let scan = Scan::read(&config, Some(&exclude), progress)?;
    let plan = resolve(&config, &scan.facts(machine))?;
    run.write_text(RUN_TOML, &config::to_text(&plan.config)?)?;
    Request::new(&plan.config, &scan, init.as_ref())?.write(run)?;
    if let Some(init) = &init {
        init.write(run, plan.threads())?;
    }
    let vocab = plan.config.data.vocab.expect("a plan's configuration is complete");
    let tokenizer = init.as_ref().map(|init| &init.found.tokenizer);
    let dataset = scan.prepare(run, vocab, tokenizer, plan.threads(), progress)?;
    let facts = dataset_facts(&dataset, machine);
    let tokens = facts.tokens.expect("the text is encoded");
    progress.event(Event::Prepared {
        vocab: tokens.vocab,
        train_tokens: tokens.train,
        val_tokens: tokens.val,
    });
    let mut exact = resolve(&plan.config, &facts)?;
    // What was decided before the text was encoded is written down by now, and no longer a change.
    (exact.choice.levers, exact.choice.rejected) = (plan.choice.levers, plan.choice.rejected);
    Ok((exact, dataset))
}

/// Goes on with the run in `dir`: from its newest valid checkpoint, from step 0 or from its source.
/// A finished run stays as it is, and its object is given again.
///
/// # Errors
/// [`Error::ConfigChanged`] without `override_config`; those of [`train`].
pub fn resume(dir: &Path, changes: &Changes, cx: Context<'_>) -> Result<Outcome, Error> {
    let started = Instant::now();
    let mut logged = Logged(cx.progress);
    let cx = Context { progress: &mut logged, ..cx };
    let run = RunDir::open(cx.files.clone(), dir)?;
    let text = run.read_text(RUN_TOML)?;
    let mut config: Config = config::load(&text, &run.file(RUN_TOML), &changes.sets)?;
    let checkpoint = newest(&run, cx.progress)?;
    if let Some(more) = changes.extend {
        let ended = checkpoint.as_ref().filter(|_| run.file(OUTCOME_JSON).exists());
        let at = ended.ok_or_else(|| Error::NotFinished { run: dir.to_path_buf() })?.step();
        extend::lengthen(&mut config, at, more)?;
    } else if let Some(outcome) = finished(&run, &config, checkpoint.as_ref(), cx.progress)? {
        let (outcome, run) = (&outcome, run.path());
        let text = format!(
            "the run is finished; nothing to do (it ended at step {}; `--extend N` makes it longer)",
            outcome.steps
        );
        cx.progress.event(Event::Notice(&text));
        cx.progress.event(Event::Done { outcome, run });
        return Ok(outcome.clone());
    }
    // What a checkpoint was made with is never made again: it would not be the same.
    let (plan, dataset) = if checkpoint.is_some() || Dataset::exists(run.path()) {
        let dataset = Dataset::open(run.path())?;
        (resolve(&config, &dataset_facts(&dataset, cx.machine))?, dataset)
    } else {
        prepare(&config, &run, cx.machine, cx.progress)?
    };
    let from = match checkpoint {
        Some(checkpoint) => {
            let overridden = changes.override_config;
            let diff = check_unchanged(&run, &checkpoint, &plan, &dataset, overridden)?;
            Some((checkpoint, diff))
        }
        None => None,
    };
    let changed = !changes.sets.is_empty() || changes.extend.is_some();
    if changed || from.as_ref().is_some_and(|(_, diff)| !diff.is_empty()) {
        forget(&run, &*cx.files, REQUEST_JSON)?;
    }
    begin(plan, dataset, &run, from, cx, started)
}

/// The newest valid checkpoint, with a word on those that had to be passed over.
fn newest(run: &RunDir, progress: &mut dyn Progress) -> Result<Option<Checkpoint>, Error> {
    let Some((checkpoint, skipped)) = run.newest_valid()? else { return Ok(None) };
    for skipped in skipped {
        let (bad, good) = (skipped.step, checkpoint.step());
        let text = format!(
            "the checkpoint of step {bad} cannot be used ({}); going back to step {good}",
            skipped.error
        );
        progress.event(Event::Notice(&text));
    }
    Ok(Some(checkpoint))
}

/// The object of a finished run, unless it is now to go further.
fn finished(
    run: &RunDir,
    config: &Config,
    checkpoint: Option<&Checkpoint>,
    progress: &mut dyn Progress,
) -> Result<Option<Outcome>, Error> {
    if !run.file(OUTCOME_JSON).exists() {
        return Ok(None);
    }
    let Some(checkpoint) = checkpoint else { return Ok(None) };
    let diff = config::diff(&saved_config(checkpoint), &config::to_table(config)?);
    let mut outcome: Outcome = match run.read_json(OUTCOME_JSON) {
        Ok(outcome) => outcome,
        Err(error) => {
            progress.event(Event::Notice(&format!("{error}; it is made again")));
            return Ok(None);
        }
    };
    let matters = |line: &String| matters(line) && !is_lengthening(line, config, checkpoint);
    if diff.iter().any(matters) || may_go_further(config, &outcome) {
        return Ok(None);
    }
    if !outcome.run_dir.exists() {
        // The folder was moved since.
        outcome.run_dir = run.path().to_path_buf();
    }
    Ok(Some(outcome))
}

/// Whether a line of a difference is about the course of the numbers.
fn matters(line: &str) -> bool {
    let free = FREE_KEYS.iter().any(|key| line.starts_with(&format!("`{key}`:")));
    // A horizon that was still open when the checkpoint was made.
    !free && !line.starts_with("`train.steps`: (none) ->")
}

/// Whether the limits were raised, and there are steps left in the schedule.
fn may_go_further(config: &Config, outcome: &Outcome) -> bool {
    let train = &config.train;
    let ends = [train.steps, train.max_steps].into_iter().flatten();
    let seconds = train.max_minutes.map_or(f64::INFINITY, |minutes| minutes * 60.0);
    let has_room = ends.min().is_none_or(|end| outcome.steps < end) && outcome.seconds < seconds;
    has_room && !outcome.stopped_early
}

fn saved_config(checkpoint: &Checkpoint) -> toml::Table {
    let text = checkpoint.manifest().facts.get("config").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Whether a checkpoint was made with the dataset of this name.
pub(crate) fn same_dataset(checkpoint: &Checkpoint, sha256: &str) -> Result<(), Error> {
    let saved = checkpoint.manifest().facts.get("dataset").and_then(Value::as_str);
    if saved == Some(sha256) {
        return Ok(());
    }
    let (expected, got) = (sha256.to_string(), saved.unwrap_or("none").to_string());
    Err(Error::Foreign { step: checkpoint.step(), what: "dataset".into(), expected, got })
}

/// The lines in which the configuration differs from the checkpoint's, if it may.
fn check_unchanged(
    run: &RunDir,
    checkpoint: &Checkpoint,
    plan: &Plan,
    dataset: &Dataset,
    override_config: bool,
) -> Result<Vec<String>, Error> {
    let step = checkpoint.step();
    same_dataset(checkpoint, &dataset.sha256)?;
    let mut diff = config::diff(&saved_config(checkpoint), &config::to_table(&plan.config)?);
    diff.retain(|line| matters(line) && !is_lengthening(line, &plan.config, checkpoint));
    if override_config && diff.iter().any(|line| line.starts_with("`data.")) {
        let reason = "the data is prepared already".to_string();
        return Err(Error::CannotOverride { step, diff, reason });
    }
    if diff.is_empty() || override_config {
        return Ok(diff);
    }
    Err(Error::ConfigChanged { step, diff, path: run.file(RUN_TOML) })
}

/// What a checkpoint's manifest keeps of the run.
fn facts(config: &Config, dataset: &Dataset) -> Result<Value, Error> {
    Ok(json!({ "config": config::to_text(config)?, "dataset": dataset.sha256 }))
}

/// The common end of [`train`] and [`resume`].
fn begin(
    plan: Plan,
    dataset: Dataset,
    run: &RunDir,
    from: Option<(Checkpoint, Vec<String>)>,
    mut cx: Context<'_>,
    started: Instant,
) -> Result<Outcome, Error> {
    cx.progress.event(Event::Plan(&plan));
    if from.is_some() && plan.config.train.lr == Some(Rate::Auto) {
        return Err(Error::value("train.lr", "a number for a run that has begun", "`auto`"));
    }
    let plan = find_rate(plan, &dataset, run.path(), &mut cx)?;
    let device = promise::device(&plan, &cx.machine);
    let device = with_pages(device, &plan, run.path(), &*cx.files)?;
    let mut params = plan.no_params();
    let first = first_values(run.path(), &plan.config);
    let model = LanguageModel::new(&device, &plan, &dataset, &mut params)?;
    // A checkpoint stands for itself.
    let mut model = model.starting_from(first.filter(|_| from.is_none()));
    let mut trainer = Trainer::new(&device, recipe(&plan), &mut model, params)?;
    if let Some((checkpoint, diff)) = from {
        let step = checkpoint.step();
        trainer.load(&checkpoint).map_err(|error| match diff.is_empty() {
            true => error,
            false => Error::CannotOverride { step, diff, reason: error.to_string() },
        })?;
        extend::check_rate(&trainer, &plan.config)?;
        extend::begin_again(&mut trainer, &plan.config)?;
        cx.progress.event(Event::Resumed { step });
    }
    // Only now is it certain that the run goes on like this.
    run.write_text(RUN_TOML, &config::to_text(&plan.config)?)?;
    forget(run, &*cx.files, OUTCOME_JSON)?;
    run.write_json(PLAN_JSON, &plan)?;
    let mut config = plan.config.clone();
    let course = course(&plan, facts(&config, &dataset)?);
    let mut fixed = |steps| {
        config.train.steps = Some(steps);
        run.write_text(RUN_TOML, &config::to_text(&config)?)?;
        facts(&config, &dataset)
    };
    let around = Around {
        run,
        progress: &mut *cx.progress,
        stop: cx.stop,
        fixed: &mut fixed,
        source: plan.config.data.path.as_deref(),
        spent_seconds: started.elapsed().as_secs_f64(),
    };
    let outcome = go(&mut trainer, &course, around)?;
    cx.progress.event(Event::Done { outcome: &outcome, run: run.path() });
    Ok(outcome)
}

/// Removes what is no longer true: the outcome of a run that goes on, the request of one that goes
/// on otherwise.
fn forget(run: &RunDir, files: &dyn Files, name: &str) -> Result<(), Error> {
    let path = run.file(name);
    if !path.exists() {
        return Ok(());
    }
    files
        .remove_file(&path)
        .map_err(|source| Error::Store(smidgen_store::Error::Io { action: "remove", path, source }))
}

fn recipe(plan: &Plan) -> Recipe {
    Recipe {
        seed: plan.config.seed,
        compute: plan.compute(),
        policy: plan.config.policy(),
        schedule: plan.schedule(),
        groups: plan.config.optim.clone(),
        ema: plan.config.train.ema,
        weights: plan.config.train.weights,
    }
}

fn course(plan: &Plan, facts: Value) -> Course {
    let (train, filled) = (&plan.config.train, "a plan's configuration is complete");
    Course {
        steps: train.steps,
        max_steps: train.max_steps,
        max_minutes: train.max_minutes,
        useful_steps: Some(plan.useful_steps),
        val_every: train.val_every.expect(filled),
        ckpt_every: train.ckpt_every.expect(filled),
        keep: train.keep,
        fire_at: train.fire_at.clone(),
        fire_match: train.fire_match.clone(),
        stop: plan.config.stop,
        alarm: plan.config.alarm,
        track: plan.config.track,
        facts,
    }
}
