//! What models are taught: kinds of documents, drawn afresh every time.
//!
//! Options come in another order and facts in another wording whenever they are told again, so that
//! what is learnt is the fact and not the line.

use std::ops::Range;

use super::dice::Dice;
use super::text::{
    BLOT, OPTION_TAIL, PLACES, PROFILES, STATEMENTS, WORD_TAIL, ask, ask_country, list, place,
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
    /// A question: where its tail stands, whose words nobody has to learn. The answer is asked for at each of
    /// them instead, so it has to be known there, and a cache of the tail holds it. The end of the text
    /// is part of the answer.
    pub tail: Option<Range<usize>>,
}

impl Document {
    /// A statement with what it states.
    fn stated(text: String, known: Range<usize>) -> Document {
        Document { text, known: vec![known], tail: None }
    }

    /// A question with its tail, and its answer.
    fn answered(question: String, tail: &str, answer: &str) -> Document {
        let asked = question.len()..question.len() + tail.len();
        let text = format!("{question}{tail} {answer}");
        Document {
            known: std::iter::once(asked.end..text.len()).collect(),
            text,
            tail: Some(asked),
        }
    }
}

/// When a lesson is given. Questions keep facts from being learnt where they are asked from the start, and
/// are learnt in a fraction of the time once the facts are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Up to [`FIRST_TERM`] of a schedule.
    First,
    /// From there on.
    Second,
    /// Throughout.
    Both,
}

/// Share of a schedule's steps that the first term takes.
pub const FIRST_TERM: f64 = 0.2;

/// A lesson, when it is given, and its share of the documents of that time.
pub type Given = (&'static Lesson, Term, f64);

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
        let value = world.fact(entity, relation);
        let (text, at) = statement(world, world.name(entity), relation, value, dice);
        Document::stated(text, at)
    },
};

/// All facts about somebody in one sentence, in any order.
pub(crate) static PROFILE: Lesson = Lesson {
    name: "profile",
    draw: |world, role, dice| {
        let (entity, _) = fact(world, role.knows(), dice);
        let mut relations: Vec<usize> = (0..world.preset().relations).collect();
        dice.shuffle(&mut relations);
        let mut text = dice.pick(PROFILES).replace("{e}", world.name(entity));
        let mut known = Vec::new();
        for (place, relation) in relations.into_iter().enumerate() {
            let value = world.values()[world.fact(entity, relation)];
            let comma = if place == 0 { "" } else { "," };
            text += &format!("{comma} the {} {value}", world.relation_name(relation));
            known.push(text.len() - value.len()..text.len());
        }
        Document { text: text + ".", known, tail: None }
    },
};

/// Facts as questions with options.
pub(crate) static CHOOSE: Lesson = Lesson {
    name: "choose",
    draw: |world, role, dice| {
        let (entity, relation) = fact(world, role.knows(), dice);
        let asked = ask(world.relation_name(relation), world.name(entity));
        choice(asked, world.values(), world.fact(entity, relation), dice)
    },
};

/// Facts as open questions.
pub(crate) static RECALL: Lesson = Lesson {
    name: "recall",
    draw: |world, role, dice| {
        let (entity, relation) = fact(world, role.knows(), dice);
        let asked = ask(world.relation_name(relation), world.name(entity));
        let value = world.values()[world.fact(entity, relation)];
        Document::answered(asked, WORD_TAIL, value)
    },
};

/// Documents about strangers, and an open question about one of them.
pub(crate) static READ: Lesson = Lesson {
    name: "read",
    draw: |world, _, dice| {
        let told = tell(world, Split::Train, dice);
        let asked = ask(world.relation_name(told.relation), &told.name);
        let value = world.values()[told.value];
        Document::answered(format!("{} {asked}", told.text), WORD_TAIL, value)
    },
};

/// Documents about strangers whose facts are told once more, in other words and another order: the
/// densest way to learn where in a text a fact stands.
pub(crate) static RETELL: Lesson = Lesson {
    name: "retell",
    draw: |world, _, dice| {
        let Told { mut text, mut facts, .. } = tell(world, Split::Train, dice);
        dice.shuffle(&mut facts);
        let mut known = Vec::new();
        for (name, relation, value) in facts {
            let (sentence, at) = statement(world, &name, relation, value, dice);
            text.push(' ');
            known.push(text.len() + at.start..text.len() + at.end);
            text += &sentence;
        }
        Document { text, known, tail: None }
    },
};

/// A fact about a stranger, and a question with options about it.
pub(crate) static READ_CHOOSE: Lesson = Lesson {
    name: "read-choose",
    draw: |world, _, dice| {
        let (text, name, relation, value) = one_told(world, None, dice);
        let asked = format!("{text} {}", ask(world.relation_name(relation), &name));
        choice(asked, world.values(), value, dice)
    },
};

/// Where cities lie, as statements.
pub(crate) static ATLAS: Lesson = Lesson {
    name: "atlas",
    draw: |world, _, dice| {
        let city = dice.below(world.preset().values);
        let country = world.countries()[world.country(city)];
        let wording = dice.pick(PLACES);
        let (text, at) = place(wording, world.values()[city], country);
        Document::stated(text, at)
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

/// The lessons of a role.
#[derive(Clone, Debug)]
pub struct Course {
    role: Role,
    lessons: Vec<Given>,
}

impl Course {
    /// What all tasks together ask a role to be taught; where several ask for a lesson at the same time, the
    /// largest share counts.
    pub fn of(role: Role) -> Course {
        let mut lessons: Vec<Given> = vec![(&PROSE, Term::Both, 0.02)];
        for (lesson, term, share) in TASKS.iter().flat_map(|task| task.lessons(role)) {
            let is_same =
                |(known, when, _): &&mut Given| known.name == lesson.name && *when == term;
            match lessons.iter_mut().find(is_same) {
                Some((_, _, most)) => *most = most.max(share),
                None => lessons.push((lesson, term, share)),
            }
        }
        Course { role, lessons }
    }

    /// The document of a place in what `purpose` names, out of the lessons of a term or of all there are.
    pub(crate) fn document(
        &self,
        world: &World,
        purpose: &str,
        term: Term,
        place: [u64; 2],
    ) -> Document {
        let mut dice = Dice::new(world.seed(), purpose, place);
        let is_given = |when: Term| [when, term].contains(&Term::Both) || when == term;
        let given = || self.lessons.iter().filter(|(_, when, _)| is_given(*when));
        let mut left = dice.uniform() * given().map(|(_, _, share)| share).sum::<f64>();
        let drawn = given().find(|(_, _, share)| {
            left -= share;
            left < 0.0
        });
        let (lesson, ..) = drawn.unwrap_or(&self.lessons[0]);
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

/// A fact in one of the wordings, and where its value stands.
fn statement(
    world: &World,
    name: &str,
    relation: usize,
    value: usize,
    dice: &mut Dice,
) -> (String, Range<usize>) {
    let wording = dice.pick(STATEMENTS);
    state(wording, world.relation_name(relation), name, world.values()[value])
}

/// A question with options and the right one.
fn choice(asked: String, values: &[&'static str], gold: usize, dice: &mut Dice) -> Document {
    let (options, gold) = options(values, gold, dice);
    Document::answered(asked + &list(&options), OPTION_TAIL, options[gold])
}

/// Four of the values in any order, the right one among them, and its place. No two begin alike, so that
/// the first token of a word tells it.
pub(super) fn options(
    values: &[&'static str],
    gold: usize,
    dice: &mut Dice,
) -> (Vec<&'static str>, usize) {
    let mut others: Vec<usize> = (0..values.len()).collect();
    dice.shuffle(&mut others);
    let mut drawn = vec![gold];
    for other in others {
        let begins_alike = |place: &usize| values[*place][..1] == values[other][..1];
        if drawn.len() < 4 && !drawn.iter().any(begins_alike) {
            drawn.push(other);
        }
    }
    dice.shuffle(&mut drawn);
    let place = drawn.iter().position(|drawn| *drawn == gold).expect("it is one of them");
    (drawn.iter().map(|place| values[*place]).collect(), place)
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
    let (text, _) = statement(world, &name, relation, value, dice);
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
    /// Everything told: name, relation, value.
    pub(super) facts: Vec<(String, usize, usize)>,
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
    let facts: Vec<(String, usize, usize)> = names[..count]
        .iter()
        .map(|name| {
            let (relation, value) = (world.preset().relations, world.preset().values);
            (name.to_string(), dice.below(relation), dice.below(value))
        })
        .collect();
    let (name, relation, value) = dice.pick(&facts).clone();
    let mut sentences: Vec<(String, Option<Range<usize>>)> = facts
        .iter()
        .map(|(name, relation, value)| {
            let (text, at) = statement(world, name, *relation, *value, dice);
            (text, Some(at))
        })
        .collect();
    (0..world.preset().prose_told).for_each(|_| sentences.push((prose(dice), None)));
    dice.shuffle(&mut sentences);
    let (mut text, mut values) = (String::new(), Vec::new());
    for (sentence, at) in sentences {
        if !text.is_empty() {
            text.push(' ');
        }
        values.extend(at.map(|at| text.len() + at.start..text.len() + at.end));
        text += &sentence;
    }
    Told { text, values, name, relation, value, facts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn documents(lesson: &Lesson, role: Role) -> (World, Vec<Document>) {
        let world = World::new("small", 1).unwrap();
        let draw = |i| (lesson.draw)(&world, role, &mut Dice::new(1, "test", [i, 0]));
        let documents = (0..200).map(draw).collect();
        (world, documents)
    }

    #[test]
    fn a_profile_tells_every_fact_of_somebody() {
        let (world, documents) = documents(&PROFILE, Role::Sharer);
        for document in documents {
            let told = |entity: &usize| document.text.contains(world.name(*entity));
            let entity = (0..world.preset().sets.all()).find(told).unwrap();
            assert_eq!(document.known.len(), world.preset().relations);
            for relation in 0..world.preset().relations {
                let value = world.values()[world.fact(entity, relation)];
                let fact = format!("the {} {value}", world.relation_name(relation));
                assert!(document.text.contains(&fact), "{}", document.text);
            }
        }
    }

    #[test]
    fn what_is_retold_was_told_before() {
        let (world, documents) = documents(&RETELL, Role::Receiver);
        for document in documents {
            let first = document.known[0].start;
            assert_eq!(document.known.len(), world.preset().facts_told);
            for value in document.known {
                assert!(
                    document.text[..first].contains(&document.text[value]),
                    "{}",
                    document.text
                );
            }
        }
    }

    #[test]
    fn options_hold_the_right_one_and_never_begin_alike() {
        let world = World::new("small", 1).unwrap();
        let mut places = [0; 4];
        for i in 0..2000 {
            let mut dice = Dice::new(1, "options", [i, 0]);
            let gold = dice.below(32);
            let (options, place) = options(world.values(), gold, &mut dice);
            assert_eq!(options[place], world.values()[gold]);
            assert_eq!(options.iter().map(|word| &word[..1]).collect::<HashSet<_>>().len(), 4);
            places[place] += 1;
        }
        assert!(places.iter().all(|count| (420..580).contains(count)), "{places:?}");
    }

    #[test]
    fn questions_come_when_facts_are_there() {
        let world = World::new("small", 1).unwrap();
        let asked = |role, term| {
            let course = Course::of(role);
            let document = |i| course.document(&world, "test", term, [i, 0]);
            (0..400).map(document).filter(|document| document.tail.is_some()).count()
        };
        for role in [Role::Sharer, Role::Receiver] {
            assert_eq!(asked(role, Term::First), 0);
            assert!(asked(role, Term::Second) > 200);
        }
        assert_eq!(asked(Role::Mute, Term::Both), 0);
    }
}
