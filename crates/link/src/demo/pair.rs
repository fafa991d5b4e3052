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
use crate::fuse::{
    self, FuserConfig, FuserData, FuserFacts, FuserObjective, FuserTraining, LoadedFuser,
};
use crate::remote::tokenizer_sha256;
use crate::side::fingerprint;
use crate::world::{
    self, Alone, ROW_TOKENS, Role, Scored, Split, TASKS, Taught, Teaching, World, further, score,
};
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

/// The right answer to an item.
pub(super) fn response(item: &world::Item, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
    Ok(tokenizer.encode(&format!(" {}.", item.answer.gold()))?)
}

/// What a fuser learns from: items of the tasks of a sharer, with other options in each round. Those of the
/// largest task come in so many rounds, and as many of every other: a question that takes two steps is
/// asked as often as one about a fact, though there are fewer of them.
fn lessons(
    world: &World,
    role: Role,
    split: Split,
    rounds: u64,
    sharer: &Model,
    receiver: &Model,
) -> Result<Vec<fuse::Item>, Error> {
    let mut lessons = Vec::new();
    let tasks = || TASKS.iter().filter(|task| task.sharer() == role && task.id() != "t8");
    let largest = tasks().map(|task| world.items(*task, split).len()).max().unwrap_or(0);
    let each = largest * rounds as usize;
    for task in tasks() {
        let again = (0..each as u64).flat_map(|round| world.items_again(*task, split, round));
        for item in again.take(each) {
            let Prompt { sharer, receiver: ours, alignment } =
                Prompt::new(&item, sharer, receiver)?;
            let response = response(&item, &receiver.tokenizer)?;
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

/// The receiver that was taught what a fuser learns from.
pub(super) struct Tuned {
    /// Of its weights.
    pub(super) fingerprint: String,
    /// Its answers to the test items of each task of the role.
    pub(super) answers: Vec<Vec<Scored>>,
}

/// The receiver itself, taught what a fuser of this pair learns from: the same questions and answers, and
/// nobody to ask. Gives its answers to the test items of every task of the role.
///
/// What it learns about other entities says nothing of those that are tested, so what it gains is what
/// the form of question and answer is worth.
pub(super) fn tuned_answers(
    world: &World,
    dir: &Path,
    device: &Device,
    (role, sharer): (Role, &Path),
    receiver: &Path,
    cx: &mut Context<'_>,
) -> Result<Tuned, Error> {
    let (sharer, receiver) = (Model::open(sharer, device)?, Model::open(receiver, device)?);
    let training = world.preset().fuser;
    let items = lessons(world, role, Split::Train, training.rounds, &sharer, &receiver)?;
    let documents = items.iter().map(|item| Taught::answer(&item.receiver, &item.response));
    let Model { side, tokenizer } = receiver;
    // A row takes four items or more: it sees no fewer of them than the fuser.
    let rows = training.batch.div_ceil(4);
    let (decoder, lr) = (side.decoder.clone(), world.preset().receiver.lr / 4.0);
    let mut teaching = Teaching::of_list(documents.collect(), decoder.clone(), rows, world.seed());
    let recipe = further(world.seed(), side.compute, lr, training.steps);
    let mut trainer = Trainer::new(device, recipe, &mut teaching, side.params)?;
    train(world, dir, &mut trainer, training.steps, cx)?;
    let answers = |task: &&'static dyn world::Task| {
        let params = trainer.params();
        let session = Session::new(device, side.compute, &decoder, params, 2 * ROW_TOKENS)?;
        let mut alone = Alone::receiver(session, &tokenizer);
        score(&mut alone, &world.items(*task, Split::Test))
    };
    let answers = TASKS.iter().filter(|task| task.sharer() == role).map(answers);
    Ok(Tuned {
        answers: answers.collect::<Result<_, Error>>()?,
        fingerprint: fingerprint(decoder.spec(), trainer.params()),
    })
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
    let finished = dir.join(fuse::FUSER_FILE);
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
    let (compute, tokenizer) = (receiver.side.compute, tokenizer_sha256(&sharer.tokenizer));
    let (mut objective, params): (FuserObjective, Params) =
        FuserObjective::new(Arc::new(sharer.side), receiver.side, config, data, plan.clone())?;
    let fuser = objective.fuser().clone();
    let facts = FuserFacts { tokenizer, ..objective.facts().clone() };
    let mut trainer =
        Trainer::new(device, plan.recipe(compute, training.lr), &mut objective, params)?;
    train(world, dir, &mut trainer, plan.steps, cx)?;
    fuser.save(&*cx.files, &finished, trainer.params(), &facts)?;
    LoadedFuser::open(&finished, device)
}

/// Trains up to `steps` in a run directory, from where an earlier call stopped.
fn train(
    world: &World,
    dir: &Path,
    trainer: &mut Trainer<'_>,
    steps: u64,
    cx: &mut Context<'_>,
) -> Result<(), Error> {
    let run = match dir.join("run.toml").is_file() {
        true => RunDir::open(cx.files.clone(), dir)?,
        false => RunDir::create(cx.files.clone(), dir, "")?,
    };
    if let Some((checkpoint, _)) = run.newest_valid()? {
        trainer.load(&checkpoint)?;
    }
    if trainer.standing().step >= steps {
        return Ok(());
    }
    let facts = json!({ "world": world.fingerprint() });
    let course = Course::of(steps, steps.div_ceil(4), facts);
    let outcome = fit(trainer, &course, &run, cx.progress, cx.stop)?;
    match outcome.status {
        Status::Finished => Ok(()),
        Status::Interrupted => Err(Error::Interrupted { path: dir.to_path_buf() }),
    }
}
