//! A text as documents, and which of them a fuser may learn from.

use sha2::{Digest, Sha256};

use crate::Error;

/// What stands between documents in files of training text.
const BETWEEN: &str = "<|endoftext|>";
/// Share of the documents that are held out for the test, and of those for validation behind it.
const HELD_OUT: [f64; 2] = [0.2, 0.1];

/// Documents by what they are for. Which part one belongs to is a function of its own text alone: no
/// seed, no other document and no order of them ever moves one from the test to training.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// To learn from.
    pub train: Vec<String>,
    /// To watch training by.
    pub val: Vec<String>,
    /// To measure, once.
    pub test: Vec<String>,
}

impl Documents {
    /// Divides a text. Documents end at `<|endoftext|>`, and where `start` is given also before each
    /// paragraph that begins with it; one that is there twice counts once.
    ///
    /// # Errors
    /// [`Error::Value`] where a part gets no document.
    pub fn of(text: &str, start: Option<&str>) -> Result<Documents, Error> {
        let (mut documents, mut seen) = (Documents::default(), std::collections::BTreeSet::new());
        for document in text.split(BETWEEN).flat_map(|part| by_start(part, start)) {
            let document = document.trim();
            if document.is_empty() || !seen.insert(document) {
                continue;
            }
            let place = place(document);
            let part = match place {
                _ if place < HELD_OUT[0] => &mut documents.test,
                _ if place < HELD_OUT[0] + HELD_OUT[1] => &mut documents.val,
                _ => &mut documents.train,
            };
            part.push(document.into());
        }
        let Documents { train, val, test } = &documents;
        if [train, val, test].iter().any(|part| part.is_empty()) {
            let expected = format!(
                "enough documents, with `{BETWEEN}` between them or a text that each begins with, \
                 to learn from some and hold out others"
            );
            let got = format!("{} to learn from, {} and {}", train.len(), val.len(), test.len());
            return Err(Error::value("text", expected, got));
        }
        Ok(documents)
    }

    /// Makes one blank of every run of blanks and line ends.
    pub fn join_lines(&mut self) {
        for document in [&mut self.train, &mut self.val, &mut self.test].into_iter().flatten() {
            *document = document.split_whitespace().collect::<Vec<_>>().join(" ");
        }
    }
}

/// Paragraphs together from each that begins with `start`.
fn by_start<'a>(text: &'a str, start: Option<&str>) -> Vec<&'a str> {
    let Some(start) = start.filter(|start| !start.is_empty()) else { return vec![text] };
    let mut cuts: Vec<usize> = text
        .match_indices(start)
        .map(|(at, _)| at)
        .filter(|at| text[..*at].ends_with("\n\n"))
        .collect();
    cuts.insert(0, 0);
    cuts.push(text.len());
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Where a document stands between 0 and 1.
fn place(document: &str) -> f64 {
    let hash = Sha256::digest(document);
    let first = hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    first as f64 / 2f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(i: usize) -> String {
        format!("Once there were {i} apples.\n\nThey were eaten.")
    }

    #[test]
    fn a_document_keeps_its_part_whatever_stands_beside_it() {
        let all: Vec<String> = (0..200).map(story).collect();
        let some = Documents::of(&all[..100].join("\n\n"), Some("Once")).unwrap();
        let every = Documents::of(&all.join(BETWEEN), None).unwrap();
        for (part, larger) in
            [(&some.train, &every.train), (&some.val, &every.val), (&some.test, &every.test)]
        {
            assert!(!part.is_empty() && part.iter().all(|document| larger.contains(document)));
        }
        let Documents { train, val, test } = &every;
        assert_eq!(train.len() + val.len() + test.len(), 200);
        assert!((25..=55).contains(&test.len()), "{}", test.len());
        assert!(test.iter().all(|document| !train.contains(document) && !val.contains(document)));
    }

    #[test]
    fn a_document_that_is_there_twice_counts_once_and_a_text_of_one_is_refused() {
        let all: Vec<String> = (0..50).map(story).collect();
        let twice = Documents::of(&[all.join(BETWEEN), all.join(BETWEEN)].join(BETWEEN), None);
        assert_eq!(twice.unwrap(), Documents::of(&all.join(BETWEEN), None).unwrap());
        let one = Documents::of(&story(1), None).unwrap_err().to_string();
        assert!(one.contains("endoftext"), "{one}");
    }

    #[test]
    fn a_start_inside_a_paragraph_divides_nothing() {
        let text = "Once a dog. Once more.\n\nThen a cat.\n\nOnce an owl.";
        let cut = by_start(text, Some("Once"));
        assert_eq!(cut, ["Once a dog. Once more.\n\nThen a cat.\n\n", "Once an owl."]);
        assert_eq!(by_start(text, None), [text]);
        let mut documents = Documents { test: vec![text.into()], ..Documents::default() };
        documents.join_lines();
        assert_eq!(documents.test, ["Once a dog. Once more. Then a cat. Once an owl."]);
    }
}
