//! SentencePiece BPE: blanks are part of the tokens, characters are the smallest parts.
//!
//! Neighbours are joined while what they spell is a token, the highest score first, the leftmost of
//! equal ones. Files of other programs say the same by a list of pairs. What no token spells becomes
//! bytes where the vocabulary has them, the unknown token otherwise.

use std::borrow::Cow;

use super::alphabet::{BLANK, without_marks};
use super::join::{Joiner, NONE, Symbol};
use super::merges::Merges;
use super::vocab::{Kind, Vocab};

/// The score of a token that no pair makes: below all others.
const UNREACHED: f32 = -1e9;

/// Which neighbours are joined first.
#[derive(Clone)]
pub(crate) enum Order {
    /// By the score of what they make, V of them.
    Scores(Vec<f32>),
    /// By a list of pairs.
    Merges(Merges),
}

/// Where a blank is put before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// Nowhere.
    Never,
    /// At the beginning.
    First,
    /// At the beginning and behind every user-defined token.
    Always,
}

/// Where words end for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nowhere: some tokens have a blank behind a letter.
    Never,
    /// Before a blank behind another character.
    Words,
    /// Before every blank.
    Blanks,
}

/// How a SentencePiece tokenizer encodes.
#[derive(Clone)]
pub(crate) struct Sentence {
    pub(crate) order: Order,
    pub(crate) lead: Lead,
    pub(crate) cut: Cut,
    /// A part that begins with a blank gets no other.
    pub(crate) spares: bool,
    /// Several blanks are one, and none stands at either end.
    pub(crate) trims: bool,
    /// The token for what has no token.
    pub(crate) unknown: Option<u32>,
    bytes: Box<[Option<u32>; 256]>,
}

impl Sentence {
    /// Fails for a score that is no number, or a vocabulary without a way to say all texts.
    pub(crate) fn new(
        vocab: &Vocab,
        order: Order,
        lead: Lead,
        unknown: Option<u32>,
    ) -> Result<Self, String> {
        if let Order::Scores(scores) = &order {
            if scores.len() != vocab.len() {
                return Err(format!("expected {} scores, got {}", vocab.len(), scores.len()));
            }
            if let Some(at) = scores.iter().position(|score| score.is_nan()) {
                return Err(format!("token {at}: expected a score, got NaN"));
            }
        }
        let bytes = Box::new(vocab.byte_tokens());
        if unknown.is_none() && bytes.contains(&None) {
            return Err("expected an unknown token or a token for every byte, got neither".into());
        }
        if let Some(id) = unknown.filter(|&id| id as usize >= vocab.len()) {
            return Err(format!("unknown token: expected an id below {}, got {id}", vocab.len()));
        }
        let inner = |id| vocab.bytes(id).windows(2).any(|pair| pair[0] != b' ' && pair[1] == b' ');
        let cuts = !(0..vocab.len() as u32).any(inner);
        let cut = if cuts { Cut::Words } else { Cut::Never };
        Ok(Self { order, lead, cut, spares: false, trims: false, unknown, bytes })
    }

    /// Appends the ids of one part of a prepared text; `first` where nothing stands before it.
    pub(crate) fn encode(&self, vocab: &Vocab, part: &str, first: bool, ids: &mut Vec<u32>) {
        let part: Cow<'_, str> =
            if self.leads(part, first) { format!(" {part}").into() } else { part.into() };
        let (mut joiner, mut rest) = (Joiner::default(), &*part);
        while !rest.is_empty() {
            let (word, behind) = rest.split_at(self.word_end(rest));
            self.word(vocab, word, &mut joiner, ids);
            rest = behind;
        }
    }

    /// A score for every token that leads to the same joins; exact where the order is one of scores.
    pub(crate) fn scores(&self, vocab: &Vocab) -> Vec<f32> {
        match &self.order {
            Order::Scores(scores) => scores.clone(),
            Order::Merges(merges) => {
                let mut scores = vec![UNREACHED; vocab.len()];
                // A token that several pairs make gets the score of the first of them.
                for (rank, id) in merges.results().enumerate().rev() {
                    scores[id as usize] = -(rank as f32);
                }
                scores
            }
        }
    }

    /// The pairs that lead to the same joins, but where scores are equal or a token can be joined in
    /// several ways: a list of pairs cannot say "the leftmost first" then.
    pub(crate) fn merges(&self, vocab: &Vocab) -> Cow<'_, Merges> {
        let scores = match &self.order {
            Order::Scores(scores) => scores,
            Order::Merges(merges) => return Cow::Borrowed(merges),
        };
        let normal = vocab.iter().filter(|(_, kind)| *kind == Kind::Normal).map(|(id, _)| id);
        let mut ids: Vec<u32> = normal.collect();
        ids.sort_by_key(|&id| rank(scores[id as usize]));
        let mut merges = Merges::default();
        for text in ids.into_iter().map(|id| vocab.name(id)) {
            for at in 1..text.len() {
                let (left, right) = text.split_at(at);
                if vocab.find(left).is_some() && vocab.find(right).is_some() {
                    merges.push(vocab, left, right).expect("both halves and the whole are tokens");
                }
            }
        }
        Cow::Owned(merges)
    }

    /// What is done to a text before user-defined tokens are taken from it.
    pub(crate) fn prepare<'a>(&self, text: &'a str) -> Cow<'a, str> {
        // A `▁` of the text itself is no blank yet when blanks are made one.
        let text = if self.trims { trimmed(text).into() } else { Cow::from(text) };
        let text = match without_marks(&text) {
            Cow::Owned(unmarked) => unmarked.into(),
            Cow::Borrowed(_) => text,
        };
        let leads = self.lead == Lead::First && !self.spares && !text.is_empty();
        if leads { format!(" {text}").into() } else { text }
    }

    /// Whether a blank is put before this part of a prepared text.
    fn leads(&self, part: &str, first: bool) -> bool {
        match (self.lead, self.spares) {
            (Lead::Always, false) => true,
            (Lead::Always, true) => !part.starts_with(' '),
            (Lead::First, true) => first && !part.starts_with(' '),
            (Lead::First, false) | (Lead::Never, _) => false,
        }
    }

    fn word_end(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let blank = |at: &usize| bytes[*at] == b' ';
        let border = match self.cut {
            Cut::Never => None,
            Cut::Words => (1..bytes.len()).find(|at| blank(at) && !blank(&(at - 1))),
            Cut::Blanks => (1..bytes.len()).find(blank),
        };
        border.unwrap_or(bytes.len())
    }

    fn word(&self, vocab: &Vocab, word: &str, joiner: &mut Joiner, ids: &mut Vec<u32>) {
        joiner.clear();
        for letter in word.chars() {
            let mut buffer = [0; 4];
            let text = letter.encode_utf8(&mut buffer).as_bytes();
            joiner.push(text.len(), vocab.find(text).unwrap_or(NONE));
        }
        match &self.order {
            Order::Merges(merges) => joiner.join(|left, right| merges.find(left.id, right.id)),
            Order::Scores(scores) => joiner.join(|left, right| {
                let id = vocab.find(&word.as_bytes()[left.start as usize..right.end as usize])?;
                Some((rank(scores[id as usize]), id))
            }),
        }
        joiner.symbols().for_each(|symbol| self.put(word, symbol, ids));
    }

    fn put(&self, word: &str, symbol: &Symbol, ids: &mut Vec<u32>) {
        if symbol.id != NONE {
            return ids.push(symbol.id);
        }
        let spelled = &word.as_bytes()[symbol.start as usize..symbol.end as usize];
        let tokens = spelled.iter().map(|&byte| self.bytes[usize::from(byte)]);
        match tokens.collect::<Option<Vec<u32>>>() {
            Some(tokens) => ids.extend(tokens),
            // A run of unknown characters is one unknown token.
            None if ids.last() == self.unknown.as_ref() => {}
            None => ids.extend(self.unknown),
        }
    }
}

/// Without blanks at the ends, and single ones in between.
fn trimmed(text: &str) -> String {
    let words = text.split(' ').filter(|word| !word.is_empty());
    let mut text = words.collect::<Vec<_>>().join(" ");
    // SentencePiece looks at the end once more when all blanks are marks.
    text.truncate(text.trim_end_matches([' ', BLANK]).len());
    text
}

/// Scores from the highest to the lowest as ranks from 0.
fn rank(score: f32) -> u32 {
    // The sum makes one zero of the two.
    let bits = (score + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !rising
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fall_with_scores() {
        let scores = [f32::INFINITY, 3.5, 1e-40, 0.0, -1e-40, -2.0, -1e9, f32::NEG_INFINITY];
        assert_eq!(rank(0.0), rank(-0.0));
        assert!(scores.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
    }

    fn sentence(tokens: &[&str]) -> (Vocab, Sentence) {
        let mut vocab = Vocab::default();
        vocab.push(b"<unk>", Kind::Control).unwrap();
        tokens.iter().for_each(|token| {
            vocab.push(token.as_bytes(), Kind::Normal).unwrap();
        });
        let scores = (0..=tokens.len()).map(|id| -(id as f32)).collect();
        let sentence = Sentence::new(&vocab, Order::Scores(scores), Lead::First, Some(0)).unwrap();
        (vocab, sentence)
    }

    fn encode((vocab, sentence): &(Vocab, Sentence), text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        sentence.encode(vocab, &sentence.prepare(text), true, &mut ids);
        ids
    }

    #[test]
    fn the_best_score_is_joined_first_and_the_leftmost_of_equals() {
        let made = sentence(&["ab", "bc", " ", "a", "b", "c", "aa"]);
        assert_eq!(encode(&made, "abc"), [3, 1, 6]);
        assert_eq!(encode(&made, "aaa"), [3, 7, 4]);
        assert_eq!(encode(&made, "a\u{2581}b"), [3, 4, 3, 5]);
        assert_eq!(encode(&made, "xyzaö"), [3, 0, 4, 0]);
        assert!(encode(&made, "").is_empty());
    }

    #[test]
    fn flags_change_where_blanks_stand() {
        let (vocab, made) = sentence(&[" ", "a", "  ", " a"]);
        assert_eq!(made.cut, Cut::Words);
        let with = |lead, trims, cut, text: &str| {
            let spares = cut == Cut::Blanks;
            let made = Sentence { lead, trims, cut, spares, ..made.clone() };
            let mut ids = Vec::new();
            made.encode(&vocab, &made.prepare(text), false, &mut ids);
            ids
        };
        assert_eq!(with(Lead::Never, false, Cut::Words, "a  a"), [2, 3, 2]);
        assert_eq!(with(Lead::Never, false, Cut::Blanks, "a  a"), [2, 1, 4]);
        assert_eq!(with(Lead::First, false, Cut::Words, "a"), [4]);
        assert_eq!(with(Lead::First, false, Cut::Blanks, "a"), [2]);
        assert_eq!(with(Lead::Always, false, Cut::Words, " a"), [3, 2]);
        assert_eq!(with(Lead::Always, false, Cut::Blanks, " a"), [4]);
        assert_eq!(with(Lead::Always, false, Cut::Blanks, "a"), [4]);
        assert_eq!(with(Lead::Always, true, Cut::Words, " a   a "), [4, 4]);
        assert_eq!(sentence(&["a b", "a"]).1.cut, Cut::Never);
    }
}
