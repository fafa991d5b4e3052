//! Where a key was written, for error messages.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a configuration came from.
pub(super) enum Place<'a> {
    /// A file and its text.
    File {
        /// The file.
        path: &'a Path,
        /// Its text.
        text: &'a str,
    },
    /// `--set` arguments over a sound file.
    Arguments,
}

impl Place<'_> {
    /// The place of a key; of the file where the key is not in it.
    pub(super) fn of(&self, key: &[String]) -> String {
        match self {
            Place::File { path, text } => at(path, text, offset(text, key)),
            Place::Arguments => "`--set`".to_string(),
        }
    }
}

/// `run.toml line 3`, or the file alone where the offset is unknown.
pub(super) fn at(path: &Path, text: &str, offset: Option<usize>) -> String {
    match offset.and_then(|offset| text.get(..offset)) {
        Some(before) => format!("{} line {}", path.display(), 1 + before.matches('\n').count()),
        None => path.display().to_string(),
    }
}

/// The offset of a key, or of its nearest parent, in a text.
fn offset(text: &str, key: &[String]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut value = &DeValue::Table(root.into_inner());
    for segment in key {
        let Some((start, inner)) = step(value, segment) else { break };
        found = Some(start);
        value = inner;
    }
    found
}

fn step<'a, 'i>(value: &'a DeValue<'i>, segment: &str) -> Option<(usize, &'a DeValue<'i>)> {
    if let Some(table) = value.as_table() {
        let (key, value) = table.iter().find(|(key, _)| key.get_ref() == segment)?;
        return Some((key.span().start, value.get_ref()));
    }
    let array = value.as_array()?;
    let named = |entry: &&Spanned<DeValue<'i>>| {
        let name = entry.get_ref().get("name").and_then(|name| name.get_ref().as_str());
        name == Some(segment)
    };
    let indexed = || array.get(segment.parse::<usize>().ok()?);
    let entry = array.iter().find(named).or_else(indexed)?;
    Some((entry.span().start, entry.get_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "seed = 1\n\n[train]\nsteps = 2\n[[optim]]\nname = 'a'\n[[optim]]\n\
                        name = 'b'\nlr = 1\n";

    fn line(key: &[&str]) -> String {
        let key: Vec<String> = key.iter().map(|segment| segment.to_string()).collect();
        Place::File { path: Path::new("f"), text: TEXT }.of(&key)
    }

    #[test]
    fn keys_have_lines() {
        assert_eq!(line(&["seed"]), "f line 1");
        assert_eq!(line(&["train", "steps"]), "f line 4");
        assert_eq!(line(&["optim", "b", "lr"]), "f line 9");
        assert_eq!(line(&["optim", "1", "lr"]), "f line 9");
        assert_eq!(line(&["train", "gone"]), "f line 3");
        assert_eq!(line(&["gone"]), "f");
    }
}
