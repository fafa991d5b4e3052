//! The whole chain of a world: two models, a fuser, and the table of what the link is worth.
//!
//! Each part is a run directory under the given folder; what is finished there is taken over, and what
//! was cut off goes on. Gates refuse to go on where a model does not know what it must.

mod known;
mod methods;
mod pair;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use smidgen_codec::Ledger;
use smidgen_store::write_json;
use smidgen_tensor::Device;
use smidgen_train::{Context, Event};

use self::known::{EXAMPLES, Known};
use self::methods::{Asked, COMPARED, Ends, IDENTICAL, LINES, Line, Prepared, TUNED};
use self::pair::{Model, response, train_fuser, tuned_answers};
use crate::align::Alignment;
use crate::fuse::LoadedFuser;
use crate::message::check_sent;
use crate::methods::{Column, Contents, Entry, Measured, PayloadKind, ReceiverOnly, Row, measure};
use crate::plan::{Budget, CALIBRATION_JSON};
use crate::select::DELTA_HAT_JSON;
use crate::stats::{Interval, bootstrap, paired};
use crate::wire::Precision;
use crate::world::{
    Alone, Graduate, Item, ROW_TOKENS, Role, Scored, Split, TASKS, Task, Tokenizers, Vocabularies,
    World, score,
};
use crate::{Error, Receiver};

/// Tokens that a session has room for: a prompt and its answer.
const CAPACITY: usize = 2 * ROW_TOKENS;

/// Progress is told after so many items.
const TOLD: usize = 256;

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
    /// Lines against each other, item by item.
    pub compared: Vec<Comparison>,
}

/// One line against another: the same items, differences resampled by cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Name of the line.
    pub line: String,
    /// Name of the line it is held against.
    pub against: String,
    /// Share of right answers of the first less that of the second.
    pub gain: Interval,
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
        let (fuser, tables) = tables(world, out, &device, role, |_| true, cx)?;
        fusers.push(fuser);
        tasks.extend(tables);
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

/// Answers the items of some tasks again, with the models of a demonstration that is finished.
///
/// # Errors
/// [`Error::Store`] for a folder without a record, [`Error::OtherWorld`] for one that was made by another
/// program, and those of every part.
pub fn evaluate(
    out: &Path,
    tasks: &[&dyn Task],
    cx: &mut Context<'_>,
) -> Result<Vec<TaskTable>, Error> {
    let shown = shown(out)?;
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
    let dir = out.join(format!("fuser-{}", role.name()));
    let fuser = train_fuser(world, &dir, device, (role, &sharer), &receiver, cx)?;
    // The controls: the receiver as its own sharer, and taught what the fuser learns from.
    let identical = out.join(format!("fuser-{}-identical", role.name()));
    let identical = train_fuser(world, &identical, device, (role, &receiver), &receiver, cx)?;
    let tuned = out.join(format!("receiver-tuned-{}", role.name()));
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
    let tasks = TASKS.iter().filter(|task| task.sharer() == role).zip(&tuned);
    let mut made = Vec::new();
    for (task, tuned) in tasks.filter(|(task, _)| is_wanted(**task)) {
        let text = format!("{}: {}", task.id(), task.about());
        cx.progress.event(Event::Notice(&text));
        let parts = Parts {
            sharer: &sharer,
            receiver: &receiver,
            linked: &linked,
            known: known.as_ref(),
            identical: &identical,
            tuned,
        };
        let (table, measured, asking) = table(world, *task, &parts, cx)?;
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

/// What a table is made with.
struct Parts<'a> {
    sharer: &'a Model,
    receiver: &'a Model,
    linked: &'a Receiver<'a>,
    known: Option<&'a Known>,
    /// The receiver with a fuser for its own cache.
    identical: &'a Receiver<'a>,
    /// Answers of the receiver that was taught what the fuser learns from.
    tuned: &'a (&'static str, Vec<Scored>),
}

/// All lines of a task and what they come to.
fn table(
    world: &World,
    task: &dyn Task,
    parts: &Parts<'_>,
    cx: &mut Context<'_>,
) -> Result<(TaskTable, Measured, Asking), Error> {
    let Parts { sharer, receiver, linked, known, identical, tuned } = *parts;
    let items = world.items(task, Split::Test);
    if let Some(known) = known {
        known.calibration.check_unseen(items.iter().map(|item| &*item.id))?;
    }
    let asked = |(place, item)| Asked { item, place };
    let asked: Vec<Asked<'_>> = items.iter().enumerate().map(asked).collect();
    let prepared = Prepared::new(&items, sharer, receiver, linked.fuser())?;
    let mut ends = Ends::new(linked, &receiver.tokenizer, &prepared, known, CAPACITY)?;
    let mut entries = vec![Entry { method: &ReceiverOnly, budget: Budget::Unlimited }];
    entries.extend(LINES.iter().map(Line::entry));
    let mut measured = measure(&mut ends, &entries, &asked, |done| {
        if done.is_multiple_of(TOLD) {
            let text = format!("{}: {done} of {} items", task.id(), items.len());
            cx.progress.event(Event::Notice(&text));
        }
    })?;
    for (column, line) in measured.columns[1..].iter().zip(LINES) {
        if matches!(line, Line::Whole(_) | Line::Share(..)) {
            check_sent(&column.method, linked.fuser(), &column.bytes())?;
        }
    }
    // The controls that are no link between the two, behind the receiver alone.
    let mut alone = Alone::sharer(sharer.session(CAPACITY)?, &sharer.tokenizer);
    let alone = Column::unlinked("sharer alone", &score(&mut alone, &items)?);
    let same = Prepared::new(&items, receiver, receiver, identical.fuser())?;
    let mut ends = Ends::new(identical, &receiver.tokenizer, &same, None, CAPACITY)?;
    let whole = [Line::Whole(Precision::F16).entry()];
    let mut own = measure(&mut ends, &whole, &asked, |_| {})?.columns.remove(0);
    own.method = IDENTICAL.into();
    measured.columns.splice(1..1, [alone, Column::unlinked(TUNED, &tuned.1), own]);
    Ok((TaskTable::of(world, task, &measured)?, measured, Asking::of(&prepared)))
}

/// What is known of the prompts of a task.
struct Asking {
    /// Tokens of each at the receiver.
    tokens: Vec<f64>,
    /// Mean share of the receiver's tokens with one token of the sharer that stands for no other.
    one_to_one: f64,
    /// Mean share without any.
    unmapped: f64,
}

impl Asking {
    fn of(prepared: &Prepared) -> Asking {
        let prompts = &prepared.prompts;
        let mean = |rate: fn(&Alignment) -> f64| {
            let rates = prompts.iter().map(|prompt| rate(&prompt.alignment));
            rates.sum::<f64>() / prompts.len().max(1) as f64
        };
        Asking {
            tokens: prompts.iter().map(|prompt| prompt.receiver.len() as f64).collect(),
            one_to_one: mean(Alignment::one_to_one_rate),
            unmapped: mean(Alignment::unmapped_rate),
        }
    }
}

impl Column {
    /// Answers of somebody who was sent nothing.
    fn unlinked(method: &str, scored: &[Scored]) -> Column {
        let row = |scored: &Scored| Row {
            kind: PayloadKind::Empty,
            bytes: 0,
            request_bytes: 0,
            cap_bytes: None,
            contents: Contents::default(),
            selection: None,
            answer: scored.answer.clone(),
            answer_tokens: scored.tokens,
            is_right: scored.correct,
            timings_ms: BTreeMap::new(),
        };
        Column {
            method: method.into(),
            is_upper_bound: false,
            budget: Budget::Unlimited,
            rows: scored.iter().map(row).collect(),
        }
    }
}

impl TaskTable {
    fn of(world: &World, task: &dyn Task, measured: &Measured) -> Result<TaskTable, Error> {
        let clusters = &measured.clusters;
        let base = measured.columns[0].right();
        let gain =
            |first: &[f64], second: &[f64]| paired(first, second, Some(clusters), world.seed());
        let line = |column: &Column| -> Result<TableLine, Error> {
            let (bytes, right) = (column.bytes(), column.right());
            Ok(TableLine {
                name: column.title(),
                // The sum of none is -0.
                wire_bytes: (0.0 + bytes.iter().sum::<f64>()) / bytes.len().max(1) as f64,
                accuracy: bootstrap(&right, Some(clusters), world.seed())?,
                gain: gain(&right, &base)?,
            })
        };
        let find = |name: &str| measured.columns.iter().find(|column| column.title() == name);
        let compare = |[first, second]: &[&str; 2]| {
            let [a, b] =
                [first, second].map(|name| find(name).expect("a line of the table").right());
            let gain = gain(&a, &b)?;
            Ok(Comparison { line: first.to_string(), against: second.to_string(), gain })
        };
        Ok(TaskTable {
            task: task.id().into(),
            items: measured.ids.len(),
            clusters: clusters.iter().collect::<BTreeSet<_>>().len(),
            chance: task.chance(world),
            lines: measured.columns.iter().map(line).collect::<Result<_, _>>()?,
            compared: COMPARED.iter().map(compare).collect::<Result<_, Error>>()?,
        })
    }
}
