//! Strict configuration: TOML in which every key is read by someone.
//!
//! [`parse`] reads any type that derives serde's traits. Unknown keys, at any depth, are refused
//! with their full name, their line and the nearest known key; wrong types name what was expected
//! and found. [`load`] adds `--set key=value` arguments, [`diff`] compares two configurations.
//!
//! Parts that serde reads without knowing their fields (`flatten`, `untagged`, internally tagged
//! enums) are beyond this check; give them `deny_unknown_fields`.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use smidgen_store::config;
//!
//! #[derive(Default, Deserialize, Serialize)]
//! #[serde(default)]
//! struct Config { seed: u64, train: Train }
//! #[derive(Default, Deserialize, Serialize)]
//! #[serde(default)]
//! struct Train { steps: u64 }
//!
//! let error = config::parse::<Config>("[train]\nstpes = 100\n", "run.toml".as_ref()).err().unwrap();
//! assert_eq!(
//!     error.to_string(),
//!     "unknown key `train.stpes` in run.toml line 2, did you mean `train.steps`?"
//! );
//! let sets = ["train.steps=100".to_string()];
//! let config: Config = config::load("seed = 1", "run.toml".as_ref(), &sets)?;
//! assert_eq!((config.seed, config.train.steps), (1, 100));
//! # Ok::<(), smidgen_store::Error>(())
//! ```

mod keys;
mod place;
mod set;
mod strict;
mod wrong;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

use crate::Error;
use place::Place;
use strict::Strict;
use wrong::Wrong;

pub use keys::{diff, flat};
pub use set::set;

/// Reads the text of the file at `path`, which is named in errors.
///
/// Fails with [`Error::Toml`], [`Error::UnknownKey`], [`Error::MissingKey`], [`Error::Value`] or
/// [`Error::Invalid`].
pub fn parse<T>(text: &str, path: &Path) -> Result<T, Error>
where
    T: DeserializeOwned + Serialize + Default,
{
    from_table(table(text, path)?, &Place::File { path, text })
}

/// [`parse`], then the `--set key=value` arguments in their order, on top of the file's values
/// and of the defaults. Fails as [`parse`] and [`set`] do.
pub fn load<T>(text: &str, path: &Path, sets: &[String]) -> Result<T, Error>
where
    T: DeserializeOwned + Serialize + Default,
{
    let config: T = parse(text, path)?;
    if sets.is_empty() {
        return Ok(config);
    }
    let mut table = to_table(&config)?;
    for argument in sets {
        set(&mut table, argument)?;
    }
    // The file was sound, so whatever is wrong now was said on the command line.
    from_table(table, &Place::Arguments)
}

/// A configuration as a table, defaults included; unset options are left out.
/// Fails with [`Error::Serialise`] for what TOML has no form for.
pub fn to_table(config: &impl Serialize) -> Result<Table, Error> {
    // By way of the text: there an `f32` has its short form, 0.0003 and not 0.000300000014.
    table(&to_text(config)?, crate::RUN_TOML.as_ref())
}

/// A configuration as the text of a TOML file, defaults included.
/// Fails with [`Error::Serialise`] for what TOML has no form for.
pub fn to_text(config: &impl Serialize) -> Result<String, Error> {
    toml::to_string(config).map_err(unserialisable)
}

fn unserialisable(error: toml::ser::Error) -> Error {
    Error::Serialise { path: crate::RUN_TOML.into(), message: error.to_string() }
}

/// A TOML text as it is written, without defaults and without a word on its keys.
/// Fails with [`Error::Toml`].
pub fn table(text: &str, path: &Path) -> Result<Table, Error> {
    text.parse().map_err(|error: toml::de::Error| Error::Toml {
        message: error.message().lines().collect::<Vec<_>>().join(", "),
        place: place::at(path, text, error.span().map(|span| span.start)),
    })
}

fn from_table<T>(table: Table, place: &Place<'_>) -> Result<T, Error>
where
    T: DeserializeOwned + Serialize + Default,
{
    let strict = Strict::new(toml::Value::Table(table));
    T::deserialize(strict).map_err(|wrong: Wrong| {
        // Only now: a sound configuration need not know its defaults as a table.
        let known = to_table(&T::default()).unwrap_or_default();
        wrong.into_error(place, &known)
    })
}
