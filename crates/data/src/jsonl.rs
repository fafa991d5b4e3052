//! JSONL: one object with a string `text` per line, one line one document.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::Error;

/// A row, with the group it names if any.
pub(crate) struct Row {
    /// Counted from 1.
    pub(crate) line: u64,
    pub(crate) text: String,
    pub(crate) group: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    text: String,
    group: Option<Value>,
    repo: Option<Value>,
}

/// Whether the first row of the file is a document; what fails to read or parse is not.
pub(crate) fn is_jsonl(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    line.is_some_and(|line| serde_json::from_slice::<Object>(line).is_ok())
}

/// All rows of a file, read line by line; blank lines are passed over.
///
/// # Errors
/// `Read`, or `Jsonl` with the line that is not an object with a string `text`.
pub(crate) fn read_file(
    path: &Path,
    take: impl FnMut(Row) -> Result<(), Error>,
) -> Result<(), Error> {
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    read(BufReader::with_capacity(1 << 16, file), path, take)
}

/// As [`read_file`], from bytes that were read before.
pub(crate) fn read(
    mut from: impl BufRead,
    path: &Path,
    mut take: impl FnMut(Row) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let length = from
            .read_until(b'\n', &mut line)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if length == 0 {
            break;
        }
        if number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if !line.trim_ascii().is_empty() {
            take(parse(&line, number, path)?)?;
        }
    }
    Ok(())
}

fn parse(line: &[u8], number: u64, path: &Path) -> Result<Row, Error> {
    let object: Object = serde_json::from_slice(line.trim_ascii()).map_err(|error| {
        // The library counts lines from 1 inside this one line; our own number is the useful one.
        let detail = error.to_string();
        let detail = detail.split(" at line ").next().unwrap_or_default();
        let what = format!("expected an object with a string `text`, got a row with {detail}");
        Error::Jsonl { path: path.to_owned(), line: number, what }
    })?;
    let group = object.group.or(object.repo).map(|value| match value {
        Value::String(name) => name,
        other => other.to_string(),
    });
    Ok(Row { line: number, text: object.text, group })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(text: &str) -> Result<Vec<(u64, String, Option<String>)>, String> {
        let mut rows = Vec::new();
        read(text.as_bytes(), Path::new("x.jsonl"), |row| {
            rows.push((row.line, row.text, row.group));
            Ok(())
        })
        .map_err(|error| error.to_string())?;
        Ok(rows)
    }

    #[test]
    fn reads_rows_and_groups() {
        let text = "{\"text\":\"a\\u00f6\"}\n\n{\"text\":\"b\",\"repo\":\"r\"}\r\n{\"group\":3,\"text\":\"c\"}";
        let expected = vec![
            (1, "aö".to_owned(), None),
            (3, "b".to_owned(), Some("r".to_owned())),
            (4, "c".to_owned(), Some("3".to_owned())),
        ];
        assert_eq!(rows(text).unwrap(), expected);
    }

    #[test]
    fn bad_rows_name_their_line() {
        let missing = rows("{\"text\":\"a\"}\n{\"body\":\"b\"}\n").unwrap_err();
        assert_eq!(
            missing,
            "x.jsonl:2: expected an object with a string `text`, got a row with missing field `text`"
        );
        assert!(rows("{\"text\": 3}").unwrap_err().starts_with("x.jsonl:1: "));
        assert!(rows("{\"text\": \"a\"\n").unwrap_err().starts_with("x.jsonl:1: "));
    }

    proptest! {
        #[test]
        fn any_bytes_give_rows_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = is_jsonl(&bytes);
            let _ = read(bytes.as_slice(), Path::new("x"), |_| Ok(()));
        }
    }
}
