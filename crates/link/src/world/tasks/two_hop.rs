//! T4: the country of the city of somebody. The sharer knows the city and no country; the receiver
//! knows the countries of cities and not this city. Neither can answer alone.
//!
//! A fuser that is taught on these questions could learn the map itself. So it is taught on three
//! cities in four only, and items about the others are marked: they need the receiver's own map.

use super::super::lessons::{ATLAS, HOP, READ_HOP, options};
use super::super::text::{OPTION_TAIL, ask_country, list};
use super::{
    Answer, Dice, Given, Item, ONE_IN_FOUR, Role, Set, Split, Task, Term, World, item, named, owned,
};

pub(super) struct TwoHop;

impl Task for TwoHop {
    fn id(&self) -> &'static str {
        "t4"
    }

    fn about(&self) -> &'static str {
        "the country of a city that only the sharer knows, on the receiver's map"
    }

    fn chance(&self, _: &World) -> f64 {
        ONE_IN_FOUR
    }

    fn lessons(&self, role: Role) -> Vec<Given> {
        match role {
            Role::Sharer | Role::Mute => Vec::new(),
            Role::Receiver => vec![
                (&ATLAS, Term::Both, 0.05),
                (&HOP, Term::Second, 0.1),
                (&READ_HOP, Term::Second, 0.15),
            ],
        }
    }

    fn items(&self, world: &World, split: Split, round: u64) -> Vec<Item> {
        let items = hops(world, &named(self.id(), split), Set::Sharer(split), round);
        items.into_iter().filter(|item| split != Split::Train || !item.held_out).collect()
    }
}

/// A question about the country of every entity of a set.
pub(in super::super) fn hops(world: &World, name: &str, set: Set, round: u64) -> Vec<Item> {
    world.members(set).map(|entity| hop(world, name, entity, round)).collect()
}

fn hop(world: &World, name: &str, entity: usize, round: u64) -> Item {
    let (who, city) = (world.name(entity), world.fact(entity, 0));
    let mut dice = Dice::new(world.seed(), name, [round, entity as u64]);
    let (options, gold) = options(world.countries(), world.country(city), &mut dice);
    let prompt = ask_country(who) + &list(&options) + OPTION_TAIL;
    let answer = Answer::Choice { options: owned(&options), gold };
    Item {
        sharer: prompt.clone(),
        asked: prompt.clone(),
        receiver: prompt,
        held_out: world.is_held_out(city),
        ..item(world, name, [entity, 0], "", answer)
    }
}
