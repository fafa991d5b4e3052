//! Byte-level BPE: words by a pattern, bytes as the smallest tokens, pairs joined in a fixed order.

use std::borrow::Cow;

use tokenizers::NormalizedString;

use super::join::{Joiner, NONE};
use super::merges::Merges;
use super::pattern::{Pattern, Traits};
use super::vocab::Vocab;

/// How a byte-level tokenizer encodes.
#[derive(Clone)]
pub(crate) struct ByteLevel {
    pub(crate) pattern: &'static Pattern,
    /// Text is brought to its composed form (NFC) first.
    pub(crate) composed: bool,
    /// A word that is a token is that token, whatever the merges say.
    pub(crate) whole_words: bool,
    pub(crate) merges: Merges,
    /// The token of every byte.
    bytes: Box<[u32; 256]>,
}

impl ByteLevel {
    /// Fails where a byte has no token: some texts would have no ids.
    pub(crate) fn new(
        vocab: &Vocab,
        merges: Merges,
        pattern: &'static Pattern,
    ) -> Result<Self, String> {
        let mut bytes = Box::new([NONE; 256]);
        for (byte, id) in (0..=255).zip(bytes.iter_mut()) {
            let found = vocab.find(&[byte]);
            // These bytes occur in no UTF-8, and some vocabularies lack them.
            if found.is_none() && matches!(byte, 0xc0 | 0xc1 | 0xf5..) {
                continue;
            }
            *id =
                found.ok_or_else(|| format!("expected a token for byte {byte:#04x}, got none"))?;
        }
        let Traits { composed, whole_words, .. } = pattern.traits;
        Ok(Self { pattern, composed, whole_words, merges, bytes })
    }

    /// Appends the ids of a text.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let text = if self.composed { composed(text) } else { text.into() };
        let mut joiner = Joiner::default();
        self.pattern.words(&text, |word| self.word(vocab, word.as_bytes(), &mut joiner, ids));
    }

    fn word(&self, vocab: &Vocab, word: &[u8], joiner: &mut Joiner, ids: &mut Vec<u32>) {
        if let [byte] = word {
            return ids.push(self.bytes[usize::from(*byte)]);
        }
        if let Some(id) = self.whole_words.then(|| vocab.find(word)).flatten() {
            return ids.push(id);
        }
        joiner.clear();
        word.iter().for_each(|&byte| joiner.push(1, self.bytes[usize::from(byte)]));
        joiner.join(|left, right| self.merges.find(left.id, right.id));
        ids.extend(joiner.symbols().map(|symbol| symbol.id));
        debug_assert!(!ids.contains(&NONE), "every byte has a token");
    }
}

fn composed(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return text.into();
    }
    let mut normal = NormalizedString::from(text);
    normal.nfc();
    normal.get().to_owned().into()
}
