//! The whole chain of a world: two models, a fuser, and the table of what the link is worth.
//!
//! Each part is a run directory under the given folder; what is finished there is taken over, and what
//! was cut off goes on. Gates refuse to go on where a model does not know what it must.

mod ends;
mod known;
mod lines;
mod pair;
mod records;
mod table;
mod targets;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smidgen_codec::Ledger;
use smidgen_store::write_json;
use smidgen_tensor::Device;
use smidgen_train::{Context, Event};

use self::ends::Prepared;
use self::known::{EXAMPLES, Known};
use self::pair::{Model, response, train_fuser, tuned_answers};
use self::table::Parts;
pub use self::table::{Comparison, TableLine, TaskTable};
pub use self::targets::{Bound, Judged, Verdict};
use crate::fuse::{FUSER_FILE, LoadedFuser};
use crate::plan::CALIBRATION_JSON;
use crate::select::DELTA_HAT_JSON;
use crate::world::{Graduate, Item, Role, Split, TASKS, Task, Tokenizers, Vocabularies, World};
use crate::{Error, Receiver};

/// The name of the record in the folder.
pub const LINK_JSON: &str = "link.json";

/// The record of a demonstration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// Of this layout; 2.
    pub schema_version: u32,
    /// Name of the preset.
    pub preset: String,
    /// Of everything.
    pub seed: u64,
    /// Fingerprint of the world.
    pub world: String,
    /// What the models knew.
    pub models: Vec<Graduate>,
    /// The fusers, one for each sharer.
    pub fusers: Vec<FuserRecord>,
    /// One table for each task.
    pub tasks: Vec<TaskTable>,
    /// What was predicted of them, and what came of it.
    pub targets: Vec<Judged>,
}

/// What is known of a fuser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuserRecord {
    /// Whose caches it reads.
    pub sharer: Role,
    /// Of weights, settings and origin.
    pub fingerprint: String,
    /// Its numbers.
    pub params: usize,
    /// Layers of the receiver that it changes; never 0.
    pub layers: usize,
    /// Halves of layers, keys or values, whose gate is open.
    pub open_gates: usize,
}

/// Runs the chain of a world in a folder, and writes the record to `link.json` there.
///
/// # Errors
/// [`Error::Gate`] where a model falls short, [`Error::Interrupted`], and those of every part.
pub fn demo(world: &World, out: &Path, cx: &mut Context<'_>) -> Result<Shown, Error> {
    let tokenizers = Tokenizers::new(world, Vocabularies::Own, cx.machine.threads)?;
    let roles = [Role::Receiver, Role::Sharer, Role::Mute];
    let models = world.train_models(out, &roles, &tokenizers, cx)?;
    let device = Device::cpu_at(Ledger::new(), cx.machine.threads, cx.machine.level);
    let (mut fusers, mut tasks) = (Vec::new(), Vec::new());
    for role in [Role::Sharer, Role::Mute] {
        let (fuser, tables) = tables(world, out, &device, role, |_| true, cx)?;
        fusers.push(fuser);
        tasks.extend(tables);
    }
    let shown = Shown {
        schema_version: 2,
        preset: world.preset().name.into(),
        seed: world.seed(),
        world: world.fingerprint().into(),
        models,
        fusers,
        targets: targets::judge(&tasks),
        tasks,
    };
    write_json(&*cx.files, &out.join(LINK_JSON), &shown)?;
    Ok(shown)
}

/// Reads the record of a folder.
///
/// # Errors
/// [`Error::Store`].
pub fn shown(out: &Path) -> Result<Shown, Error> {
    Ok(smidgen_store::read_json(&out.join(LINK_JSON))?)
}

/// Answers the items of some tasks again, with the models of a demonstration that is finished.
///
/// # Errors
/// [`Error::Store`] for a folder without a record, [`Error::Unfinished`] for one that lacks a part,
/// [`Error::OtherWorld`] for one that was made by another program, and those of every part.
pub fn evaluate(
    out: &Path,
    tasks: &[&dyn Task],
    cx: &mut Context<'_>,
) -> Result<Vec<TaskTable>, Error> {
    let shown = shown(out)?;
    for role in tasks.iter().map(|task| task.sharer()) {
        let [fuser, identical, tuned] = parts_of(out, role);
        let parts = [fuser.join(FUSER_FILE), identical.join(FUSER_FILE), tuned];
        if let Some(path) = parts.into_iter().find(|path| !path.exists()) {
            return Err(Error::Unfinished { path });
        }
    }
    let world = World::new(&shown.preset, shown.seed)?;
    if world.fingerprint() != shown.world {
        let (expected, got) = (world.fingerprint().into(), shown.world);
        return Err(Error::OtherWorld { path: out.join(LINK_JSON), expected, got });
    }
    let device = Device::cpu_at(Ledger::new(), cx.machine.threads, cx.machine.level);
    let is_wanted = |task: &dyn Task| tasks.iter().any(|wanted| wanted.id() == task.id());
    let mut made = Vec::new();
    for role in [Role::Sharer, Role::Mute] {
        if tasks.iter().any(|task| task.sharer() == role) {
            made.extend(tables(&world, out, &device, role, is_wanted, cx)?.1);
        }
    }
    Ok(made)
}

/// The runs of a sharer's fuser and of its controls: the receiver as its own sharer, and taught what the
/// fuser learns from.
fn parts_of(out: &Path, role: Role) -> [PathBuf; 3] {
    let name = role.name();
    let runs = [format!("fuser-{name}"), format!("fuser-{name}-identical")];
    let [fuser, identical] = runs.map(|run| out.join(run));
    [fuser, identical, out.join(format!("receiver-tuned-{name}"))]
}

/// The fuser of a sharer with its controls, trained where they are not there yet, and the tables of the
/// sharer's tasks that are wanted.
fn tables(
    world: &World,
    out: &Path,
    device: &Device,
    role: Role,
    is_wanted: impl Fn(&dyn Task) -> bool,
    cx: &mut Context<'_>,
) -> Result<(FuserRecord, Vec<TaskTable>), Error> {
    let (sharer, receiver) = (out.join(role.name()), out.join(Role::Receiver.name()));
    let [dir, identical, tuned] = parts_of(out, role);
    let fuser = train_fuser(world, &dir, device, (role, &sharer), &receiver, cx)?;
    let identical = train_fuser(world, &identical, device, (role, &receiver), &receiver, cx)?;
    let tuned = tuned_answers(world, &tuned, device, (role, &sharer), &receiver, cx)?;
    let (sharer, receiver) = (Model::open(&sharer, device)?, Model::open(&receiver, device)?);
    fuser.check(&sharer.side.fingerprint(), &receiver.side.fingerprint())?;
    let linked = Receiver::new(&receiver.side, &fuser)?;
    let known = look(world, role, &sharer, &receiver, &linked)?;
    if let Some(known) = &known {
        known.calibration.save(&*cx.files, &dir.join(CALIBRATION_JSON))?;
        known.delta_hat.save(&*cx.files, &dir.join(DELTA_HAT_JSON))?;
    }
    let identical = Receiver::new(&receiver.side, &identical)?;
    let tasks = TASKS.iter().filter(|task| task.sharer() == role).zip(&tuned.answers);
    let mut made = Vec::new();
    for (task, answers) in tasks.filter(|(task, _)| is_wanted(**task)) {
        let text = format!("{}: {}", task.id(), task.about());
        cx.progress.event(Event::Notice(&text));
        let parts = Parts {
            sharer: &sharer,
            receiver: &receiver,
            linked: &linked,
            known: known.as_ref(),
            identical: &identical,
            tuned: (&tuned.fingerprint, answers),
        };
        let (table, measured, asking) = table::table(world, *task, &parts, cx)?;
        cx.progress.event(Event::Notice(&table.headline()));
        records::Records { world, task: *task, parts: &parts, asking: &asking }
            .write(out, &measured, cx)?;
        made.push(table);
    }
    Ok((FuserRecord::new(role, &fuser), made))
}

impl FuserRecord {
    fn new(sharer: Role, fuser: &LoadedFuser) -> FuserRecord {
        FuserRecord {
            sharer,
            fingerprint: fuser.fingerprint(),
            params: fuser.param_count(),
            layers: fuser.layers(),
            open_gates: fuser.open_gates(),
        }
    }
}

/// Looks at questions that the fuser was trained on, a few of each task.
fn look(
    world: &World,
    role: Role,
    sharer: &Model,
    receiver: &Model,
    linked: &Receiver<'_>,
) -> Result<Option<Known>, Error> {
    let tasks = || TASKS.iter().filter(|task| task.sharer() == role && task.id() != "t8");
    let each = EXAMPLES.div_ceil(tasks().count());
    let items: Vec<Item> = tasks()
        .flat_map(|task| {
            let items = world.items(*task, Split::Train);
            let every = items.len().div_ceil(each).max(1);
            items.into_iter().step_by(every)
        })
        .collect();
    let examples = Prepared::new(&items, sharer, receiver, linked.fuser())?;
    let responses = items.iter().map(|item| response(item, &receiver.tokenizer));
    let responses = responses.collect::<Result<Vec<_>, _>>()?;
    let ids = items.into_iter().map(|item| item.id).collect();
    Known::of(linked, &examples, ids, &responses, world.seed())
}
