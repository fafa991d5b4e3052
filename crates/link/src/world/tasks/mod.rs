//! The tasks, one a file: what is asked, what that proves, and what has to be taught for it.

mod choice;
mod mute;
mod null;
mod open;
mod redacted;
mod two_hop;

pub(super) use two_hop::hops;

use super::dice::Dice;
use super::lessons::options;
use super::text::{OPTION_TAIL, WORD_TAIL, ask, list};
use super::{Answer, Given, Item, Role, Set, Split, Term, World};
use crate::Error;

/// A kind of question.
pub trait Task: Sync {
    /// The short name in commands and records.
    fn id(&self) -> &'static str;

    /// What it proves.
    fn about(&self) -> &'static str;

    /// What a model without knowledge gets right.
    fn chance(&self, world: &World) -> f64;

    /// Who sends.
    fn sharer(&self) -> Role {
        Role::Sharer
    }

    /// What a role has to be taught for it, when, and with which share of the documents.
    fn lessons(&self, role: Role) -> Vec<Given>;

    /// The items of a split, as they come in pass number `round`.
    fn items(&self, world: &World, split: Split, round: u64) -> Vec<Item>;
}

/// Every task.
pub static TASKS: &[&dyn Task] = &[
    &choice::Choice,
    &open::Open,
    &redacted::Redacted,
    &two_hop::TwoHop,
    &mute::Mute,
    &null::Null,
];

/// The task of that id, in letters of either case.
///
/// # Errors
/// [`Error::UnknownName`] with all there are.
pub fn task(id: &str) -> Result<&'static dyn Task, Error> {
    let known = || TASKS.iter().map(|task| task.id());
    let found = TASKS.iter().find(|task| task.id().eq_ignore_ascii_case(id));
    found.copied().ok_or_else(|| Error::unknown("task", id, known()))
}

/// Chance among four options.
const ONE_IN_FOUR: f64 = 0.25;

/// Every fact of some sets: entity and relation.
fn facts(world: &World, sets: &[Set]) -> impl Iterator<Item = (usize, usize)> {
    let relations = world.preset().relations;
    let members: Vec<_> = sets.iter().map(|set| world.members(*set)).collect();
    members.into_iter().flatten().flat_map(move |entity| (0..relations).map(move |r| (entity, r)))
}

/// A question with options about every fact of some sets.
pub(super) fn choices(world: &World, name: &str, sets: &[Set]) -> Vec<Item> {
    choices_again(world, name, sets, 0)
}

/// As [`choices`], with the options of pass number `round`.
fn choices_again(world: &World, name: &str, sets: &[Set], round: u64) -> Vec<Item> {
    let one = |(entity, relation)| {
        let place = entity * world.preset().relations + relation;
        let mut dice = Dice::new(world.seed(), name, [round, place as u64]);
        let (values, truth) = (world.values(), world.fact(entity, relation));
        let (options, gold) = options(values, truth, &mut dice);
        let answer = Answer::Choice { options: owned(&options), gold };
        let tail = list(&options) + OPTION_TAIL;
        item(world, name, [entity, relation], &tail, answer)
    };
    facts(world, sets).map(one).collect()
}

/// An open question about every fact of some sets.
pub(super) fn recalls(world: &World, name: &str, sets: &[Set]) -> Vec<Item> {
    let one = |(entity, relation)| {
        let gold = world.values()[world.fact(entity, relation)].to_string();
        item(world, name, [entity, relation], WORD_TAIL, Answer::Word { gold })
    };
    facts(world, sets).map(one).collect()
}

/// Statements about every fact of some sets, cut off before the value.
pub(super) fn statements(world: &World, name: &str, sets: &[Set]) -> Vec<Item> {
    let cut = |item: Item| {
        let end = item.asked.find(" which?").expect("every question asks which");
        let text = item.asked[..end].to_string();
        Item { asked: text.clone(), sharer: text.clone(), receiver: text, ..item }
    };
    recalls(world, name, sets).into_iter().map(cut).collect()
}

/// A question about a fact, which sharer and receiver read alike.
fn item(
    world: &World,
    name: &str,
    [entity, relation]: [usize; 2],
    tail: &str,
    answer: Answer,
) -> Item {
    let (who, word) = (world.name(entity), world.relation_name(relation));
    let value = world.values()[world.fact(entity, relation)];
    let prompt = ask(word, who) + tail;
    Item {
        id: format!("{name}/{entity}/{word}"),
        cluster: entity as u64,
        sharer: prompt.clone(),
        asked: prompt.clone(),
        receiver: prompt,
        blots: Vec::new(),
        answer,
        hint: hint(word, who, value),
        held_out: false,
    }
}

fn hint(relation: &str, name: &str, value: &str) -> String {
    format!("The {relation} of {name} is {value}.")
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// The name of a task's items in a split: it begins their ids and tells their draws apart.
fn named(id: &str, split: Split) -> String {
    let split = match split {
        Split::Train => "train",
        Split::Dev => "dev",
        Split::Test => "test",
    };
    format!("{id}/{split}")
}
