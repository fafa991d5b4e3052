//! Two models of a world and what lies between them: prompts in both vocabularies, a trained fuser.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use smidgen_data::Tokenizer;
use smidgen_model::{KeySpace, Session};
use smidgen_store::{RunDir, RunView, Which};
use smidgen_tensor::{Device, Keep, Params};
use smidgen_train::{Context, Course, Status, Trainer, Weights, fit, open_model};

use crate::align::{Alignment, Overlap, spans};
use crate::fuse::{self, FuserConfig, FuserData, FuserObjective, FuserTraining, LoadedFuser};
use crate::world::{self, Answer, Role, Split, TASKS, World, letters};
use crate::{Error, KvCache, Side};

/// A model and its tokenizer.
pub(super) struct Model {
    pub(super) side: Side,
    pub(super) tokenizer: Tokenizer,
}

impl Model {
    pub(super) fn open(dir: &Path, device: &Device) -> Result<Model, Error> {
        let run = RunView::open(dir)?;
        let model = open_model(&run, Which::Last, Weights::Trained, device)?;
        let tokenizer = model.tokenizer.clone();
        Ok(Model { side: Side::of(model, device), tokenizer })
    }

    /// A session with room for `capacity` tokens.
    pub(super) fn session(&self, capacity: usize) -> Result<Session<'_>, Error> {
        let Side { device, compute, decoder, params } = &self.side;
        Ok(Session::new(device, *compute, decoder, params, capacity)?)
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = vec![self.tokenizer.prefix()];
        ids.extend(self.tokenizer.encode(text)?);
        Ok(ids)
    }
}

/// An item as both models read it.
pub(super) struct Prompt {
    pub(super) sharer: Vec<u32>,
    pub(super) receiver: Vec<u32>,
    pub(super) alignment: Alignment,
}

impl Prompt {
    pub(super) fn new(
        item: &world::Item,
        sharer: &Model,
        receiver: &Model,
    ) -> Result<Prompt, Error> {
        let ours = receiver.tokens(&item.receiver)?;
        let theirs = sharer.tokens(&item.sharer)?;
        let alignment = Alignment::by_spans(
            &spans(&receiver.tokenizer, &ours),
            &spans(&sharer.tokenizer, &theirs),
            Overlap::CoverLast,
        );
        Ok(Prompt { sharer: theirs, receiver: ours, alignment })
    }

    /// What the sharer makes of it, as far as anything stands for the receiver's tokens.
    pub(super) fn cache(&self, sharer: &Side, space: KeySpace) -> Result<KvCache, Error> {
        let needed = self.alignment.needed().max(1);
        Ok(sharer.read(&[&self.sharer[..needed]], space)?.remove(0))
    }
}

/// What a fuser learns from: items of these tasks, in so many rounds, with other options each time.
fn lessons(
    world: &World,
    role: Role,
    split: Split,
    rounds: u64,
    sharer: &Model,
    receiver: &Model,
) -> Result<Vec<fuse::Item>, Error> {
    let letters = letters(&receiver.tokenizer)?;
    let mut lessons = Vec::new();
    for task in TASKS.iter().filter(|task| task.sharer() == role && task.id() != "t8") {
        for item in (0..rounds).flat_map(|round| world.items_again(*task, split, round)) {
            let Prompt { sharer, receiver: ours, alignment } =
                Prompt::new(&item, sharer, receiver)?;
            let response = match &item.answer {
                Answer::Choice { gold, .. } => vec![letters[*gold]],
                Answer::Word { gold } => receiver.tokenizer.encode(&format!(" {gold}."))?,
            };
            lessons.push(fuse::Item {
                sharer,
                receiver: ours,
                alignment,
                response,
                response_bytes: 0,
            });
        }
    }
    Ok(lessons)
}

/// Trains the fuser of a pair in a run directory, or takes the one that is there.
pub(super) fn train_fuser(
    world: &World,
    dir: &Path,
    device: &Device,
    (role, sharer): (Role, &Path),
    receiver: &Path,
    cx: &mut Context<'_>,
) -> Result<LoadedFuser, Error> {
    let finished = dir.join("fuser.safetensors");
    if finished.is_file() {
        return LoadedFuser::open(&finished, device);
    }
    let (sharer, receiver) = (Model::open(sharer, device)?, Model::open(receiver, device)?);
    let training = world.preset().fuser;
    let data = FuserData {
        train: lessons(world, role, Split::Train, training.rounds, &sharer, &receiver)?,
        val: lessons(world, role, Split::Dev, 1, &sharer, &receiver)?,
    };
    let config = FuserConfig {
        hidden: training.hidden,
        inner: training.hidden,
        dropout: 0.0,
        k_space: KeySpace::PreRope,
        ..FuserConfig::default()
    };
    let plan = FuserTraining {
        steps: training.steps,
        batch: training.batch,
        micro_batches: 1,
        seed: world.seed(),
        any_rate: None,
        keep: Keep::Values,
    };
    let compute = receiver.side.compute;
    let (mut objective, params): (FuserObjective, Params) =
        FuserObjective::new(Arc::new(sharer.side), receiver.side, config, data, plan.clone())?;
    let (fuser, facts) = (objective.fuser().clone(), objective.facts().clone());
    let run = match dir.join("run.toml").is_file() {
        true => RunDir::open(cx.files.clone(), dir)?,
        false => RunDir::create(cx.files.clone(), dir, "")?,
    };
    let mut trainer =
        Trainer::new(device, plan.recipe(compute, training.lr), &mut objective, params)?;
    if let Some((checkpoint, _)) = run.newest_valid()? {
        trainer.load(&checkpoint)?;
    }
    let course = Course {
        steps: Some(plan.steps),
        max_steps: None,
        max_minutes: None,
        useful_steps: None,
        val_every: plan.steps.div_ceil(4),
        ckpt_every: plan.steps.div_ceil(4),
        keep: 1,
        fire_at: Vec::new(),
        fire_match: None,
        stop: None,
        alarm: Default::default(),
        track: Default::default(),
        facts: json!({ "world": world.fingerprint() }),
    };
    let outcome = fit(&mut trainer, &course, &run, cx.progress, cx.stop)?;
    if outcome.status == Status::Interrupted {
        return Err(Error::Interrupted { path: dir.to_path_buf() });
    }
    fuser.save(&*cx.files, &finished, trainer.params(), &facts)?;
    LoadedFuser::open(&finished, device)
}
