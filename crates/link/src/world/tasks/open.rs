//! T2: the same facts, the value written out. No letters are involved.

use super::super::lessons::RECALL;
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
            Role::Sharer => vec![(&RECALL, 0.1)],
            Role::Receiver => vec![(&RECALL, 0.1)],
            Role::Mute => vec![],
        }
    }

    fn items(&self, world: &World, split: Split, _: u64) -> Vec<Item> {
        recalls(world, &named(self.id(), split), &[Set::Sharer(split)])
    }
}
