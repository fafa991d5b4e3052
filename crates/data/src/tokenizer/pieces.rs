//! Cuts a text where GPT-2's split pattern ends a token anyway.
//!
//! The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
//! No alternative lets white space follow anything else, and only `\s+(?!\S)` looks ahead, from
//! within white space. So the border before white space that follows a visible character is a
//! token border in every text, and both halves tokenize as they would together. Long texts are
//! worked on in parallel and in bounded memory this way, without a change to one id.

/// About this many bytes make a piece.
const PIECE_BYTES: usize = 64 << 10;

/// The parts of one text, in order; empty parts do not occur.
pub(crate) struct Pieces<'a> {
    rest: &'a str,
    piece_bytes: usize,
}

impl<'a> Pieces<'a> {
    /// Parts of about 64 KiB; longer where no border comes.
    pub(crate) fn of(text: &'a str) -> Self {
        Self { rest: text, piece_bytes: PIECE_BYTES }
    }

    /// The text in one part.
    pub(crate) fn whole(text: &'a str) -> Self {
        Self { rest: text, piece_bytes: usize::MAX }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at(border(self.rest, self.piece_bytes));
        self.rest = rest;
        Some(piece)
    }
}

/// The first border at or behind `from` bytes; the end of the text if there is none.
fn border(text: &str, from: usize) -> usize {
    if from >= text.len() {
        return text.len();
    }
    let start = (0..=from).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let mut visible = false;
    for (at, letter) in text[start..].char_indices() {
        if visible && letter.is_whitespace() {
            return start + at;
        }
        visible = !letter.is_whitespace();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn cut(text: &str, piece_bytes: usize) -> Vec<&str> {
        Pieces { rest: text, piece_bytes }.collect()
    }

    /// What the library's own pattern makes of a text.
    fn words(text: &str) -> Vec<String> {
        let mut split = PreTokenizedString::from(text);
        ByteLevel::new(false, true, true).pre_tokenize(&mut split).unwrap();
        let parts = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        parts.into_iter().map(|(word, _, _)| word.to_owned()).collect()
    }

    #[test]
    fn borders_are_before_white_space() {
        assert_eq!(cut("ab cd\n\nef", 1), ["ab", " cd", "\n\nef"]);
        assert_eq!(cut("abcdef", 2), ["abcdef"]);
        assert_eq!(cut("   ", 1), ["   "]);
        assert_eq!(cut("", 1), Vec::<&str>::new());
        assert_eq!(Pieces::whole("a b c").collect::<Vec<_>>(), ["a b c"]);
    }

    proptest! {
        #[test]
        fn pieces_have_the_words_of_the_text(text in "([a-zäé0-9 '\\n\\t\u{3000}\u{85}.,!s]|\\PC){0,80}", size in 1_usize..9) {
            let pieces = cut(&text, size);
            prop_assert_eq!(pieces.concat(), text.clone());
            let apart: Vec<String> = pieces.iter().flat_map(|piece| words(piece)).collect();
            prop_assert_eq!(apart, words(&text));
        }
    }
}
