//! T2: the same facts, the value written out among all there are.

use super::super::lessons::RECALL;
use super::{Given, Item, Role, Set, Split, Task, Term, World, named, recalls};

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

    fn lessons(&self, role: Role) -> Vec<Given> {
        match role {
            Role::Sharer => vec![(&RECALL, Term::Second, 0.1)],
            Role::Receiver => vec![(&RECALL, Term::Second, 0.05)],
            Role::Mute => Vec::new(),
        }
    }

    fn items(&self, world: &World, split: Split, _: u64) -> Vec<Item> {
        recalls(world, &named(self.id(), split), &[Set::Sharer(split)])
    }
}
