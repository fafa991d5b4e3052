//! The whole chain of a world: two models, a fuser, and the table of what the link is worth.
//!
//! Each part is a run directory under the given folder; what is finished there is taken over, and what
//! was cut off goes on. Gates refuse to go on where a model does not know what it must.

mod methods;
mod pair;

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use smidgen_codec::Ledger;
use smidgen_store::write_json;
use smidgen_tensor::Device;
use smidgen_train::{Context, Event};

use self::methods::{LINES, Line, Linked, Prepared};
use self::pair::{Model, train_fuser};
use crate::stats::{Interval, bootstrap, paired};
use crate::world::{
    Alone, Graduate, ROW_TOKENS, Role, Scored, Split, TASKS, Task, Tokenizers, Vocabularies, World,
    score,
};
use crate::{Error, Receiver};

/// Tokens that a session has room for: a prompt and its answer.
const CAPACITY: usize = 2 * ROW_TOKENS;

/// The name of the record in the folder.
pub const LINK_JSON: &str = "link.json";

/// The record of a demonstration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// Of this layout; 1.
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

/// The lines of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTable {
    /// Its id.
    pub task: String,
    /// Items that every line answered.
    pub items: usize,
    /// Distinct entities or documents, by which items are resampled.
    pub clusters: usize,
    /// What a model without knowledge gets right.
    pub chance: f64,
    /// In the order of the table.
    pub lines: Vec<TableLine>,
}

/// One line: how items were answered, and what that took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableLine {
    /// What was delivered.
    pub name: String,
    /// Measured bytes of the containers, on average over the items.
    pub wire_bytes: f64,
    /// Share of right answers, with its 95 % interval.
    pub accuracy: Interval,
    /// That less the receiver's alone, paired.
    pub gain: Interval,
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
        let (sharer, receiver) = (out.join(role.name()), out.join(Role::Receiver.name()));
        let dir = out.join(format!("fuser-{}", role.name()));
        let fuser = train_fuser(world, &dir, &device, (role, &sharer), &receiver, cx)?;
        let (sharer, receiver) = (Model::open(&sharer, &device)?, Model::open(&receiver, &device)?);
        fuser.check(&sharer.side.fingerprint(), &receiver.side.fingerprint())?;
        let gates = fuser.fuser.needed(&fuser.params);
        fusers.push(FuserRecord {
            sharer: role,
            fingerprint: fuser.fingerprint(),
            params: fuser
                .params
                .iter()
                .map(|(_, param)| param.value.rows() * param.value.cols())
                .sum(),
            layers: fuser.fuser.sources().iter().flatten().count(),
            open_gates: gates.iter().flatten().filter(|open| **open).count(),
        });
        let linked = Receiver::new(&receiver.side, &fuser)?;
        for task in TASKS.iter().filter(|task| task.sharer() == role) {
            let text = format!("{}: {}", task.id(), task.about());
            cx.progress.event(Event::Notice(&text));
            tasks.push(table(world, *task, &sharer, &receiver, &linked)?);
        }
    }
    let shown = Shown {
        schema_version: 1,
        preset: world.preset().name.into(),
        seed: world.seed(),
        world: world.fingerprint().into(),
        models,
        fusers,
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

fn table(
    world: &World,
    task: &dyn Task,
    sharer: &Model,
    receiver: &Model,
    linked: &Receiver<'_>,
) -> Result<TaskTable, Error> {
    let items = world.items(task, Split::Test);
    let clusters: Vec<u64> = items.iter().map(|item| item.cluster).collect();
    let prepared = Prepared::new(&items, sharer, receiver, linked.fuser())?;
    let mut own = Alone::receiver(receiver.session(CAPACITY)?, &receiver.tokenizer);
    let own = score(&mut own, &items)?;
    let base = right(&own);
    let line = |name: String, bytes: &[f64], scored: &[Scored]| -> Result<TableLine, Error> {
        let right = right(scored);
        Ok(TableLine {
            name,
            wire_bytes: bytes.iter().sum::<f64>() / items.len().max(1) as f64,
            accuracy: bootstrap(&right, Some(&clusters), world.seed())?,
            gain: paired(&right, &base, Some(&clusters), world.seed())?,
        })
    };
    let mut asked = Alone::sharer(sharer.session(CAPACITY)?, &sharer.tokenizer);
    let mut lines = vec![
        line("receiver alone".into(), &[], &own)?,
        line("sharer alone".into(), &[], &score(&mut asked, &items)?)?,
    ];
    for delivered in LINES {
        let mut reader = Linked::new(linked, &receiver.tokenizer, &prepared, *delivered, CAPACITY)?;
        let scored = score(&mut reader, &items)?;
        check_bytes(*delivered, &reader.wire_bytes, linked)?;
        lines.push(line(delivered.name(), &reader.wire_bytes, &scored)?);
    }
    Ok(TaskTable {
        task: task.id().into(),
        items: items.len(),
        clusters: clusters.iter().collect::<BTreeSet<_>>().len(),
        chance: task.chance(world),
        lines,
    })
}

/// 1 for a right answer, 0 for a wrong one.
fn right(scored: &[Scored]) -> Vec<f64> {
    scored.iter().map(|scored| f64::from(u8::from(scored.correct))).collect()
}

/// A cache that was sent and measured as nothing would be a fault of the measurement.
fn check_bytes(line: Line, bytes: &[f64], linked: &Receiver<'_>) -> Result<(), Error> {
    let fuser = linked.fuser();
    let is_open = fuser.fuser.needed(&fuser.params).iter().flatten().any(|open| *open);
    let nothing = bytes.iter().filter(|bytes| **bytes == 0.0).count();
    if is_open && matches!(line, Line::Whole(_) | Line::Share(..)) && nothing > 0 {
        let what = format!("`{}`", line.name());
        return Err(Error::record(
            what,
            "measured bytes for every item",
            format!("{nothing} of 0"),
        ));
    }
    Ok(())
}
