//! T1: a fact in the sharer's weights, asked for with four options. Knowledge is transferred.

use super::super::lessons::{CHOOSE, READ_CHOOSE, STATE};
use super::{Item, Lesson, ONE_IN_FOUR, Role, Set, Split, Task, World, choices_again, named};

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

    fn lessons(&self, role: Role) -> Vec<(&'static Lesson, f64)> {
        match role {
            Role::Sharer => vec![(&STATE, 0.15), (&CHOOSE, 0.65)],
            Role::Receiver => vec![(&STATE, 0.1), (&CHOOSE, 0.3), (&READ_CHOOSE, 0.3)],
            Role::Mute => vec![(&STATE, 1.0)],
        }
    }

    fn items(&self, world: &World, split: Split, round: u64) -> Vec<Item> {
        choices_again(world, &named(self.id(), split), &[Set::Sharer(split)], round)
    }
}
