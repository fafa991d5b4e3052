//! Training of a fuser on text: the ordinary trainer, or the closed form of a linear one.

use std::sync::Arc;

use serde_json::json;
use smidgen_model::KeySpace;
use smidgen_store::RunDir;
use smidgen_tensor::{Device, Keep, Params};
use smidgen_train::{Computed, Context, Course, Event, Status, Trainer, fit, note_environment};

use super::measure::{caches, chunk};
use super::{FUSER, Model, Parts, TextItem, TextJob};
use crate::fuse::{
    AnyRate, Arrival, FuserConfig, FuserData, FuserFacts, FuserObjective, FuserTraining, Item,
    LinearFit, LoadedFuser, PairShape, through_wire,
};
use crate::remote::tokenizer_sha256;
use crate::wire::Precision;
use crate::{Error, Receiver, Side};

/// Times that a run validates, and that it saves.
const MARKS: u64 = 8;
/// Penalty of the closed form, as a share of the mean square of the inputs.
const RIDGE: f64 = 1e-2;
/// Shares of the closed form that are tried, in tenths.
const SHARES: std::ops::RangeInclusive<u32> = 0..=10;
/// What training for any rate draws from.
const PRECISIONS: [Precision; 4] =
    [Precision::F16, Precision::Int8, Precision::Int4, Precision::Int2];
const KEEP_TOKENS: [f64; 4] = [1.0, 0.5, 0.25, 0.1];
const DROP_LAYERS: f64 = 0.1;

/// The fuser of the run: trained, trained on, or taken as it is where it is finished.
pub(super) fn fuser(
    job: &TextJob,
    run: &RunDir,
    device: &Device,
    (sharer, receiver): (Model, Model),
    parts: &Parts,
    from: Option<&LoadedFuser>,
    cx: &mut Context<'_>,
) -> Result<LoadedFuser, Error> {
    let finished = run.file(FUSER);
    if finished.is_file() {
        return LoadedFuser::open(&finished, device);
    }
    let config = match from {
        Some(from) => from.fuser.config().clone(),
        None => fuser_config(job),
    };
    if config.variant == "linear" {
        let (seed, compute) = (job.config.seed, receiver.side.compute);
        let computed = Computed { objective: "fuser", seed, compute, source: None };
        note_environment(run, &computed, device, cx.progress)?;
        let fuser = in_closed_form(config, device, &sharer, &receiver, parts, cx)?;
        fuser.fuser.save(&*cx.files, &finished, &fuser.params, &fuser.facts)?;
        return LoadedFuser::open(&finished, device);
    }
    let plan = training(job, device);
    let tokenizer = tokenizer_sha256(&sharer.tokenizer);
    let (compute, recipe_of) = (receiver.side.compute, plan.clone());
    let of = |items: &[TextItem]| items.iter().map(|item| item.item.clone()).collect::<Vec<Item>>();
    let data = FuserData { train: of(&parts.train), val: of(&parts.val) };
    let (mut objective, params): (FuserObjective, Params) =
        FuserObjective::new(Arc::new(sharer.side), receiver.side, config, data, plan)?;
    let (fuser, facts) = (objective.fuser().clone(), objective.facts().clone());
    let facts = FuserFacts { tokenizer, ..facts };
    if let Some(LoadedFuser { fuser, params, facts, .. }) = from {
        let first = LoadedFuser::taken_from(device, fuser, params, facts.clone())?;
        objective = objective.starting_from(first.params);
    }
    let recipe = recipe_of.recipe(compute, job.config.lr);
    let mut trainer = Trainer::new(device, recipe, &mut objective, params)?;
    if let Some((checkpoint, _)) = run.newest_valid()? {
        cx.progress.event(Event::Resumed { step: checkpoint.step() });
        trainer.load(&checkpoint)?;
    }
    let outcome = fit(&mut trainer, &course(job), run, cx.progress, cx.stop)?;
    if outcome.status == Status::Interrupted {
        return Err(Error::Interrupted { path: run.path().to_path_buf() });
    }
    fuser.save(&*cx.files, &finished, trainer.params(), &facts)?;
    LoadedFuser::open(&finished, device)
}

fn fuser_config(job: &TextJob) -> FuserConfig {
    let (variant, hidden) = (job.config.variant.clone(), job.config.hidden);
    // Tokens of two vocabularies meet at other positions, so keys travel without them.
    let k_space = KeySpace::PreRope;
    let fuser_rank = hidden.div_ceil(2);
    FuserConfig {
        variant,
        hidden,
        inner: hidden,
        fuser_rank,
        dropout: 0.0,
        k_space,
        ..FuserConfig::default()
    }
}

fn training(job: &TextJob, device: &Device) -> FuserTraining {
    let any_rate = job.config.any_rate.then(|| {
        let space = KeySpace::PreRope;
        let through = |precision: Precision| {
            let quantise = through_wire(device.clone(), precision, space);
            (precision.name().to_string(), Some(quantise))
        };
        AnyRate {
            precisions: PRECISIONS.map(through).to_vec(),
            keep_tokens: KEEP_TOKENS.to_vec(),
            drop_layers: DROP_LAYERS,
        }
    });
    FuserTraining {
        steps: job.config.steps,
        batch: job.config.batch,
        micro_batches: 1,
        seed: job.config.seed,
        any_rate,
        keep: Keep::Values,
    }
}

fn course(job: &TextJob) -> Course {
    let steps = job.config.steps;
    Course::of(steps, steps.div_ceil(MARKS), json!({ "link": "text" }))
}

/// The maps of a linear fuser, and of the shares that are tried the one with which the documents for
/// validation are likeliest.
fn in_closed_form(
    config: FuserConfig,
    device: &Device,
    sharer: &Model,
    receiver: &Model,
    parts: &Parts,
    cx: &mut Context<'_>,
) -> Result<LoadedFuser, Error> {
    let pair = PairShape::new(sharer.side.kv_shape(), receiver.side.kv_shape());
    let (ours, theirs) = (sharer.side.fingerprint(), receiver.side.fingerprint());
    let tokenizer = tokenizer_sha256(&sharer.tokenizer);
    let facts = FuserFacts { sharer: ours, receiver: theirs, tokenizer, steps: 0 };
    let mut fuser = LoadedFuser::fresh(device, config, pair, facts.clone(), 0)?;
    let mut fit = LinearFit::new(&fuser.fuser, device)?;
    for items in chunk(&parts.train) {
        let prompts: Vec<&[u32]> =
            items.iter().map(|it| &it.item.receiver[..it.item.receiver.len() - 1]).collect();
        let base = receiver.side.prefill(&prompts, true)?;
        let caches = caches(items, &sharer.side)?;
        let each = caches.iter().zip(items);
        let arrivals: Vec<Arrival<'_>> =
            each.map(|(cache, it)| Arrival::whole(cache.view(), &it.item.alignment)).collect();
        fit.add(&base, &arrivals)?;
    }
    let shape = fuser.fuser.clone();
    let maps = fit.solve(RIDGE)?;
    let shares: Vec<f64> = SHARES.map(|tenth| f64::from(tenth) / 10.0).collect();
    let (share, loss) = maps.search(&mut fuser.params, &shares, |params| {
        let tried = LoadedFuser::taken_from(device, &shape, params, facts.clone())?;
        let linked = Receiver::new(&receiver.side, &tried)?;
        whole_loss(&linked, &sharer.side, &parts.val)
    })?;
    let text = format!("closed form: share {share}, {loss:.4} bits per byte in validation");
    cx.progress.event(Event::Notice(&text));
    Ok(fuser)
}

/// Bits per byte of items with whole caches that no wire has rounded.
fn whole_loss(linked: &Receiver<'_>, sharer: &Side, all: &[TextItem]) -> Result<f64, Error> {
    let mut nats = 0.0;
    for items in chunk(all) {
        let prompts: Vec<&[u32]> = items.iter().map(|it| &*it.item.receiver).collect();
        let responses: Vec<&[u32]> = items.iter().map(|it| &*it.item.response).collect();
        let caches = caches(items, sharer)?;
        let each = caches.iter().zip(items);
        let arrivals: Vec<Arrival<'_>> =
            each.map(|(cache, it)| Arrival::whole(cache.view(), &it.item.alignment)).collect();
        let read = linked.read(&prompts)?;
        nats += linked.nll(&read, Some(&arrivals), &responses)?.iter().sum::<f64>();
    }
    let bytes: usize = all.iter().map(|it| it.item.response_bytes).sum();
    Ok(nats / std::f64::consts::LN_2 / bytes as f64)
}
