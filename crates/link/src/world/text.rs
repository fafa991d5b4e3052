//! How the world speaks: statements, questions, documents and prose, as plain strings.
//!
//! A question begins as a statement does ("The home of Velan Moro is"), so that a model which was
//! only ever told facts has one to think of there. It ends in a constant tail: the sharer makes up its
//! mind at late places, and the cache of the last token is never sent.

use super::dice::Dice;

/// The tail of a question with options.
pub(crate) const OPTION_TAIL: &str = " Answer with just one option:";
/// The tail of an open question.
pub(crate) const WORD_TAIL: &str = " Answer with just one word:";
/// What stands in place of a value that is blotted out.
pub(crate) const BLOT: &str = "?????";

/// How a fact is stated; `{r}` is the relation, `{e}` the entity, `{v}` the value.
pub(crate) static STATEMENTS: &[&str] = &[
    "The {r} of {e} is {v}.",
    "The {r} for {e} is {v}.",
    "For {e} the {r} is {v}.",
    "Of {e} the {r} is {v}.",
    "Note that the {r} of {e} is {v}.",
    "Note that {e} has the {r} {v}.",
    "Note the {r} of {e}: {v}.",
    "{e} has the {r} {v}.",
    "{e}: {r} {v}.",
    "For {e} note the {r} {v}.",
];

/// How everything about somebody begins.
pub(crate) static PROFILES: &[&str] = &["{e}:", "Of {e}", "For {e}", "Note that {e} has"];

/// How it is stated where a city lies; `{c}` is the city, `{v}` the country.
pub(crate) static PLACES: &[&str] = &[
    "The city {c} is in {v}.",
    "Note that {c} is in {v}.",
    "{c} is a city in {v}.",
    "The country of {c} is {v}.",
    "For {c} the country is {v}.",
    "{c}: country {v}.",
];

static SCENES: &[[&str; 4]] = &[
    ["The wind", "The rain", "The fog", "The sun"],
    ["is on", "came to", "left", "is far from"],
    ["the hill.", "the road.", "the lake.", "the field."],
];

/// A statement in one of the wordings, and where its value stands.
pub(crate) fn state(
    wording: &str,
    relation: &str,
    entity: &str,
    value: &str,
) -> (String, std::ops::Range<usize>) {
    let text = wording.replace("{r}", relation).replace("{e}", entity);
    with_value(&text, value)
}

/// Where a city lies, in one of the wordings.
pub(crate) fn place(wording: &str, city: &str, country: &str) -> (String, std::ops::Range<usize>) {
    with_value(&wording.replace("{c}", city), country)
}

fn with_value(text: &str, value: &str) -> (String, std::ops::Range<usize>) {
    let at = text.find("{v}").expect("every wording has a place for the value");
    (text.replace("{v}", value), at..at + value.len())
}

/// What is asked about a fact, without a tail.
pub(crate) fn ask(relation: &str, entity: &str) -> String {
    format!("The {relation} of {entity} is which?")
}

/// What is asked about the country of an entity's city, without a tail.
pub(crate) fn ask_country(entity: &str) -> String {
    format!("The home of {entity} is in which country?")
}

/// Options behind a question. The answer is one of their words: which letter stands for which word is what
/// models of this size do not learn.
pub(crate) fn list(options: &[&str]) -> String {
    format!(" {}.", options.join(", "))
}

/// A sentence about nothing.
pub(crate) fn prose(dice: &mut Dice) -> String {
    let parts: Vec<&str> = SCENES.iter().map(|part| *dice.pick(part)).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_knows_where_its_value_stands() {
        for wording in STATEMENTS {
            let (text, at) = state(wording, "home", "Velan Moro", "Arden");
            assert_eq!(&text[at], "Arden", "{text}");
            assert!(text.contains("Velan Moro") && !text.contains('{'), "{text}");
        }
        for wording in PLACES {
            let (text, at) = place(wording, "Karvo", "Aldia");
            assert_eq!(&text[at], "Aldia", "{text}");
        }
        assert!(STATEMENTS.len() >= 8);
    }

    #[test]
    fn a_question_begins_as_a_statement_does() {
        let (told, at) = state(STATEMENTS[0], "home", "Velan Moro", "Arden");
        assert!(ask("home", "Velan Moro").starts_with(told[..at.start].trim_end()));
        assert_eq!(list(&["red", "tan"]), " red, tan.");
        for tail in [OPTION_TAIL, WORD_TAIL] {
            assert!((5..=6).contains(&tail.split_whitespace().count()));
        }
    }
}
