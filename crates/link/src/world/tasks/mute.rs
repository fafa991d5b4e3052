//! T7: the items of T1 with a sharer that was told facts and never shown a question. A cache can be
//! read where the model cannot answer.

use super::super::lessons::{PROFILE, STATE};
use super::{Given, Item, ONE_IN_FOUR, Role, Set, Split, Task, Term, World, choices_again, named};

pub(super) struct Mute;

impl Task for Mute {
    fn id(&self) -> &'static str {
        "t7"
    }

    fn about(&self) -> &'static str {
        "a fact that the sharer was told and cannot say, four options"
    }

    fn chance(&self, _: &World) -> f64 {
        ONE_IN_FOUR
    }

    fn sharer(&self) -> Role {
        Role::Mute
    }

    fn lessons(&self, role: Role) -> Vec<Given> {
        match role {
            Role::Mute => vec![(&PROFILE, Term::Both, 0.7), (&STATE, Term::Both, 0.3)],
            Role::Sharer | Role::Receiver => Vec::new(),
        }
    }

    fn items(&self, world: &World, split: Split, round: u64) -> Vec<Item> {
        choices_again(world, &named(self.id(), split), &[Set::Sharer(split)], round)
    }
}
