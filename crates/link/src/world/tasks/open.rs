//! T2: the same facts, the value written out. No letters are involved.

use super::super::lessons::{RECALL, STATE};
use super::{Item, Lesson, Role, Set, Split, Task, World, named, recalls};

pub(super) struct Open;

impl Task for Open {
    fn id(&self) -> &'static str {
        "t2"
    }

    fn about(&self) -> &'static str {
        "a fact that the sharer knows, written out"
    }

    fn chance(&self, world: &World) -> f64 {
        1.0 / world.preset().values as f64
    }

    fn lessons(&self, role: Role) -> Vec<(&'static Lesson, f64)> {
        match role {
            Role::Sharer => vec![(&STATE, 0.3), (&RECALL, 0.1)],
            Role::Receiver => vec![(&STATE, 0.2), (&RECALL, 0.1)],
            Role::Mute => vec![(&STATE, 1.0)],
        }
    }

    fn items(&self, world: &World, split: Split, _: u64) -> Vec<Item> {
        recalls(world, &named(self.id(), split), &[Set::Sharer(split)])
    }
}
