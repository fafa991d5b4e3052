//! Documents as pairs of a context, which both models read, and a continuation.
//!
//! Each model reads a document in its own tokens; a cut lies before a blank and where tokens of both
//! begin, so no token of the context knows anything of what follows.

use std::ops::Range;

use smidgen_data::Tokenizer;

use super::Model;
use crate::Error;
use crate::align::{Alignment, Overlap, spans};
use crate::fuse;

/// Where documents are cut, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) context: usize,
    pub(super) continuation: usize,
    /// Before the context, for the sharer alone.
    pub(super) more: usize,
}

/// A context and its continuation.
#[derive(Clone, Debug)]
pub(super) struct TextItem {
    /// As the fuser learns it.
    pub(super) item: fuse::Item,
    /// The continuation in the sharer's tokens.
    pub(super) sharer_response: Vec<u32>,
    /// Place of the document in its part.
    pub(super) document: usize,
}

impl TextItem {
    /// Tokens of the sharer that stand for a fused one of the receiver: all that has to travel.
    pub(super) fn sent(&self) -> Vec<u32> {
        let fused = 0..self.item.receiver.len() - 1;
        let mut sent: Vec<u32> = fused
            .flat_map(|token| self.item.alignment.of(token))
            .map(|piece| piece.token)
            .collect();
        sent.sort_unstable();
        sent.dedup();
        sent
    }
}

/// A document in the tokens of one model.
struct Reading {
    tokens: Vec<u32>,
    /// Bytes of the document that each covers.
    spans: Vec<Range<usize>>,
}

impl Reading {
    /// None where the tokens do not give the text back: a character that the vocabulary lacks.
    fn new(tokenizer: &Tokenizer, text: &str) -> Result<Option<Reading>, Error> {
        let tokens = tokenizer.encode(text)?;
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|id| tokenizer.token_bytes(*id)).copied().collect();
        // Some tokenizers put a blank before a text.
        let lead = bytes.len().saturating_sub(text.len());
        if lead > 1 || bytes.get(lead..) != Some(text.as_bytes()) {
            return Ok(None);
        }
        let of_text =
            |span: Range<usize>| span.start.saturating_sub(lead)..span.end.saturating_sub(lead);
        let spans = spans(tokenizer, &tokens).into_iter().map(of_text).collect();
        Ok(Some(Reading { tokens, spans }))
    }

    /// The first token that begins at or behind a byte.
    fn token_at(&self, byte: usize) -> usize {
        self.spans.partition_point(|span| span.start < byte)
    }

    fn begins_token(&self, byte: usize) -> bool {
        self.spans.get(self.token_at(byte)).is_none_or(|span| span.start == byte)
    }

    fn tokens_in(&self, bytes: Range<usize>) -> &[u32] {
        &self.tokens[self.token_at(bytes.start)..self.token_at(bytes.end)]
    }

    /// The prefix of the model and tokens, with the bytes of each.
    fn prompt(&self, tokenizer: &Tokenizer, bytes: Range<usize>) -> (Vec<u32>, Vec<Range<usize>>) {
        let places = self.token_at(bytes.start)..self.token_at(bytes.end);
        let mut tokens = vec![tokenizer.prefix()];
        tokens.extend_from_slice(&self.tokens[places.clone()]);
        let front = bytes.start..bytes.start;
        let spans = std::iter::once(front).chain(self.spans[places].iter().cloned()).collect();
        (tokens, spans)
    }
}

/// The items of some documents, a cut every `stride` bytes, and how many documents gave none: too
/// short, or with characters that a vocabulary lacks.
///
/// # Errors
/// [`Error::Value`] for contexts that a model has no room for, those of a tokenizer.
pub(super) fn items(
    documents: &[String],
    cut: &Cut,
    stride: usize,
    sharer: &Model,
    receiver: &Model,
) -> Result<(Vec<TextItem>, usize), Error> {
    let (mut all, mut left_out) = (Vec::new(), 0);
    for (document, text) in documents.iter().enumerate() {
        let before = all.len();
        let theirs = Reading::new(&sharer.tokenizer, text)?;
        let ours = Reading::new(&receiver.tokenizer, text)?;
        if let (Some(theirs), Some(ours)) = (theirs, ours) {
            let borders = borders(text, &theirs, &ours);
            for [first, start, at, end] in places(&borders, cut, stride) {
                let (tokens, spans) = theirs.prompt(&sharer.tokenizer, first..at);
                let (own_tokens, own_spans) = ours.prompt(&receiver.tokenizer, start..at);
                let alignment = Alignment::by_spans(&own_spans, &spans, Overlap::CoverLast);
                let item = fuse::Item {
                    sharer: tokens,
                    receiver: own_tokens,
                    alignment,
                    response: ours.tokens_in(at..end).to_vec(),
                    response_bytes: end - at,
                };
                let sharer_response = theirs.tokens_in(at..end).to_vec();
                fits(&item.sharer, &sharer_response, sharer, "sharer")?;
                fits(&item.receiver, &item.response, receiver, "receiver")?;
                all.push(TextItem { item, sharer_response, document });
            }
        }
        left_out += usize::from(all.len() == before);
    }
    Ok((all, left_out))
}

/// Bytes where a document may be cut: its ends, and blanks where tokens of both models begin.
fn borders(text: &str, sharer: &Reading, receiver: &Reading) -> Vec<usize> {
    let is_border = |byte: &usize| sharer.begins_token(*byte) && receiver.begins_token(*byte);
    let blanks = text.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(byte, _)| byte);
    let inside = blanks.filter(|byte| *byte > 0).filter(is_border);
    [0].into_iter().chain(inside).chain([text.len()]).collect()
}

/// Of every item where the sharer begins, where the receiver begins, the cut and the end.
fn places(borders: &[usize], cut: &Cut, stride: usize) -> Vec<[usize; 4]> {
    let from = |byte: usize| borders.get(borders.partition_point(|border| *border < byte)).copied();
    let (mut places, mut next) = (Vec::new(), cut.context);
    while let Some(at) = from(next)
        && let Some(end) = from(at + cut.continuation)
    {
        let start = from(at.saturating_sub(cut.context)).filter(|start| *start < at);
        if let Some(start) = start {
            let first = from(start.saturating_sub(cut.more)).expect("the start is behind it");
            places.push([first, start, at, end]);
        }
        next = at + stride;
    }
    places
}

fn fits(prompt: &[u32], response: &[u32], model: &Model, whose: &str) -> Result<(), Error> {
    let (got, limit) = (prompt.len() + response.len() - 1, model.side.decoder.spec().context);
    if got <= limit {
        return Ok(());
    }
    let expected = format!("contexts and continuations of at most {limit} tokens of the {whose}");
    Err(Error::value("context_bytes", expected, got))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scored_byte_is_scored_once_and_contexts_are_full() {
        let borders: Vec<usize> = (0..=300).step_by(5).collect();
        let cut = Cut { context: 52, continuation: 23, more: 0 };
        let places = places(&borders, &cut, cut.continuation);
        assert_eq!(places[0], [5, 5, 55, 80]);
        assert!(places.windows(2).all(|pair| pair[0][3] == pair[1][2]), "{places:?}");
        assert!(places.iter().all(|[first, start, ..]| first == start));
        assert_eq!(places.last().unwrap()[3], 280, "what is shorter than a continuation is left");
        let more = super::places(&borders, &Cut { more: 40, ..cut }, 23);
        assert_eq!(more[0], [0, 5, 55, 80]);
        assert_eq!(more[3][..2], [40, 80]);
        assert!(super::places(&[0, 60], &cut, 23).is_empty());
    }

    #[test]
    fn cuts_lie_before_blanks_where_both_begin_a_token() {
        let texts = ["the cat and the dog and the cat", "and a dog met the cat"];
        let tokenizers = [258, 270].map(|size| Tokenizer::train(&texts, size, 1).unwrap());
        let text = "the dog and the cat\u{e9} met";
        let [a, b] = tokenizers.each_ref().map(|t| Reading::new(t, text).unwrap().unwrap());
        let borders = borders(text, &a, &b);
        assert_eq!(borders.first(), Some(&0));
        assert!(borders.iter().all(|b| *b == 0 || text[*b..].is_empty() || &text[*b..=*b] == " "));
        for (reading, tokenizer) in [&a, &b].into_iter().zip(&tokenizers) {
            let (tokens, spans) = reading.prompt(tokenizer, borders[1]..borders[2]);
            assert_eq!((tokens.len(), spans[0].clone()), (spans.len(), borders[1]..borders[1]));
            let said = tokenizer.decode(&tokens[1..]);
            assert_eq!(said, text[borders[1]..borders[2]]);
        }
    }
}
