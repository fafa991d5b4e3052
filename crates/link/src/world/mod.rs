//! A small world of facts in which it can be shown that something was communicated.
//!
//! Entities with invented names have a value for each relation, drawn uniformly: nothing in a name
//! tells its values, so a model that was not told is at chance exactly. Who was told what is decided
//! by the set of an entity: the sharer alone, the receiver alone, both, neither. The sharer's set is
//! divided once more by entity, so that a fuser never sees a fact that it is tested on. Everything is
//! a function of (preset, seed), and [`World::fingerprint`] is the hash of everything that decides it.
//!
//! Read [`World`], [`Item`] and [`TASKS`] first; a further task is a file in `tasks/` and a line there.
//!
//! ```
//! use smidgen_link::world::{Split, World, task};
//!
//! let world = World::new("tiny", 1)?;
//! let items = world.items(task("t1")?, Split::Test);
//! assert_eq!(items.len(), 20 * 2);
//! assert!(items[0].receiver.ends_with("Answer with just one option:"));
//! # Ok::<(), smidgen_link::Error>(())
//! ```

mod dice;
mod exams;
mod item;
mod lessons;
mod preset;
mod school;
mod scoring;
mod tasks;
mod teaching;
mod text;
mod tokenizers;
mod words;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use smidgen_store::sha256_bytes;

pub use exams::{Bound, Exam, Mark};
pub use item::{Answer, Item};
pub use lessons::{Course, Document, FIRST_TERM, Given, Lesson, Term};
pub use preset::{Bar, Bridge, PRESETS, Preset, ROPE_THETA, ROW_TOKENS, Sets, Student};
pub(crate) use school::further;
pub use school::{Graduate, WORLD_JSON};
pub(crate) use scoring::MOST_TOKENS;
pub use scoring::{Alone, Reader, Scored, accuracy, score, score_one};
pub use tasks::{TASKS, Task, task};
pub(crate) use teaching::{Taught, Teaching};
pub use tokenizers::{Tokenizers, Vocabularies};

use crate::Error;
use dice::Dice;
use words::{CITIES, COUNTRIES, RELATIONS};

/// Who learns, or is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Knows the facts and can answer.
    Sharer,
    /// Does not know them.
    Receiver,
    /// Knows the facts and was never shown a question.
    Mute,
}

impl Role {
    /// The name, which is also that of its run directory.
    pub fn name(self) -> &'static str {
        match self {
            Role::Sharer => "sharer",
            Role::Receiver => "receiver",
            Role::Mute => "mute",
        }
    }

    /// The sets whose facts it is told.
    pub fn knows(self) -> &'static [Set] {
        const SHARER: &[Set] = &[
            Set::Sharer(Split::Train),
            Set::Sharer(Split::Dev),
            Set::Sharer(Split::Test),
            Set::Both,
        ];
        match self {
            Role::Sharer | Role::Mute => SHARER,
            Role::Receiver => &[Set::Receiver, Set::Both],
        }
    }
}

/// What items are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To fit a fuser on.
    Train,
    /// To choose by.
    Dev,
    /// To report.
    Test,
}

/// Who knows an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// The sharer alone.
    Sharer(Split),
    /// The receiver alone.
    Receiver,
    /// Both.
    Both,
    /// Neither.
    Neither,
}

/// Entities, their names and what is true of them.
#[derive(Clone, Debug)]
pub struct World {
    preset: Preset,
    seed: u64,
    /// Of entities first, set by set; then of strangers, about whom nothing is true.
    names: Vec<String>,
    /// Value of each entity and relation, `[entities R]`.
    facts: Vec<usize>,
    /// The country of each city.
    countries: Vec<usize>,
    fingerprint: String,
}

impl World {
    /// The world of a preset's name and a seed.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn new(preset: &str, seed: u64) -> Result<World, Error> {
        Ok(World::of(*Preset::named(preset)?, seed))
    }

    /// The world of a size of the caller's own and a seed.
    ///
    /// # Panics
    /// If there are fewer names, values or relations than the sizes ask for.
    pub fn of(preset: Preset, seed: u64) -> World {
        let mut dice = Dice::new(seed, "world-facts", [0, 0]);
        let count = preset.sets.all() * preset.relations;
        let facts = (0..count).map(|_| dice.below(preset.values)).collect();
        let mut countries: Vec<usize> = (0..preset.values).map(|i| i % preset.countries).collect();
        Dice::new(seed, "world-countries", [0, 0]).shuffle(&mut countries);
        let names = names(&preset, seed);
        let mut world = World { preset, seed, names, facts, countries, fingerprint: String::new() };
        world.fingerprint = world.digest();
        world
    }

    /// Its size.
    pub fn preset(&self) -> &Preset {
        &self.preset
    }

    /// Its seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// SHA-256 over everything that decides the world: sizes, facts, items and lessons as they come
    /// out. Every record that depends on the world holds it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// One item for each fact of a split, or one for each document.
    pub fn items(&self, task: &dyn Task, split: Split) -> Vec<Item> {
        self.items_again(task, split, 0)
    }

    /// The items of a split once more, with other options in another order: what a fuser learns from
    /// in its pass number `round`. Round 0 is that of [`World::items`].
    pub fn items_again(&self, task: &dyn Task, split: Split, round: u64) -> Vec<Item> {
        task.items(self, split, round)
    }

    /// Entities of a set.
    pub fn members(&self, set: Set) -> Range<usize> {
        let sets = &self.preset.sets;
        let (before, len) = match set {
            Set::Sharer(Split::Train) => (0, sets.train),
            Set::Sharer(Split::Dev) => (sets.train, sets.dev),
            Set::Sharer(Split::Test) => (sets.train + sets.dev, sets.test),
            Set::Receiver => (sets.train + sets.dev + sets.test, sets.receiver),
            Set::Both => (sets.train + sets.dev + sets.test + sets.receiver, sets.both),
            Set::Neither => (sets.all() - sets.neither, sets.neither),
        };
        before..before + len
    }

    /// The name of an entity.
    pub fn name(&self, entity: usize) -> &str {
        &self.names[entity]
    }

    /// The words for the relations.
    pub fn relations(&self) -> impl Iterator<Item = &'static str> {
        RELATIONS[..self.preset.relations].iter().copied()
    }

    /// All values, which are those of every relation: cities.
    pub fn values(&self) -> &'static [&'static str] {
        &CITIES[..self.preset.values]
    }

    /// The place among its values of what is true.
    pub fn fact(&self, entity: usize, relation: usize) -> usize {
        self.facts[entity * self.preset.relations + relation]
    }

    /// The countries.
    pub fn countries(&self) -> &'static [&'static str] {
        &COUNTRIES[..self.preset.countries]
    }

    /// The country of a city, both by their places.
    pub fn country(&self, city: usize) -> usize {
        self.countries[city]
    }

    /// Whether no fuser is shown a question about the country of this city: one city in four, so that
    /// what a fuser learnt by heart of the map can be told from what the receiver knows.
    pub fn is_held_out(&self, city: usize) -> bool {
        city % 4 == 3
    }

    fn relation_name(&self, relation: usize) -> &'static str {
        RELATIONS[relation]
    }

    /// Names that belong to nobody, for documents that make up their own facts.
    fn strangers(&self, split: Split) -> &[String] {
        let free = &self.names[self.preset.sets.all()..];
        let fifth = free.len() / 5;
        match split {
            Split::Train => &free[..free.len() - 2 * fifth],
            Split::Dev => &free[free.len() - 2 * fifth..free.len() - fifth],
            Split::Test => &free[free.len() - fifth..],
        }
    }

    fn digest(&self) -> String {
        let mut all = serde_json::to_string(&self.preset).expect("a preset is numbers and names");
        all += &format!("{} {:?} {:?} {:?}", self.seed, self.names, self.facts, self.countries);
        for task in TASKS {
            for split in [Split::Train, Split::Dev, Split::Test] {
                for item in self.items(*task, split).iter().take(64) {
                    all += &serde_json::to_string(item).expect("an item is texts and numbers");
                }
            }
        }
        for role in [Role::Sharer, Role::Receiver, Role::Mute] {
            let course = lessons::Course::of(role);
            (0..256).for_each(|i| all += &course.document(self, "digest", Term::Both, [i, 0]).text);
        }
        sha256_bytes(all.as_bytes())
    }
}

/// Every pair of a first and a second name, in an order of the seed's own.
fn names(preset: &Preset, seed: u64) -> Vec<String> {
    let count = preset.name_parts;
    let joined = |a: &[&str], b: &[&str], gap| -> Vec<String> {
        let pairs = a.iter().flat_map(|a| b.iter().map(move |b| format!("{a}{gap}{b}")));
        pairs.collect()
    };
    let parts = words::NAME_PARTS.map(|[a, b]| joined(&a[..count], &b[..count], ""));
    let [first, second] =
        parts.each_ref().map(|part| part.iter().map(String::as_str).collect::<Vec<_>>());
    let mut names = joined(&first, &second, " ");
    Dice::new(seed, "world-names", [0, 0]).shuffle(&mut names);
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const SPLITS: [Split; 3] = [Split::Train, Split::Dev, Split::Test];

    fn small() -> World {
        World::new("small", 1).unwrap()
    }

    #[test]
    fn a_world_is_a_function_of_preset_and_seed() {
        let print = |preset, seed| World::new(preset, seed).unwrap().fingerprint().to_string();
        assert_eq!(print("tiny", 1), print("tiny", 1));
        let prints = [print("tiny", 1), print("tiny", 2), print("small", 1)];
        assert_eq!(prints.iter().collect::<HashSet<_>>().len(), 3);
        let other = Preset { facts_told: 2, ..*Preset::named("tiny").unwrap() };
        assert_ne!(World::of(other, 1).fingerprint(), prints[0]);
    }

    #[test]
    fn sets_are_disjoint_and_names_are_taken_once() {
        let world = small();
        let others = [Set::Receiver, Set::Both, Set::Neither];
        let sets = SPLITS.map(Set::Sharer).into_iter().chain(others);
        let members: Vec<usize> = sets.flat_map(|set| world.members(set)).collect();
        assert_eq!(members, (0..world.preset().sets.all()).collect::<Vec<_>>());
        assert_eq!(world.names.iter().collect::<HashSet<_>>().len(), world.names.len());
        let strangers: usize = SPLITS.map(|split| world.strangers(split).len()).iter().sum();
        assert_eq!(members.len() + strangers, world.names.len());
    }

    #[test]
    fn values_are_uniform() {
        let world = small();
        let (entities, values) = (world.preset().sets.all(), world.preset().values);
        for relation in 0..world.preset().relations {
            let mut counts = vec![0_f64; values];
            (0..entities).for_each(|entity| counts[world.fact(entity, relation)] += 1.0);
            let expected = entities as f64 / values as f64;
            let chi2: f64 = counts.iter().map(|n| (n - expected).powi(2) / expected).sum();
            // 31 degrees of freedom: over 61 once in a thousand worlds.
            assert!(chi2 < 61.0, "{chi2}");
        }
    }

    #[test]
    fn nobody_is_told_what_only_the_other_knows() {
        let world = small();
        let names = |sets: &[Set]| -> HashSet<&str> {
            sets.iter().flat_map(|set| world.members(*set)).map(|e| world.name(e)).collect()
        };
        let own = SPLITS.map(Set::Sharer);
        let secret = [
            (Role::Sharer, names(&[Set::Receiver, Set::Neither])),
            (Role::Mute, names(&[Set::Receiver, Set::Neither])),
            (Role::Receiver, names(&[&own[..], &[Set::Neither]].concat())),
        ];
        for (role, secret) in secret {
            let course = Course::of(role);
            for i in 0..3000 {
                let text = course.document(&world, "test", Term::Both, [i, 0]).text;
                let words: Vec<&str> =
                    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
                let told = words.windows(2).any(|pair| secret.contains(&*pair.join(" ")));
                assert!(!told, "{role:?} is told `{text}`");
                let maps = COUNTRIES.iter().any(|country| text.contains(country));
                assert!(role == Role::Receiver || !maps, "{role:?} is told `{text}`");
            }
        }
    }

    #[test]
    fn splits_share_no_entity_and_rounds_no_order() {
        let world = small();
        for task in TASKS.iter().filter(|task| task.id() != "t3") {
            let clusters = SPLITS.map(|split| {
                world.items(*task, split).iter().map(|item| item.cluster).collect::<HashSet<_>>()
            });
            assert!(clusters[0].is_disjoint(&clusters[2]) && clusters[1].is_disjoint(&clusters[2]));
        }
        let items = |round| world.items_again(task("t1").unwrap(), Split::Test, round);
        assert_eq!(items(0), world.items(task("t1").unwrap(), Split::Test));
        assert!(items(0).len() >= 1024);
        let same = items(0).iter().zip(&items(1)).filter(|(a, b)| a.answer == b.answer).count();
        assert!(same < 40, "{same} of 1024 come in the same order");
    }

    #[test]
    fn every_item_fits_its_task() {
        let world = small();
        for task in TASKS {
            let items = world.items(*task, Split::Test);
            let ids: HashSet<&str> = items.iter().map(|item| &*item.id).collect();
            assert_eq!(ids.len(), items.len());
            for item in items {
                assert!(item.asked.ends_with(':') && item.receiver.ends_with(':'), "{item:?}");
                assert!(item.sharer.len() <= item.receiver.len());
                let gold = item.answer.gold();
                if let Answer::Choice { options, gold } = &item.answer {
                    assert_eq!(options.iter().collect::<HashSet<_>>().len(), 4);
                    assert!(*gold < 4 && item.receiver.contains(&format!(" {}", options[*gold])));
                } else {
                    assert!(!item.receiver.contains(gold), "{item:?}");
                }
                assert!(item.held_out || task.id() == "t4" || item.hint.contains(gold));
            }
        }
        let taught = world.items(task("t4").unwrap(), Split::Train);
        assert!(taught.len() > 300 && taught.iter().all(|item| !item.held_out));
        let held = world.items(task("t4").unwrap(), Split::Test);
        assert!(held.iter().filter(|item| item.held_out).count() > 32);
    }

    #[test]
    fn what_is_blotted_out_lies_where_the_sharer_reads_it() {
        let world = small();
        for item in world.items(task("t3").unwrap(), Split::Test) {
            let mut whole = item.receiver.clone();
            for at in &item.blots {
                assert_eq!(&item.receiver[at.clone()], text::BLOT);
                whole.replace_range(at.clone(), &item.sharer[at.clone()]);
            }
            assert_eq!(whole, item.asked);
            assert!(item.asked.starts_with(&item.sharer));
            assert_eq!(item.blots.len(), world.preset().facts_told);
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest() {
        let error = World::new("tine", 0).unwrap_err().to_string();
        assert!(error.contains("unknown preset `tine`") && error.contains("`tiny`?"), "{error}");
        assert!(task("t9").err().unwrap().to_string().contains("t1, t2, t3, t4, t7, t8"));
    }
}
