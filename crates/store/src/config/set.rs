//! `--set key=value`: one value of a configuration, from the command line.

use toml::{Table, Value};

use super::keys::entry_names;
use crate::{Error, nearest};

/// Deeper than any configuration, shallower than the stack.
const MAX_DEPTH: usize = 32;

/// Applies `key=value` to a table.
///
/// The key is dotted; an entry of an array of tables is addressed by its `name` or index
/// (`optim.norms.lr=1e-4`). The value is TOML; what is no TOML and does not look like a broken
/// piece of it is a text (`train.mode=bf16`, `memory=2 GiB`). Missing tables are made: that a key
/// is known is checked when the table is read.
///
/// Fails with [`Error::Set`].
pub fn set(table: &mut Table, argument: &str) -> Result<(), Error> {
    let wrong = |expected: &str, got: String| Error::Set {
        argument: argument.to_string(),
        expected: expected.to_string(),
        got,
    };
    let (key, text) =
        argument.split_once('=').ok_or_else(|| wrong("key=value", "no `=`".into()))?;
    let segments: Vec<&str> = key.split('.').map(str::trim).collect();
    if segments.len() > MAX_DEPTH || segments.iter().any(|segment| segment.is_empty()) {
        return Err(wrong("a dotted key such as `train.steps`", format!("`{key}`")));
    }
    let value = value(text.trim()).map_err(|message| wrong("a TOML value", message))?;
    let (last, parents) = segments.split_last().expect("a split has at least one part");
    let parent = descend(table, parents).map_err(|(expected, got)| wrong(&expected, got))?;
    parent.insert((*last).to_string(), value);
    Ok(())
}

/// The value of a text; a bare word is a text.
fn value(text: &str) -> Result<Value, String> {
    let parsed = format!("value = {text}").parse::<Table>();
    match parsed {
        // More than one key: the text held a line break and further assignments.
        Ok(mut table) if table.len() == 1 => Ok(table.remove("value").expect("the only key")),
        Err(error) if text.starts_with(['[', '{', '"', '\'']) => Err(error.message().to_string()),
        _ => Ok(Value::String(text.to_string())),
    }
}

/// The table that a path of keys leads to; otherwise what was expected and found on the way.
fn descend<'a>(table: &'a mut Table, path: &[&str]) -> Result<&'a mut Table, (String, String)> {
    let Some((first, rest)) = path.split_first() else { return Ok(table) };
    let value = table.entry(*first).or_insert_with(|| Value::Table(Table::new()));
    match value {
        Value::Table(table) => descend(table, rest),
        Value::Array(array) => entry(array, first, rest),
        other => Err((format!("a table at `{first}`"), format!("the {}", other.type_str()))),
    }
}

fn entry<'a>(
    array: &'a mut [Value],
    key: &str,
    path: &[&str],
) -> Result<&'a mut Table, (String, String)> {
    let names = entry_names(array);
    let expected = format!("an entry of `{key}`: {}", names.join(", "));
    let Some((name, rest)) = path.split_first() else { return Err((expected, "none".into())) };
    let by_name = names.iter().position(|known| known == name);
    let found = by_name.or_else(|| name.parse().ok().filter(|index| *index < names.len()));
    match found.map(|index| &mut array[index]) {
        Some(Value::Table(table)) => descend(table, rest),
        Some(other) => {
            Err((format!("a table at `{key}.{name}`"), format!("the {}", other.type_str())))
        }
        None => {
            let near = nearest(name, names.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
            Err((expected, format!("`{name}`{hint}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Table {
        "seed = 1\n[train]\nsteps = 2\n[[optim]]\nname='norms'\nlr=1.0\n[[optim]]\nname='rest'"
            .parse()
            .unwrap()
    }

    fn after(argument: &str) -> Table {
        let mut table = sample();
        set(&mut table, argument).unwrap();
        table
    }

    fn error(argument: &str) -> String {
        set(&mut sample(), argument).unwrap_err().to_string()
    }

    #[test]
    fn values_are_toml_or_words() {
        for (text, value) in [
            ("100", Value::Integer(100)),
            ("1e-4", Value::Float(1e-4)),
            ("true", Value::Boolean(true)),
            ("bf16", Value::String("bf16".into())),
            ("\"bf16\"", Value::String("bf16".into())),
            ("64 KiB", Value::String("64 KiB".into())),
            ("a=b", Value::String("a=b".into())),
            ("", Value::String(String::new())),
            ("1\nseed = 2", Value::String("1\nseed = 2".into())),
            ("[1, 2]", Value::Array(vec![1.into(), 2.into()])),
        ] {
            assert_eq!(after(&format!("train.x={text}"))["train"]["x"], value, "{text}");
        }
    }

    #[test]
    fn keys_reach_tables_and_entries() {
        assert_eq!(after("seed=5")["seed"].as_integer(), Some(5));
        assert_eq!(after("optim.norms.lr=1e-4")["optim"][0]["lr"].as_float(), Some(1e-4));
        assert_eq!(after("optim.1.lr=2")["optim"][1]["lr"].as_integer(), Some(2));
        assert_eq!(after("new.deep.key=1")["new"]["deep"]["key"].as_integer(), Some(1));
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        assert_eq!(error("seed"), "`--set seed`: expected key=value, got no `=`");
        assert!(error("=1").contains("dotted key"));
        assert!(error("train..steps=1").contains("dotted key"));
        assert!(error(&format!("a{}=1", ".a".repeat(100_000))).contains("dotted key"));
        assert!(error("train.steps.x=1").contains("expected a table at `steps`, got the integer"));
        assert!(error("seed=[1").contains("expected a TOML value"));
        let message = error("optim.nroms.lr=1");
        assert!(message.contains("norms, rest"), "{message}");
        assert!(message.ends_with("got `nroms` (did you mean `norms`?)"), "{message}");
    }

    proptest! {
        #[test]
        fn no_argument_panics(argument in "\\PC*", key in "[a-z.]{0,6}", text in "\\PC*") {
            let _ = set(&mut sample(), &argument);
            let _ = set(&mut sample(), &format!("optim.{key}={text}"));
        }
    }
}
