//! What a model is asked before anything is built on it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::tasks::{choices, hops, recalls, statements};
use super::{Bar, Item, Role, Set, Split, World, task};
use crate::Error;

/// Items of an examination at most.
const MOST_ITEMS: usize = 512;

/// Questions, and a bound on the share that is answered.
#[derive(Clone, Debug)]
pub struct Exam {
    /// What is asked.
    pub name: &'static str,
    /// The questions; the model reads `asked`.
    pub items: Vec<Item>,
    /// What has to come out.
    pub bound: Bound,
}

/// What has to come out of an examination.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Bound {
    /// Taught on under `wanted`, refused under `least`.
    Least {
        /// Share of right answers that ends the teaching.
        wanted: f64,
        /// Share without which the model is refused.
        least: f64,
    },
    /// Refused over this share: what must not be known.
    Most(f64),
}

/// How a model did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// What was asked.
    pub exam: String,
    /// Items asked.
    pub items: usize,
    /// Share of right answers.
    pub accuracy: f64,
    /// What had to come out.
    pub bound: Bound,
}

impl Mark {
    pub(super) fn new(exam: &Exam, accuracy: f64) -> Mark {
        let (name, items) = (exam.name.to_string(), exam.items.len());
        Mark { exam: name, items, accuracy, bound: exam.bound }
    }

    /// Whether teaching may end.
    pub fn is_wanted(&self) -> bool {
        match self.bound {
            Bound::Least { wanted, .. } => self.accuracy >= wanted,
            Bound::Most(most) => self.accuracy <= most,
        }
    }

    /// Whether the model can be used.
    pub fn is_enough(&self) -> bool {
        match self.bound {
            Bound::Least { least, .. } => self.accuracy >= least,
            Bound::Most(most) => self.accuracy <= most,
        }
    }

    /// Why the model of a role is refused.
    pub(super) fn refusal(&self, role: Role, steps: u64) -> Error {
        let (bound, limit) = match self.bound {
            Bound::Least { least, .. } => ("least", least),
            Bound::Most(most) => ("most", most),
        };
        let (exam, got) = (self.exam.clone(), self.accuracy);
        Error::Gate { role: role.name(), exam, bound, limit, got, steps }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, share) = (&self.exam, 100.0 * self.accuracy);
        write!(f, "{name}: {share:.1} % of {}", self.items)
    }
}

/// What a role is asked.
pub(super) fn exams(world: &World, role: Role) -> Vec<Exam> {
    let exam = |Bar { wanted, least }, name, items| Exam {
        name,
        items: some(items),
        bound: Bound::Least { wanted, least },
    };
    let known = |name, items| exam(world.preset().knows, name, items);
    let understood = |name, items| exam(world.preset().understands, name, items);
    let own: Vec<Set> = [Split::Train, Split::Dev, Split::Test].map(Set::Sharer).to_vec();
    match role {
        Role::Sharer => vec![
            known("own facts", choices(world, "own", &own)),
            known("own facts, written out", recalls(world, "own", &own)),
            understood("documents", items(world, "t3")),
            unknown("nobody's facts", items(world, "t8")),
        ],
        Role::Mute => vec![known("own facts, as statements", statements(world, "own", &own))],
        Role::Receiver => vec![
            understood("shared facts", choices(world, "shared", &[Set::Both])),
            understood("documents", items(world, "t3")),
            understood("countries", hops(world, "shared", Set::Both, 0)),
            unknown("the sharer's facts", choices(world, "own", &own)),
            unknown("nobody's facts", items(world, "t8")),
        ],
    }
}

fn items(world: &World, id: &str) -> Vec<Item> {
    world.items(task(id).expect("a task of the registry"), Split::Test)
}

/// Questions with four options that a model cannot answer but by chance.
fn unknown(name: &'static str, items: Vec<Item>) -> Exam {
    let (items, chance) = (some(items), 0.25_f64);
    // One model in some thousands is over this by luck.
    let luck = 3.5 * (chance * (1.0 - chance) / items.len().max(1) as f64).sqrt();
    Exam { name, items, bound: Bound::Most(chance + luck.max(0.03)) }
}

/// Some of the items, evenly spread.
fn some(items: Vec<Item>) -> Vec<Item> {
    let every = items.len().div_ceil(MOST_ITEMS).max(1);
    items.into_iter().step_by(every).collect()
}
