//! The table of a task: all lines over the same items, with intervals and paired comparisons.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use smidgen_train::{Context, Event};

use super::ends::{Asked, Ends, Prepared};
use super::known::Known;
use super::lines::{COMPARED, IDENTICAL, LINKED, METHODS, SHARER, SHUFFLED, TUNED};
use super::pair::Model;
use crate::align::Alignment;
use crate::message::check_sent;
use crate::methods::{Column, Entry, Measured, ReceiverOnly, Row, measure};
use crate::plan::Budget;
use crate::stats::{Interval, bootstrap, paired};
use crate::world::{Alone, ROW_TOKENS, Scored, Split, Task, World, score};
use crate::{Error, Receiver};

/// Tokens that a session has room for: a prompt and its answer.
const CAPACITY: usize = 2 * ROW_TOKENS;

/// Lines that are told as soon as a task is done.
const HEADLINE: [&str; 4] = [RECEIVER, SHARER, LINKED, SHUFFLED];
/// Name of the line of no link at all.
pub(super) const RECEIVER: &str = "receiver alone";

/// Progress is told after so many items.
const TOLD: usize = 256;

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

/// What a table is made with.
pub(super) struct Parts<'a> {
    pub(super) sharer: &'a Model,
    pub(super) receiver: &'a Model,
    pub(super) linked: &'a Receiver<'a>,
    pub(super) known: Option<&'a Known>,
    /// The receiver with a fuser for its own cache.
    pub(super) identical: &'a Receiver<'a>,
    /// Fingerprint and answers of the receiver that was taught what the fuser learns from.
    pub(super) tuned: (&'a str, &'a [Scored]),
}

/// All lines of a task and what they come to; the prompts are those of the pair, and of the receiver with
/// itself.
pub(super) fn table(
    world: &World,
    task: &dyn Task,
    parts: &Parts<'_>,
    cx: &mut Context<'_>,
) -> Result<(TaskTable, Measured, [Asking; 2]), Error> {
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
    entries
        .extend(METHODS.iter().map(|(method, budget)| Entry { method: *method, budget: *budget }));
    let mut measured = measure(&mut ends, &entries, &asked, |done| {
        if done.is_multiple_of(TOLD) {
            let text = format!("{}: {done} of {} items", task.id(), items.len());
            cx.progress.event(Event::Notice(&text));
        }
    })?;
    for column in &measured.columns[1..] {
        if column.budget == Budget::Unlimited {
            check_sent(&column.method, linked.fuser(), &column.bytes())?;
        }
    }
    // The controls that are no link between the two, behind the receiver alone.
    let mut alone = Alone::sharer(sharer.session(CAPACITY)?, &sharer.tokenizer);
    let alone = Column::unlinked(SHARER, &score(&mut alone, &items)?);
    let same = Prepared::new(&items, receiver, receiver, identical.fuser())?;
    let mut ends = Ends::new(identical, &receiver.tokenizer, &same, None, CAPACITY)?;
    let (method, budget) = METHODS[0];
    let whole = [Entry { method, budget }];
    let mut own = measure(&mut ends, &whole, &asked, |_| {})?.columns.remove(0);
    own.method = IDENTICAL.into();
    measured.columns.splice(1..1, [alone, Column::unlinked(TUNED, tuned.1), own]);
    let asking = [&prepared, &same].map(Asking::of);
    Ok((TaskTable::of(world, task, &measured)?, measured, asking))
}

/// What is known of the prompts of a task.
pub(super) struct Asking {
    /// Tokens of each at the receiver.
    pub(super) tokens: Vec<f64>,
    /// Mean share of the receiver's tokens with one token of the sharer that stands for no other.
    pub(super) one_to_one: f64,
    /// Mean share without any.
    pub(super) unmapped: f64,
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
        let row = |it: &Scored| Row::unsent(it.answer.clone(), it.tokens, it.correct);
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

    /// The figures that everything else explains, for whoever waits for the table.
    pub(super) fn headline(&self) -> String {
        let share = |name: &str| {
            let line = self.lines.iter().find(|line| line.name == name);
            let accuracy = &line.expect("a line of every table").accuracy;
            format!("{name} {:.1} %", 100.0 * accuracy.mean)
        };
        format!("{}: {}", self.task, HEADLINE.map(share).join(", "))
    }
}
