//! A text as one model reads it, and where each of its tokens ends.

use std::ops::Range;

use smidgen_data::Tokenizer;

use crate::Error;

/// A text in tokens.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    /// What the model reads: the token that opens a text, and the text's own.
    pub(crate) tokens: Vec<u32>,
    /// Where each ends in the text, in bytes.
    pub(crate) ends: Vec<u32>,
}

impl Prompt {
    /// # Errors
    /// [`Error::Value`] for an empty text, and for one whose tokens do not spell it byte by byte:
    /// tokens of another model could not be found in it.
    pub(crate) fn new(tokenizer: &Tokenizer, text: &str) -> Result<Prompt, Error> {
        if text.is_empty() {
            return Err(Error::value("prompt", "a text", "none"));
        }
        let mut tokens = vec![tokenizer.prefix()];
        tokens.extend(tokenizer.encode(text)?);
        let lens = tokens.iter().map(|id| tokenizer.token_bytes(*id).len());
        let mut end = 0;
        let ends: Vec<usize> = lens.map(|len| (end += len, end).1).collect();
        // Some encoders put a blank in front, which is no part of the text.
        let blank = end.saturating_sub(text.len());
        let spelled: Vec<u8> =
            tokens.iter().flat_map(|id| tokenizer.token_bytes(*id)).copied().collect();
        if blank > 1 || spelled[blank..] != *text.as_bytes() {
            let got = "another, once its tokens are put together again";
            return Err(Error::value("prompt", "a text that this tokenizer spells", got));
        }
        let ends = ends.into_iter().map(|end| end.saturating_sub(blank) as u32).collect();
        Ok(Prompt { tokens, ends })
    }

    /// The bytes that each token covers.
    pub(crate) fn spans(ends: &[u32]) -> Vec<Range<usize>> {
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(ends).map(|(start, end)| start as usize..*end as usize).collect()
    }
}
