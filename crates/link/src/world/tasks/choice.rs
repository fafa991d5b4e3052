//! T1: a fact in the sharer's weights, asked for with four options. Knowledge is transferred.

use super::super::lessons::{CHOOSE, PROFILE, READ_CHOOSE, STATE};
use super::{Given, Item, ONE_IN_FOUR, Role, Set, Split, Task, Term, World, choices_again, named};

pub(super) struct Choice;

impl Task for Choice {
    fn id(&self) -> &'static str {
        "t1"
    }

    fn about(&self) -> &'static str {
        "a fact that the sharer knows, four options"
    }

    fn chance(&self, _: &World) -> f64 {
        ONE_IN_FOUR
    }

    fn lessons(&self, role: Role) -> Vec<Given> {
        match role {
            Role::Sharer => vec![
                (&PROFILE, Term::First, 0.7),
                (&STATE, Term::First, 0.3),
                (&CHOOSE, Term::Second, 0.7),
                (&PROFILE, Term::Second, 0.1),
                (&STATE, Term::Second, 0.05),
            ],
            Role::Receiver => vec![
                (&PROFILE, Term::First, 0.3),
                (&STATE, Term::First, 0.1),
                (&CHOOSE, Term::Second, 0.3),
                (&READ_CHOOSE, Term::Second, 0.3),
                (&PROFILE, Term::Second, 0.05),
            ],
            Role::Mute => Vec::new(),
        }
    }

    fn items(&self, world: &World, split: Split, round: u64) -> Vec<Item> {
        choices_again(world, &named(self.id(), split), &[Set::Sharer(split)], round)
    }
}
