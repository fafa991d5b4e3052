//! Decodes token by token, and never shows half a character.

use super::Tokenizer;

/// Tokens in, text out as soon as its characters are complete.
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The beginning of a character; at most three bytes.
    pending: Vec<u8>,
    /// The next blank may be the one that encoding puts before a text.
    leads: bool,
}

impl<'a> TokenStream<'a> {
    /// A stream from the beginning of a text on.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), leads: tokenizer.adds_blank() }
    }

    /// A stream that continues a text.
    pub fn within(tokenizer: &'a Tokenizer) -> Self {
        Self { leads: false, ..Self::new(tokenizer) }
    }

    /// The text that this token completes, if any. Bytes that no character has become U+FFFD.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let bytes = self.tokenizer.token_bytes(id);
        let lead = self.leads && bytes.first() == Some(&b' ');
        self.leads &= bytes.is_empty();
        self.pending.extend_from_slice(&bytes[usize::from(lead)..]);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let rest = chunk.invalid();
            let unfinished = done + rest.len() == self.pending.len() && is_beginning(rest);
            if !rest.is_empty() && !unfinished {
                text.push(char::REPLACEMENT_CHARACTER);
                done += rest.len();
            }
        }
        self.pending.drain(..done);
        (!text.is_empty()).then_some(text)
    }

    /// What is left at the end: U+FFFD where the last character never became complete.
    pub fn finish(self) -> Option<String> {
        (!self.pending.is_empty()).then(|| char::REPLACEMENT_CHARACTER.to_string())
    }
}

/// Whether more bytes could still make a character of these.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static BYTES: LazyLock<Tokenizer> =
        LazyLock::new(|| Tokenizer::train(&["x"], 257, 1).expect("the text is legal"));

    fn id(byte: u8) -> u32 {
        (0..257).find(|&id| BYTES.token_bytes(id) == [byte]).expect("every byte is a token")
    }

    #[test]
    fn characters_come_whole() {
        let mut stream = TokenStream::new(&BYTES);
        let shown: Vec<_> = "aö€😀".bytes().map(|byte| stream.push(id(byte))).collect();
        let some = |text: &str| Some(text.to_owned());
        let expected =
            [some("a"), None, some("ö"), None, None, some("€"), None, None, None, some("😀")];
        assert_eq!(shown, expected);
        assert_eq!(stream.finish(), None);
    }

    #[test]
    fn broken_characters_are_replaced() {
        let mut stream = TokenStream::new(&BYTES);
        assert_eq!(stream.push(id(0xe2)), None);
        assert_eq!(stream.push(id(b'a')), Some("\u{fffd}a".to_owned()));
        assert_eq!(stream.push(id(0xff)), Some("\u{fffd}".to_owned()));
        assert_eq!(stream.push(BYTES.prefix()), None);
        assert_eq!(stream.push(id(0xf0)), None);
        assert_eq!(stream.finish(), Some("\u{fffd}".to_owned()));
    }

    proptest! {
        #[test]
        fn the_stream_says_what_decode_says(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let ids: Vec<u32> = bytes.iter().map(|&byte| id(byte)).collect();
            let mut stream = TokenStream::new(&BYTES);
            let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
            text.extend(stream.finish());
            prop_assert_eq!(text, BYTES.decode(&ids));
        }
    }
}
