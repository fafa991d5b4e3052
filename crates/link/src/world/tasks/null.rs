//! T8: the questions of T1 about entities that nobody knows. Whatever is over chance here has leaked.

use super::{Given, Item, ONE_IN_FOUR, Role, Set, Split, Task, World, choices_again, named};

pub(super) struct Null;

impl Task for Null {
    fn id(&self) -> &'static str {
        "t8"
    }

    fn about(&self) -> &'static str {
        "a fact that nobody knows: the leak test"
    }

    fn chance(&self, _: &World) -> f64 {
        ONE_IN_FOUR
    }

    fn lessons(&self, _: Role) -> Vec<Given> {
        Vec::new()
    }

    fn items(&self, world: &World, split: Split, round: u64) -> Vec<Item> {
        match split {
            Split::Test => choices_again(world, &named(self.id(), split), &[Set::Neither], round),
            // Nothing may be fitted to them.
            Split::Train | Split::Dev => Vec::new(),
        }
    }
}
