//! Tokens that are taken from a text before anything else is done to it.

use super::vocab::{Kind, Vocab};

/// The user-defined tokens of a vocabulary, the longest first.
#[derive(Clone, Default)]
pub(crate) struct Added {
    /// Id, and whether it takes the white space behind it along.
    tokens: Vec<(u32, bool)>,
    /// Bytes that one of them begins with.
    begins: Option<Box<[bool; 256]>>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Segment<'a> {
    /// Text between such tokens.
    Text(&'a str),
    /// One of them.
    Token(u32),
}

impl Added {
    /// All user-defined tokens of `vocab`; those of `greedy` take white space behind them along.
    pub(crate) fn of(vocab: &Vocab, greedy: &[u32]) -> Self {
        let mut ids: Vec<u32> =
            vocab.iter().filter(|(_, kind)| *kind == Kind::UserDefined).map(|(id, _)| id).collect();
        if ids.is_empty() {
            return Self::default();
        }
        ids.sort_by_key(|&id| std::cmp::Reverse(vocab.name(id).len()));
        let mut begins = Box::new([false; 256]);
        ids.iter().for_each(|&id| begins[usize::from(vocab.name(id)[0])] = true);
        let tokens = ids.into_iter().map(|id| (id, greedy.contains(&id))).collect();
        Self { tokens, begins: Some(begins) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Those that take white space behind them along.
    pub(crate) fn is_greedy(&self, id: u32) -> bool {
        self.tokens.contains(&(id, true))
    }

    /// Cuts a text at the longest token that begins at each place, from the left.
    pub(crate) fn segments<'a>(&self, vocab: &Vocab, text: &'a str) -> Vec<Segment<'a>> {
        let Some(begins) = &self.begins else { return vec![Segment::Text(text)] };
        let (mut segments, mut from, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            let found = begins[usize::from(text.as_bytes()[at])].then(|| self.at(vocab, text, at));
            let Some((id, end)) = found.flatten() else {
                at += 1;
                continue;
            };
            if from < at {
                segments.push(Segment::Text(&text[from..at]));
            }
            segments.push(Segment::Token(id));
            (from, at) = (end, end);
        }
        if from < text.len() {
            segments.push(Segment::Text(&text[from..]));
        }
        segments
    }

    fn at(&self, vocab: &Vocab, text: &str, at: usize) -> Option<(u32, usize)> {
        let rest = &text.as_bytes()[at..];
        let &(id, greedy) = self.tokens.iter().find(|(id, _)| rest.starts_with(vocab.name(*id)))?;
        let end = at + vocab.name(id).len();
        let behind = text.get(end..)?;
        let blank = if greedy { behind.len() - behind.trim_start().len() } else { 0 };
        Some((id, end + blank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_is_taken_from_the_left() {
        let mut vocab = Vocab::default();
        for name in ["<a>", "  ", "   ", "é"] {
            vocab.push(name.as_bytes(), Kind::UserDefined).unwrap();
        }
        let added = Added::of(&vocab, &[0]);
        let cut = |text| added.segments(&vocab, text);
        use Segment::{Text, Token};
        assert_eq!(cut("x    y<a>\n z"), [Text("x"), Token(2), Text(" y"), Token(0), Text("z")]);
        assert_eq!(cut("ö"), [Text("ö")]);
        assert_eq!(cut("é"), [Token(3)]);
        assert_eq!(cut(""), []);
        assert_eq!(Added::default().segments(&vocab, ""), [Text("")]);
    }
}
