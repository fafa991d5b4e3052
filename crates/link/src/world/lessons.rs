//! What models are taught: kinds of documents, drawn afresh every time.
//!
//! Options come in another order and facts in another wording whenever they are told again, so that
//! what is learnt is the fact and not the line.

use std::ops::Range;

use super::dice::Dice;
use super::text::{
    BLOT, LETTER_TAIL, LETTERS, PLACES, STATEMENTS, WORD_TAIL, ask, ask_country, list, place,
    prose, state,
};
use super::{Role, Set, Split, TASKS, World};

/// A text to learn from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// Bytes of it that can be known: values and answers.
    pub known: Vec<Range<usize>>,
    /// Whether the end of the text is part of the last answer.
    pub ends: bool,
}

impl Document {
    fn new(text: String, known: Range<usize>) -> Document {
        Document { text, known: vec![known], ends: false }
    }

    /// A prompt with its answer.
    fn answered(prompt: String, answer: &str) -> Document {
        let text = format!("{prompt} {answer}");
        Document { known: std::iter::once(prompt.len()..text.len()).collect(), text, ends: true }
    }
}

/// A kind of document.
#[derive(Debug)]
pub struct Lesson {
    /// Its name.
    pub name: &'static str,
    draw: fn(&World, Role, &mut Dice) -> Document,
}

/// Facts as statements.
pub(crate) static STATE: Lesson = Lesson {
    name: "state",
    draw: |world, role, dice| {
        let (entity, relation) = fact(world, role.knows(), dice);
        let value = world.values(relation)[world.fact(entity, relation)];
        let wording = dice.pick(STATEMENTS);
        let (text, at) = state(wording, world.relation_name(relation), world.name(entity), value);
        Document::new(text, at)
    },
};

/// Facts as questions with options.
pub(crate) static CHOOSE: Lesson = Lesson {
    name: "choose",
    draw: |world, role, dice| {
        let (entity, relation) = fact(world, role.knows(), dice);
        let asked = ask(world.relation_name(relation), world.name(entity));
        choice(asked, world.values(relation), world.fact(entity, relation), dice)
    },
};

/// Facts as open questions.
pub(crate) static RECALL: Lesson = Lesson {
    name: "recall",
    draw: |world, role, dice| {
        let (entity, relation) = fact(world, role.knows(), dice);
        let asked = ask(world.relation_name(relation), world.name(entity));
        let value = world.values(relation)[world.fact(entity, relation)];
        Document::answered(asked + WORD_TAIL, value)
    },
};

/// Documents about strangers, and an open question about one of them.
pub(crate) static READ: Lesson = Lesson {
    name: "read",
    draw: |world, _, dice| {
        let told = tell(world, Split::Train, dice);
        let asked = ask(world.relation_name(told.relation), &told.name);
        let value = world.values(told.relation)[told.value];
        Document::answered(format!("{} {asked}{WORD_TAIL}", told.text), value)
    },
};

/// A fact about a stranger, and a question with options about it.
pub(crate) static READ_CHOOSE: Lesson = Lesson {
    name: "read-choose",
    draw: |world, _, dice| {
        let (text, name, relation, value) = one_told(world, None, dice);
        let asked = format!("{text} {}", ask(world.relation_name(relation), &name));
        choice(asked, world.values(relation), value, dice)
    },
};

/// Where cities lie, as statements.
pub(crate) static ATLAS: Lesson = Lesson {
    name: "atlas",
    draw: |world, _, dice| {
        let city = dice.below(world.preset().values);
        let country = world.countries()[world.country(city)];
        let wording = dice.pick(PLACES);
        let (text, at) = place(wording, world.values(0)[city], country);
        Document::new(text, at)
    },
};

/// Questions about the country of the city of somebody known.
pub(crate) static HOP: Lesson = Lesson {
    name: "hop",
    draw: |world, role, dice| {
        let (entity, _) = fact(world, role.knows(), dice);
        let country = world.country(world.fact(entity, 0));
        choice(ask_country(world.name(entity)), world.countries(), country, dice)
    },
};

/// The city of a stranger, and a question about the country.
pub(crate) static READ_HOP: Lesson = Lesson {
    name: "read-hop",
    draw: |world, _, dice| {
        let (text, name, _, city) = one_told(world, Some(0), dice);
        let asked = format!("{text} {}", ask_country(&name));
        choice(asked, world.countries(), world.country(city), dice)
    },
};

/// Sentences about nothing.
pub(crate) static PROSE: Lesson = Lesson {
    name: "prose",
    draw: |_, _, dice| Document {
        text: format!("{} {}", prose(dice), prose(dice)),
        ..Document::default()
    },
};

/// The lessons of a role, each with its share of the documents.
#[derive(Clone, Debug)]
pub struct Course {
    role: Role,
    lessons: Vec<(&'static Lesson, f64)>,
}

impl Course {
    /// What all tasks together ask a role to be taught; where several ask for a lesson, the largest
    /// share counts.
    pub fn of(role: Role) -> Course {
        let mut lessons: Vec<(&'static Lesson, f64)> = vec![(&PROSE, 0.02)];
        for (lesson, share) in TASKS.iter().flat_map(|task| task.lessons(role)) {
            match lessons.iter_mut().find(|(known, _)| known.name == lesson.name) {
                Some((_, most)) => *most = most.max(share),
                None => lessons.push((lesson, share)),
            }
        }
        Course { role, lessons }
    }

    /// The document of a place in what `purpose` names.
    pub(crate) fn document(&self, world: &World, purpose: &str, place: [u64; 2]) -> Document {
        let mut dice = Dice::new(world.seed(), purpose, place);
        let total: f64 = self.lessons.iter().map(|(_, share)| share).sum();
        let mut left = dice.uniform() * total;
        let drawn = self.lessons.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        let (lesson, _) = drawn.unwrap_or(&self.lessons[0]);
        (lesson.draw)(world, self.role, &mut dice)
    }
}

/// Any fact of some sets.
fn fact(world: &World, sets: &[Set], dice: &mut Dice) -> (usize, usize) {
    let ranges = sets.iter().map(|set| world.members(*set));
    let total = ranges.clone().map(|range| range.len()).sum();
    let place = dice.below(total);
    let entity = ranges.flatten().nth(place).expect("the place is below their number");
    (entity, dice.below(world.preset().relations))
}

/// A question with options and the letter of the right one.
fn choice(asked: String, values: &[&'static str], gold: usize, dice: &mut Dice) -> Document {
    let (options, gold) = options(values, gold, dice);
    Document::answered(asked + &list(&options) + LETTER_TAIL, LETTERS[gold])
}

/// Four of the values in any order, the right one among them, and its place.
pub(super) fn options(
    values: &[&'static str],
    gold: usize,
    dice: &mut Dice,
) -> (Vec<&'static str>, usize) {
    let mut others: Vec<usize> = (0..values.len()).filter(|place| *place != gold).collect();
    dice.shuffle(&mut others);
    let mut drawn = [gold, others[0], others[1], others[2]];
    dice.shuffle(&mut drawn);
    let place = drawn.iter().position(|drawn| *drawn == gold).expect("it is one of them");
    (drawn.map(|place| values[place]).to_vec(), place)
}

/// One fact that is made up: its statement, whom it is about, relation and value.
fn one_told(
    world: &World,
    relation: Option<usize>,
    dice: &mut Dice,
) -> (String, String, usize, usize) {
    let name = dice.pick(world.strangers(Split::Train)).clone();
    let relation = relation.unwrap_or_else(|| dice.below(world.preset().relations));
    let value = dice.below(world.preset().values);
    let word = world.values(relation)[value];
    let wording = dice.pick(STATEMENTS);
    let (text, _) = state(wording, world.relation_name(relation), &name, word);
    (text, name, relation, value)
}

/// A document about strangers, and the fact in it that is asked for.
pub(super) struct Told {
    pub(super) text: String,
    /// Bytes of all values in it.
    pub(super) values: Vec<Range<usize>>,
    pub(super) name: String,
    pub(super) relation: usize,
    pub(super) value: usize,
}

impl Told {
    /// The text with every value blotted out.
    pub(super) fn blotted(&self) -> String {
        let mut text = self.text.clone();
        self.values.iter().for_each(|at| text.replace_range(at.clone(), BLOT));
        text
    }
}

/// Several made-up facts, in any order with prose between them.
pub(super) fn tell(world: &World, split: Split, dice: &mut Dice) -> Told {
    let mut names: Vec<&String> = world.strangers(split).iter().collect();
    let count = world.preset().facts_told;
    for place in 0..count {
        let other = place + dice.below(names.len() - place);
        names.swap(place, other);
    }
    let facts: Vec<(&String, usize, usize)> = names[..count]
        .iter()
        .map(|name| {
            (*name, dice.below(world.preset().relations), dice.below(world.preset().values))
        })
        .collect();
    let (name, relation, value) = *dice.pick(&facts);
    let mut sentences: Vec<(String, Option<Range<usize>>)> = facts
        .iter()
        .map(|(name, relation, value)| {
            let value = world.values(*relation)[*value];
            let wording = dice.pick(STATEMENTS);
            let (text, at) = state(wording, world.relation_name(*relation), name, value);
            (text, Some(at))
        })
        .collect();
    (0..count / 2).for_each(|_| sentences.push((prose(dice), None)));
    dice.shuffle(&mut sentences);
    let (mut text, mut values) = (String::new(), Vec::new());
    for (sentence, at) in sentences {
        if !text.is_empty() {
            text.push(' ');
        }
        values.extend(at.map(|at| text.len() + at.start..text.len() + at.end));
        text += &sentence;
    }
    Told { text, values, name: name.clone(), relation, value }
}
