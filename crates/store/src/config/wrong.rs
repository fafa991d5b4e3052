//! What a deserialiser found wrong, and where, before it becomes a message.

use std::fmt;

use serde::de::{Expected, Unexpected};
use toml::Table;

use super::keys::flat;
use super::place::Place;
use crate::{Error, nearest};

/// An error on its way out of nested tables, gathering its key.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Segments from the inside out.
    path: Vec<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Unknown { known: &'static [&'static str] },
    Missing,
    Value { expected: String, got: String },
    Other(String),
}

impl Wrong {
    fn new(kind: Kind) -> Self {
        Wrong { path: Vec::new(), kind }
    }

    /// The same error, one table further out.
    pub(super) fn within(mut self, segment: &str) -> Self {
        self.path.push(segment.to_string());
        self
    }

    /// The error with its key, its place and a hint; `known` is the configuration's default.
    pub(super) fn into_error(self, place: &Place<'_>, known: &Table) -> Error {
        let path: Vec<String> = self.path.into_iter().rev().collect();
        let (key, place) = (path.join("."), place.of(&path));
        match self.kind {
            Kind::Unknown { known: here } => {
                let hint = hint(&path, here, known);
                Error::UnknownKey { key, place, hint }
            }
            Kind::Missing => Error::MissingKey { key, place },
            Kind::Value { expected, got } => Error::Value { key, expected, got, place },
            Kind::Other(message) => Error::Invalid { key, message, place },
        }
    }
}

/// The key that was meant: a near one of the same table, else one of that name elsewhere.
fn hint(path: &[String], here: &[&str], known: &Table) -> String {
    let (last, parents) = path.split_last().expect("an unknown key has a name");
    let dotted = |name: &str| [parents, &[name.to_string()]].concat().join(".");
    if let Some(near) = nearest(last, here.iter().copied()) {
        return format!("did you mean `{}`?", dotted(near));
    }
    let leaves = flat(known);
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    if let Some(elsewhere) = leaves.keys().find(|key| name(key) == *last) {
        return format!("did you mean `{elsewhere}`?");
    }
    format!("expected one of: {}", here.join(", "))
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Wrong::new(Kind::Other(message.to_string()))
    }

    fn invalid_type(got: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let (expected, got) = (expected_text(&expected.to_string()), got_text(got));
        Wrong::new(Kind::Value { expected, got })
    }

    fn invalid_value(got: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(got, expected)
    }

    fn invalid_length(len: usize, expected: &dyn Expected) -> Self {
        Wrong::new(Kind::Value { expected: expected.to_string(), got: format!("length {len}") })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let near = nearest(variant, expected.iter().copied());
        let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        let expected = format!("one of: {}", expected.join(", "));
        Wrong::new(Kind::Value { expected, got: format!("`{variant}`{hint}") })
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Wrong::new(Kind::Unknown { known }).within(field)
    }

    fn missing_field(field: &'static str) -> Self {
        Wrong::new(Kind::Missing).within(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        // Two spellings of one key, where a field has an alias.
        Self::custom("given twice").within(field)
    }
}

/// What a key takes, in words of TOML rather than of Rust.
fn expected_text(expected: &str) -> String {
    match expected {
        "a sequence" => "an array".to_string(),
        "a boolean" => "`true` or `false`".to_string(),
        "f32" | "f64" => "a number".to_string(),
        "u8" | "u16" | "u32" | "u64" | "usize" => {
            format!("a whole number, not negative ({expected})")
        }
        "i8" | "i16" | "i32" | "i64" | "isize" => format!("a whole number ({expected})"),
        other if other.starts_with("struct ") || other == "a map" => "a table".to_string(),
        other => other.to_string(),
    }
}

/// What was written, in words of TOML rather than of serde.
fn got_text(got: Unexpected<'_>) -> String {
    match got {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value:?}`"),
        Unexpected::Str(value) => format!("the text \"{value}\""),
        Unexpected::Seq => "an array".to_string(),
        Unexpected::Map => "a table".to_string(),
        other => other.to_string(),
    }
}
