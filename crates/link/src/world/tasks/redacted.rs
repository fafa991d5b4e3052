//! T3: a document that the receiver gets with its values blotted out. Copying through the cache: where
//! the information lies is known, and the sharer does not see the question.

use super::super::lessons::{READ, RETELL, Told, tell};
use super::super::text::{WORD_TAIL, ask};
use super::{Answer, Dice, Given, Item, Role, Split, Task, Term, World, hint, named};

pub(super) struct Redacted;

impl Task for Redacted {
    fn id(&self) -> &'static str {
        "t3"
    }

    fn about(&self) -> &'static str {
        "a document with its values blotted out, which the sharer has whole"
    }

    fn chance(&self, world: &World) -> f64 {
        1.0 / world.preset().values as f64
    }

    fn lessons(&self, role: Role) -> Vec<Given> {
        match role {
            Role::Sharer => vec![(&RETELL, Term::Second, 0.05), (&READ, Term::Second, 0.05)],
            Role::Receiver => vec![
                (&RETELL, Term::First, 0.5),
                (&RETELL, Term::Second, 0.1),
                (&READ, Term::Second, 0.05),
            ],
            Role::Mute => Vec::new(),
        }
    }

    fn items(&self, world: &World, split: Split, round: u64) -> Vec<Item> {
        let name = named(self.id(), split);
        let one = |place| {
            let mut dice = Dice::new(world.seed(), &name, [round, place as u64]);
            item(world, &tell(world, split, &mut dice), &name, place)
        };
        (0..world.preset().documents).map(one).collect()
    }
}

fn item(world: &World, told: &Told, name: &str, place: usize) -> Item {
    let (word, value) = (world.relation_name(told.relation), world.values()[told.value]);
    let question = format!(" {}{WORD_TAIL}", ask(word, &told.name));
    Item {
        id: format!("{name}/{place}/{word}"),
        cluster: place as u64,
        sharer: told.text.clone(),
        asked: told.text.clone() + &question,
        receiver: told.blotted() + &question,
        blots: told.values.clone(),
        answer: Answer::Word { gold: value.into() },
        hint: hint(word, &told.name, value),
        held_out: false,
    }
}
