//! Contamination: training text that shares a run of 13 words with a text that will be the test.
//!
//! The named files are those a model is judged by later. Every run of [`RUN`] words of theirs is
//! noted; a training document with one of them leaves the training side. Thirteen words are the
//! length that is usual for this since Brown et al., Language Models are Few-Shot Learners (arXiv
//! 2005.14165, appendix C); there the passage is cut out, here the document goes as a whole. Texts
//! of fewer words cannot be looked for and are passed over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use crate::rules::as_text;
use crate::split::{Leaving, leave};
use crate::tokenizer::pool;
use crate::words::{runs, words};
use crate::{Corpus, Error, LEAST_BYTES, Reason, Split};

/// Words of a run.
const RUN: usize = 13;

/// Takes documents that share 13 words in a row with one of `files` out of the training side and
/// lists them under [`Reason::Contaminated`]. A `.jsonl` file is read as rows of which every string
/// is a text of its own, any other as one text. The result does not depend on `threads`.
///
/// # Errors
/// `Reference` for a file that cannot be read or holds no text of 13 words; `AllContaminated` where
/// less than [`LEAST_BYTES`](crate::LEAST_BYTES) would be left to train on; `Worker`.
pub fn drop_contaminated(
    corpus: &mut Corpus,
    split: &mut Split,
    files: &[PathBuf],
    threads: usize,
) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    let noted = noted_runs(files)?;
    let first_file = |text: &str| runs(&words(text), RUN).find_map(|run| noted.get(&run).copied());
    let found: Vec<Option<usize>> = pool(threads)?
        .install(|| split.train.par_iter().map(|piece| first_file(corpus.text(piece))).collect());
    let left = split.train.iter().zip(&found).filter(|(_, file)| file.is_none());
    if left.map(|(piece, _)| piece.range.len() as u64).sum::<u64>() < LEAST_BYTES {
        let dropped = found.iter().flatten().count();
        return Err(Error::AllContaminated { dropped, documents: found.len() });
    }
    let mut leaving = Leaving::new();
    for (piece, file) in split.train.iter().zip(found) {
        if let Some(file) = file {
            let by = files[file].display().to_string();
            leaving.insert(piece.document, Reason::Contaminated { by });
        }
    }
    leave(corpus, split, leaving);
    Ok(())
}

/// Each run of the files, and the first file it stands in.
fn noted_runs(files: &[PathBuf]) -> Result<HashMap<u64, usize>, Error> {
    let mut noted = HashMap::new();
    for (index, path) in files.iter().enumerate() {
        let mut any = false;
        for_each_text(path, |text| {
            for run in runs(&words(text), RUN) {
                noted.entry(run).or_insert(index);
                any = true;
            }
        })?;
        if !any {
            let what = format!("expected texts of {RUN} words or more, got none");
            return Err(Error::Reference { path: path.clone(), what });
        }
    }
    Ok(noted)
}

fn for_each_text(path: &Path, mut take: impl FnMut(&str)) -> Result<(), Error> {
    let wrong = |what| Error::Reference { path: path.to_owned(), what };
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let text = as_text(bytes).map_err(|reason| wrong(format!("expected text, got {reason}")))?;
    if path.extension().is_none_or(|extension| extension != "jsonl") {
        take(&text);
        return Ok(());
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Value = serde_json::from_str(line)
            .map_err(|error| wrong(format!("row {}: expected JSON, got {error}", index + 1)))?;
        for_each_string(&row, &mut take);
    }
    Ok(())
}

fn for_each_string(value: &Value, take: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => take(text),
        Value::Array(values) => values.iter().for_each(|value| for_each_string(value, take)),
        Value::Object(fields) => fields.values().for_each(|value| for_each_string(value, take)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, Piece};

    const THIRTEEN: &str =
        "one two three four five six seven eight nine ten eleven twelve thirteen";

    fn corpus(texts: &[&str]) -> (Corpus, Split) {
        let filler = |at: usize| format!("text number {at} says this and that\n").repeat(100);
        let document = |(at, text): (usize, &&str)| {
            let text = format!("{}{text}\n{}", filler(at), filler(at));
            Document { name: format!("{at}"), group: format!("{at}"), text }
        };
        let documents: Vec<_> = texts.iter().enumerate().map(document).collect();
        let piece = |at: usize| Piece { document: at, range: 0..documents[at].text.len() };
        let last = documents.len() - 1;
        let split = Split { train: (0..last).map(piece).collect(), val: vec![piece(last)] };
        let bytes = documents.iter().map(|document| document.text.len() as u64).sum();
        (Corpus { documents, skipped: Vec::new(), bytes }, split)
    }

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn thirteen_shared_words_are_enough_and_twelve_are_not() {
        let twelve = THIRTEEN.rsplit_once(' ').unwrap().0;
        let loud = THIRTEEN.to_uppercase().replace(' ', ", ");
        let (mut corpus, mut split) = corpus(&[twelve, &loud, "clean", THIRTEEN]);
        let (_folder, path) = written("test.txt", &format!("before {THIRTEEN} behind"));
        drop_contaminated(&mut corpus, &mut split, std::slice::from_ref(&path), 2).unwrap();
        let names = |side: &[Piece]| -> Vec<String> {
            side.iter().map(|piece| corpus.documents[piece.document].name.clone()).collect()
        };
        assert_eq!(
            (names(&split.train), names(&split.val)),
            (vec!["0".into(), "2".into()], vec!["3".into()])
        );
        let expected = Reason::Contaminated { by: path.display().to_string() };
        assert_eq!((corpus.skipped[0].name.as_str(), &corpus.skipped[0].reason), ("1", &expected));
        assert_eq!(corpus.summary().by_reason["shares 13 words with a test"].count, 1);
    }

    #[test]
    fn strings_of_a_row_are_texts_of_their_own() {
        let (head, tail) = THIRTEEN.split_at(30);
        let apart = serde_json::json!({ "question": head, "answers": [tail] }).to_string();
        let deep = serde_json::json!({ "choices": { "text": ["short", THIRTEEN] } }).to_string();
        let long = "x ".repeat(20);
        for (row, expected) in [(apart, 0), (deep, 1)] {
            let (mut corpus, mut split) = corpus(&[THIRTEEN, "clean", "clean"]);
            let text = format!("{row}\n\n{}\n", serde_json::json!([long, 3, null]));
            let (_folder, path) = written("rows.jsonl", &text);
            drop_contaminated(&mut corpus, &mut split, &[path], 1).unwrap();
            assert_eq!(corpus.skipped.len(), expected, "{row}");
        }
    }

    #[test]
    fn nothing_named_changes_nothing() {
        let (mut corpus, mut split) = corpus(&[THIRTEEN, "clean"]);
        let before = (corpus.clone(), split.clone());
        drop_contaminated(&mut corpus, &mut split, &[], 0).unwrap();
        assert_eq!((corpus, split), before);
    }

    #[test]
    fn bad_references_are_named() {
        let with = |name: &str, text: &str| {
            let (mut corpus, mut split) = corpus(&["clean", "clean"]);
            let (_folder, path) = written(name, text);
            drop_contaminated(&mut corpus, &mut split, &[path], 1).unwrap_err().to_string()
        };
        assert!(with("a.jsonl", "{}\n{").contains("a.jsonl`: row 2: expected JSON, got "));
        assert!(with("a.jsonl", "{\"a\": \"too short\"}").contains("13 words or more"));
        assert!(with("a.txt", "\0").contains("expected text, got binary"));
        let (mut corpus, mut split) = corpus(&["clean", "clean"]);
        let missing = [PathBuf::from("/no/such/file.txt")];
        let error = drop_contaminated(&mut corpus, &mut split, &missing, 1).unwrap_err();
        assert!(error.to_string().contains("/no/such/file.txt"), "{error}");
    }

    #[test]
    fn nothing_left_is_an_error() {
        let (mut corpus, mut split) = corpus(&[THIRTEEN, "clean"]);
        let (_folder, path) = written("test.txt", THIRTEEN);
        let error = drop_contaminated(&mut corpus, &mut split, &[path], 1).unwrap_err();
        assert!(matches!(error, Error::AllContaminated { dropped: 1, documents: 1 }), "{error}");
    }
}
