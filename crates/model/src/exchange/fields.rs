//! Reading named fields of a model's description, the same way for JSON and for GGUF keys.

use std::path::Path;

use crate::Error;

/// A value of a description, as far as a model has use for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Field {
    /// Absent, or null.
    None,
    Whole(u64),
    Fraction(f64),
    Bool(bool),
    Text(String),
    /// Something else, as a person would see it.
    Other(String),
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Field::None => f.write_str("none"),
            Field::Whole(value) => write!(f, "{value}"),
            Field::Fraction(value) => write!(f, "{value}"),
            Field::Bool(value) => write!(f, "{value}"),
            // A damaged file may hold a text of any length.
            Field::Text(text) => write!(f, "`{}`", short(text)),
            Field::Other(text) => f.write_str(&short(text)),
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The fields of one file.
pub(super) struct Fields<'a> {
    /// The file, for messages.
    pub(super) file: &'a Path,
    /// Put before every key.
    pub(super) prefix: &'a str,
    pub(super) get: &'a dyn Fn(&str) -> Field,
}

impl Fields<'_> {
    fn value(&self, key: &str) -> Field {
        (self.get)(&format!("{}{key}", self.prefix))
    }

    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>, got: &Field) -> Error {
        Error::Foreign {
            file: self.file.into(),
            key: format!("{}{key}", self.prefix),
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// A size that has to be there.
    pub(super) fn size(&self, key: &str) -> Result<usize, Error> {
        match self.value(key) {
            // More than 2^32 is no size; the rest is judged with the spec.
            Field::Whole(value) if value <= u64::from(u32::MAX) => Ok(value as usize),
            got => Err(self.wrong(key, "a whole number", &got)),
        }
    }

    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize, Error> {
        if self.value(key) == Field::None { Ok(default) } else { self.size(key) }
    }

    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64, Error> {
        match self.value(key) {
            Field::None => Ok(default),
            Field::Whole(value) => Ok(value as f64),
            Field::Fraction(value) => Ok(value),
            got => Err(self.wrong(key, "a number", &got)),
        }
    }

    pub(super) fn bool_or(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.value(key) {
            Field::None => Ok(default),
            Field::Bool(value) => Ok(value),
            got => Err(self.wrong(key, "true or false", &got)),
        }
    }

    /// A text that has to be there, and one of `known`.
    pub(super) fn one_of(&self, key: &str, known: &[&str]) -> Result<String, Error> {
        match self.value(key) {
            Field::Text(text) if known.contains(&&*text) => Ok(text),
            got => Err(self.wrong(key, format!("one of {}", list(known)), &got)),
        }
    }

    /// Refuses everything but absence and what `harmless` says changes nothing.
    pub(super) fn refuse(
        &self,
        key: &str,
        expected: &str,
        harmless: impl Fn(&Field) -> bool,
    ) -> Result<(), Error> {
        match self.value(key) {
            Field::None => Ok(()),
            got if harmless(&got) => Ok(()),
            got => Err(self.wrong(key, expected, &got)),
        }
    }
}

fn list(known: &[&str]) -> String {
    known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
