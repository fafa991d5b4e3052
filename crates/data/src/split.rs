//! Who trains and who is held out: by a stable hash of the document's group.
//!
//! A group is held out when `u64(sha256(salt || group)) / 2^64 < ratio`. No other document enters
//! the formula, so a file that is added or removed never moves another one. Where one side would
//! stay empty, the group with the smallest hash (the next in line) is held out, or the one with
//! the largest trains. A corpus of one text is cut instead: its last part, from a line end on.

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::{Corpus, Error, Reason, Skipped};

/// The least text that can be split and still says something, in bytes.
pub const LEAST_BYTES: u64 = 2048;

/// A part of a document, usually all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index into [`Corpus::documents`].
    pub document: usize,
    /// Bytes of its text; both ends lie between characters.
    pub range: Range<usize>,
}

/// The two sides, each in the order of the corpus, each with at least one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What the model learns from.
    pub train: Vec<Piece>,
    /// What it never sees.
    pub val: Vec<Piece>,
}

impl Corpus {
    /// The text of a piece that [`split`] made of this corpus.
    ///
    /// # Panics
    /// If the piece belongs to another corpus.
    pub fn text(&self, piece: &Piece) -> &str {
        let text = &self.documents[piece.document].text;
        text.get(piece.range.clone()).expect("a piece is cut between characters of its corpus")
    }
}

/// Divides a corpus; `ratio` of the groups, more or less, are held out.
///
/// # Errors
/// `Range` for a ratio outside 0..1, `TooLittleText` under [`LEAST_BYTES`], `OneGroup` where
/// several documents share the one group there is.
pub fn split(corpus: &Corpus, salt: &str, ratio: f64) -> Result<Split, Error> {
    if !(ratio > 0.0 && ratio < 1.0) {
        let expected = "a share between 0 and 1".to_owned();
        return Err(Error::Range { key: "val_ratio", expected, got: ratio.to_string() });
    }
    if corpus.bytes < LEAST_BYTES {
        return Err(Error::TooLittleText { found_bytes: corpus.bytes, needed_bytes: LEAST_BYTES });
    }
    match corpus.documents.as_slice() {
        [only] => Ok(cut(&only.text, ratio)),
        _ => by_group(corpus, salt, ratio),
    }
}

fn by_group(corpus: &Corpus, salt: &str, ratio: f64) -> Result<Split, Error> {
    let hashes: BTreeMap<&str, u64> =
        corpus.documents.iter().map(|d| (d.group.as_str(), stable_hash(salt, &d.group))).collect();
    let by_hash = |(group, hash): (&&str, &u64)| (*hash, (*group).to_owned());
    let smallest = hashes.iter().map(by_hash).min().expect("a corpus has documents");
    let largest = hashes.iter().map(by_hash).max().expect("a corpus has documents");
    if hashes.len() == 1 {
        return Err(Error::OneGroup { group: smallest.1, documents: corpus.documents.len() });
    }
    let below = |hash: u64| (hash as f64) < ratio * 2_f64.powi(64);
    let held_out = |group: &str| {
        let drawn = below(hashes[group]) || group == smallest.1;
        drawn && group != largest.1
    };
    let mut split = Split { train: Vec::new(), val: Vec::new() };
    for (index, document) in corpus.documents.iter().enumerate() {
        let side = if held_out(&document.group) { &mut split.val } else { &mut split.train };
        side.push(Piece { document: index, range: 0..document.text.len() });
    }
    Ok(split)
}

/// Documents that leave the corpus after the split, and why.
pub(crate) type Leaving = BTreeMap<usize, Reason>;

/// Takes documents out of the corpus and of both sides; the others keep their order.
pub(crate) fn leave(corpus: &mut Corpus, split: &mut Split, mut leaving: Leaving) {
    if leaving.is_empty() {
        return;
    }
    let mut moved = Vec::with_capacity(corpus.documents.len());
    let mut stay = Vec::with_capacity(corpus.documents.len() - leaving.len());
    for (index, document) in std::mem::take(&mut corpus.documents).into_iter().enumerate() {
        let Some(reason) = leaving.remove(&index) else {
            moved.push(Some(stay.len()));
            stay.push(document);
            continue;
        };
        moved.push(None);
        let bytes = document.text.len() as u64;
        corpus.bytes -= bytes;
        tracing::debug!(name = %document.name, %reason, "left out");
        corpus.skipped.push(Skipped { name: document.name, reason, bytes });
    }
    corpus.documents = stay;
    for side in [&mut split.train, &mut split.val] {
        side.retain_mut(|piece| match moved[piece.document] {
            Some(index) => {
                piece.document = index;
                true
            }
            None => false,
        });
    }
}

/// The first eight bytes of `sha256(salt || group)`, big-endian.
fn stable_hash(salt: &str, group: &str) -> u64 {
    let digest = Sha256::new().chain_update(salt).chain_update(group).finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// One text in two: the cut is the last line end before the last `ratio` of the bytes.
fn cut(text: &str, ratio: f64) -> Split {
    let aim = (text.len() as f64 * (1.0 - ratio)) as usize;
    let at = cut_point(text, aim.clamp(1, text.len() - 1));
    let piece = |range| vec![Piece { document: 0, range }];
    Split { train: piece(0..at), val: piece(at..text.len()) }
}

/// The nearest line end before `aim`, else behind it, else between any two characters.
fn cut_point(text: &str, aim: usize) -> usize {
    let bytes = text.as_bytes();
    let line_end = |&at: &usize| bytes[at - 1] == b'\n';
    let character = |&at: &usize| text.is_char_boundary(at);
    (1..=aim)
        .rev()
        .find(line_end)
        .or_else(|| (aim..text.len()).find(line_end))
        .or_else(|| (1..=aim).rev().find(character))
        .or_else(|| (aim..text.len()).find(character))
        .expect("a text of two kilobytes has more than one character")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn corpus(groups: &[String]) -> Corpus {
        let document = |group: &String| Document {
            name: group.clone(),
            group: group.clone(),
            text: "x".repeat(LEAST_BYTES as usize),
        };
        let documents: Vec<_> = groups.iter().map(document).collect();
        let bytes = documents.len() as u64 * LEAST_BYTES;
        Corpus { documents, skipped: Vec::new(), bytes }
    }

    fn one(text: &str) -> Corpus {
        let document = Document { name: "a".into(), group: "a".into(), text: text.into() };
        Corpus { bytes: text.len() as u64, documents: vec![document], skipped: Vec::new() }
    }

    fn groups<'a>(corpus: &'a Corpus, side: &[Piece]) -> BTreeSet<&'a str> {
        side.iter().map(|piece| corpus.documents[piece.document].group.as_str()).collect()
    }

    #[test]
    fn the_formula_is_the_documented_one() {
        // printf 'sa' | sha256sum
        assert_eq!(stable_hash("s", "a") >> 32, 0x4cf6_829a);
        assert_eq!(stable_hash("", "sa"), stable_hash("s", "a"));
    }

    #[test]
    fn about_a_tenth_is_held_out() {
        let corpus = corpus(&(0..2000).map(|i| format!("file {i}")).collect::<Vec<_>>());
        let split = split(&corpus, "salt", 0.1).unwrap();
        assert!((140..260).contains(&split.val.len()), "{}", split.val.len());
        assert_eq!(split.val.len() + split.train.len(), 2000);
    }

    #[test]
    fn a_single_text_is_cut_at_a_line_end() {
        let text = "0123456789\n".repeat(400);
        let corpus = one(&text);
        let split = split(&corpus, "salt", 0.1).unwrap();
        let (train, val) = (corpus.text(&split.train[0]), corpus.text(&split.val[0]));
        assert_eq!([train, val].concat(), text);
        assert!(train.ends_with('\n'));
        assert!((440..=451).contains(&val.len()), "{}", val.len());
    }

    #[test]
    fn a_text_without_lines_is_cut_between_characters() {
        let text = "ö".repeat(2000);
        let corpus = one(&text);
        let split = split(&corpus, "salt", 0.1).unwrap();
        assert_eq!(corpus.text(&split.val[0]).chars().count(), 200);
    }

    #[test]
    fn too_little_and_out_of_range_are_typed() {
        let little = split(&one("short\n"), "s", 0.1);
        assert!(matches!(little, Err(Error::TooLittleText { found_bytes: 6, .. })));
        for ratio in [0.0, 1.0, -0.1, f64::NAN] {
            assert!(matches!(split(&one("short\n"), "s", ratio), Err(Error::Range { .. })));
        }
        let same = corpus(&["g".to_owned(), "g".to_owned()]);
        assert!(matches!(split(&same, "s", 0.1), Err(Error::OneGroup { documents: 2, .. })));
    }

    proptest! {
        #[test]
        fn both_sides_have_a_group_and_share_none(
            names in proptest::collection::vec("[a-z]{1,2}", 2..40),
            ratio in 0.01_f64..0.99,
        ) {
            let distinct: BTreeSet<_> = names.iter().collect();
            prop_assume!(distinct.len() > 1);
            let corpus = corpus(&names);
            let split = split(&corpus, "salt", ratio).unwrap();
            let (train, val) = (groups(&corpus, &split.train), groups(&corpus, &split.val));
            prop_assert!(!train.is_empty() && !val.is_empty());
            prop_assert!(train.is_disjoint(&val));
            prop_assert_eq!(train.len() + val.len(), distinct.len());
        }

        #[test]
        fn a_new_file_moves_no_other(new in "[a-z]{3}") {
            let mut names: Vec<_> = (0..60).map(|i| format!("file {i}")).collect();
            let before = corpus(&names);
            names.push(new);
            let after = corpus(&names);
            let (old, new) = (split(&before, "s", 0.2).unwrap(), split(&after, "s", 0.2).unwrap());
            prop_assert!(groups(&before, &old.val).is_subset(&groups(&after, &new.val)));
            prop_assert!(groups(&before, &old.train).is_subset(&groups(&after, &new.train)));
        }
    }
}
