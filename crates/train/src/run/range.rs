//! Range tests as verbs: over a source or a run, without leaving anything, and before a run's first step.

use std::path::Path;

use smidgen_codec::Ledger;
use smidgen_data::Dataset;
use smidgen_store::{RUN_TOML, RunDir, RunView, Which, config};
use smidgen_tensor::Device;

use super::{Context, prepare, recipe};
use crate::init::first_values;
use crate::lr_find::{lr_find, range_test};
use crate::paging::with_pages;
use crate::plan::settle;
use crate::promise;
use crate::source::dataset_facts;
use crate::{
    Config, Error, Event, LanguageModel, LrCurve, Plan, RangeTest, Rate, Trainer, resolve,
};

/// Tries rates for a run with this configuration. The data is prepared in the folder `scratch`, new or
/// empty, which is the caller's to remove.
///
/// # Errors
/// Those of configuration, source, store and engine.
pub fn lr_find_source(
    config: &Config,
    scratch: &Path,
    test: &RangeTest,
    cx: Context<'_>,
) -> Result<LrCurve, Error> {
    test.validate()?;
    let config = settle(config, &cx.machine);
    let run = RunDir::create(cx.files.clone(), scratch, &config::to_text(&config)?)?;
    let (plan, dataset) = prepare(&config, &run, cx.machine, cx.progress)?;
    cx.progress.event(Event::Plan(&plan));
    try_rates(&plan, &dataset, run.path(), test, cx)
}

/// Tries rates from the newest checkpoint of a run on, or from its beginning. The run is only read.
///
/// # Errors
/// Those of the run's files and of the engine.
pub fn lr_find_run(dir: &Path, test: &RangeTest, cx: Context<'_>) -> Result<LrCurve, Error> {
    test.validate()?;
    let run = RunView::open(dir)?;
    let config: Config = config::parse(&run.read_text(RUN_TOML)?, &run.file(RUN_TOML))?;
    let dataset = Dataset::open(run.path())?;
    let plan = resolve(&config, &dataset_facts(&dataset, cx.machine))?;
    cx.progress.event(Event::Plan(&plan));
    // What is kept aside to be put back is in no plan.
    let device = Device::cpu_at(Ledger::new(), plan.threads(), cx.machine.level);
    let mut params = plan.no_params();
    let model = LanguageModel::new(&device, &plan, &dataset, &mut params)?;
    let mut model = model.starting_from(first_values(dir, &plan.config));
    let mut recipe = recipe(&plan);
    // A run that is only read gets no file: its state is held in memory, as what is kept aside.
    recipe.groups.iter_mut().for_each(|group| group.state_paged = false);
    let mut trainer = Trainer::new(&device, recipe, &mut model, params)?;
    if !run.steps()?.is_empty() {
        let checkpoint = run.checkpoint(Which::Last)?;
        super::same_dataset(&checkpoint, &dataset.sha256)?;
        trainer.load(&checkpoint)?;
        cx.progress.event(Event::Resumed { step: checkpoint.step() });
    }
    lr_find(&mut trainer, test, cx.progress, cx.stop)
}

/// Replaces `train.lr = "auto"` by the rate that a test finds, in every group.
pub(super) fn find_rate(
    plan: Plan,
    dataset: &Dataset,
    run: &Path,
    cx: &mut Context<'_>,
) -> Result<Plan, Error> {
    if plan.config.train.lr != Some(Rate::Auto) {
        return Ok(plan);
    }
    let (progress, stop) = (&mut *cx.progress, cx.stop);
    let inner = Context { files: cx.files.clone(), progress, stop, machine: cx.machine };
    let curve = try_rates(&plan, dataset, run, &RangeTest::default(), inner)?;
    let rate = curve.suggestion()?;
    let mut config = plan.config;
    let base = config.optim.iter().map(|group| group.lr).fold(0.0, f64::max);
    for group in &mut config.optim {
        group.lr *= rate / base;
    }
    config.train.lr = None;
    let text = format!("the range test found a rate of {rate:.2e}; it is the highest of the run");
    cx.progress.event(Event::Notice(&text));
    resolve(&config, &dataset_facts(dataset, cx.machine))
}

fn try_rates(
    plan: &Plan,
    dataset: &Dataset,
    run: &Path,
    test: &RangeTest,
    cx: Context<'_>,
) -> Result<LrCurve, Error> {
    let device = promise::device(plan, &cx.machine);
    let device = with_pages(device, plan, run, &*cx.files)?;
    let mut params = plan.no_params();
    let model = LanguageModel::new(&device, plan, dataset, &mut params)?;
    let mut model = model.starting_from(first_values(run, &plan.config));
    let mut trainer = Trainer::new(&device, recipe(plan), &mut model, params)?;
    // Nobody goes on with this trainer: there is nothing to put back.
    range_test(&mut trainer, test, cx.progress, cx.stop)
}
