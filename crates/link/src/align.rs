//! Which tokens of the sharer stand for a token of the receiver, when both read the same text.
//!
//! With one vocabulary token i stands for token i. With two, each model reads its own tokens of the same
//! UTF-8 bytes, and tokens meet where their bytes do (`native offset`). Positions differ then, so keys have
//! to travel without them ([`KeySpace::PreRope`](smidgen_model::KeySpace)).
//! Differs from the published program, which makes the sharer read receiver tokens translated one by one:
//! a text that no model was trained on.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use smidgen_data::Tokenizer;

use crate::Error;

/// How tokens that overlap are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The last sharer token that ends within the receiver's, for it has read all of its text so far;
    /// where none does, the one with its last byte.
    #[default]
    CoverLast,
    /// The one with the most common bytes; of several the first.
    MaxOverlap,
    /// All that overlap, weighted by common bytes.
    MeanOverlap,
}

/// A sharer token and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Place among the sharer's tokens.
    pub token: u32,
    /// Share; those of one receiver token add up to 1.
    pub weight: f32,
}

/// For every token of the receiver what stands for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Alignment {
    /// Where the pieces of each token begin, and the end of the last.
    starts: Vec<u32>,
    pieces: Vec<Piece>,
}

impl Alignment {
    /// Token i for token i.
    pub fn identity(tokens: usize) -> Alignment {
        let piece = |token| Piece { token, weight: 1.0 };
        Alignment {
            starts: (0..=tokens as u32).collect(),
            pieces: (0..tokens as u32).map(piece).collect(),
        }
    }

    /// Token i for token i, both counted from the end: for texts that end alike, and for controls that
    /// send another prompt's cache.
    pub fn from_the_end(tokens: usize, sharer: usize) -> Alignment {
        let common = tokens.min(sharer);
        let first = (tokens - common) as u32;
        let piece = |i: u32| Piece { token: (sharer - common) as u32 + i, weight: 1.0 };
        Alignment {
            starts: (0..=tokens as u32).map(|i| i.saturating_sub(first)).collect(),
            pieces: (0..common as u32).map(piece).collect(),
        }
    }

    /// By the bytes that tokens of the same text cover; spans are ascending. Tokens without bytes meet
    /// nobody.
    pub fn by_spans(
        receiver: &[Range<usize>],
        sharer: &[Range<usize>],
        overlap: Overlap,
    ) -> Alignment {
        let mut alignment = Alignment { starts: vec![0], pieces: Vec::new() };
        let mut first = 0;
        for span in receiver {
            // No later token of the receiver reaches further back.
            while first < sharer.len() && sharer[first].end <= span.start {
                first += 1;
            }
            let common = sharer[first..]
                .iter()
                .take_while(|other| other.start < span.end)
                .enumerate()
                .map(|(i, other)| (first + i, bytes_in_common(span, other)))
                .filter(|(_, bytes)| *bytes > 0)
                .collect::<Vec<_>>();
            alignment.pieces.extend(choose(span, sharer, &common, overlap));
            alignment.starts.push(alignment.pieces.len() as u32);
        }
        alignment
    }

    /// By bytes, for the tokens that both tokenizers make of a text.
    ///
    /// # Errors
    /// [`Error::Value`] for tokens that are not those of one text, byte for byte.
    pub fn of_tokens(
        (receiver, its_tokens): (&Tokenizer, &[u32]),
        (sharer, other_tokens): (&Tokenizer, &[u32]),
        overlap: Overlap,
    ) -> Result<Alignment, Error> {
        let (ours, theirs) = (spans(receiver, its_tokens), spans(sharer, other_tokens));
        let bytes = |tokenizer: &Tokenizer, tokens: &[u32]| -> Vec<u8> {
            tokens.iter().flat_map(|id| tokenizer.token_bytes(*id)).copied().collect()
        };
        if bytes(receiver, its_tokens) != bytes(sharer, other_tokens) {
            return Err(Error::value("alignment", "tokens of one text", "those of two"));
        }
        Ok(Alignment::by_spans(&ours, &theirs, overlap))
    }

    /// Tokens of the receiver.
    pub fn tokens(&self) -> usize {
        self.starts.len() - 1
    }

    /// What stands for a token of the receiver; nothing where no bytes meet.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn of(&self, token: usize) -> &[Piece] {
        &self.pieces[self.starts[token] as usize..self.starts[token + 1] as usize]
    }

    /// Sharer tokens that are needed: one more than the last that stands for anything.
    pub fn needed(&self) -> usize {
        self.pieces.iter().map(|piece| piece.token as usize + 1).max().unwrap_or(0)
    }

    /// Share of the receiver's tokens with one sharer token that stands for no other; 1 of none.
    pub fn one_to_one_rate(&self) -> f64 {
        let mut uses = vec![0u32; self.needed()];
        self.pieces.iter().for_each(|piece| uses[piece.token as usize] += 1);
        let alone =
            |token: &usize| matches!(self.of(*token), [piece] if uses[piece.token as usize] == 1);
        self.rate((0..self.tokens()).filter(alone).count(), 1.0)
    }

    /// Share of the receiver's tokens that nothing stands for; 0 of none.
    pub fn unmapped_rate(&self) -> f64 {
        self.rate((0..self.tokens()).filter(|token| self.of(*token).is_empty()).count(), 0.0)
    }

    fn rate(&self, count: usize, of_none: f64) -> f64 {
        if self.tokens() == 0 { of_none } else { count as f64 / self.tokens() as f64 }
    }
}

/// Where the bytes of each token lie in the bytes of all.
pub fn spans(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<Range<usize>> {
    let mut end = 0;
    let next = |id: &u32| {
        let start = end;
        end += tokenizer.token_bytes(*id).len();
        start..end
    };
    tokens.iter().map(next).collect()
}

fn bytes_in_common(a: &Range<usize>, b: &Range<usize>) -> usize {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

fn choose(
    span: &Range<usize>,
    sharer: &[Range<usize>],
    common: &[(usize, usize)],
    overlap: Overlap,
) -> Vec<Piece> {
    let alone = |token: usize| Piece { token: token as u32, weight: 1.0 };
    match overlap {
        // The last that overlaps holds the last byte, where no token ends within the span.
        Overlap::CoverLast => {
            let within = common.iter().rfind(|(token, _)| sharer[*token].end <= span.end);
            within.or(common.last()).map(|(token, _)| alone(*token)).into_iter().collect()
        }
        Overlap::MaxOverlap => {
            let most = common.iter().map(|(_, bytes)| *bytes).max();
            let first = common.iter().find(|(_, bytes)| Some(*bytes) == most);
            first.map(|(token, _)| alone(*token)).into_iter().collect()
        }
        Overlap::MeanOverlap => {
            let all: usize = common.iter().map(|(_, bytes)| bytes).sum();
            let part = |(token, bytes): &(usize, usize)| Piece {
                token: *token as u32,
                weight: *bytes as f32 / all as f32,
            };
            common.iter().map(part).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cuts(lengths: &[usize]) -> Vec<Range<usize>> {
        let mut end = 0;
        let next = |length: &usize| {
            let start = end;
            end += length;
            start..end
        };
        lengths.iter().map(next).collect()
    }

    fn pieces(alignment: &Alignment) -> Vec<Vec<(u32, f32)>> {
        let of = |token| alignment.of(token).iter().map(|p| (p.token, p.weight)).collect();
        (0..alignment.tokens()).map(of).collect()
    }

    /// `abcdefgh` as ab|cdef|gh and as a|bc|de|fgh.
    #[test]
    fn rules_by_hand() {
        let (receiver, sharer) = (cuts(&[2, 4, 2]), cuts(&[1, 2, 2, 3]));
        let by = |overlap| pieces(&Alignment::by_spans(&receiver, &sharer, overlap));
        let one = |token| vec![(token, 1.0)];
        // `a` ends within `ab`; `de` is the last that ends within `cdef`; nothing ends within `gh` but `fgh`.
        assert_eq!(by(Overlap::CoverLast), [one(0), one(2), one(3)]);
        assert_eq!(by(Overlap::MaxOverlap), [one(0), one(2), one(3)]);
        assert_eq!(
            by(Overlap::MeanOverlap),
            [vec![(0, 0.5), (1, 0.5)], vec![(1, 0.25), (2, 0.5), (3, 0.25)], one(3)]
        );
        // Inside one long token, every token of the receiver has that one.
        let long = Alignment::by_spans(&receiver, &cuts(&[8]), Overlap::CoverLast);
        assert_eq!(pieces(&long), [one(0), one(0), one(0)]);
        assert_eq!((long.one_to_one_rate(), long.unmapped_rate()), (0.0, 0.0));
    }

    /// Special tokens have no bytes, at either side.
    #[test]
    fn tokens_without_bytes_meet_nobody() {
        for overlap in [Overlap::CoverLast, Overlap::MaxOverlap, Overlap::MeanOverlap] {
            let got = Alignment::by_spans(&cuts(&[0, 2, 0, 3]), &cuts(&[0, 0, 2, 3, 0]), overlap);
            assert_eq!(pieces(&got), [vec![], vec![(2, 1.0)], vec![], vec![(3, 1.0)]]);
            assert_eq!((got.one_to_one_rate(), got.unmapped_rate()), (0.5, 0.5));
            assert_eq!(got.needed(), 4);
        }
        let none = Alignment::by_spans(&[], &cuts(&[3]), Overlap::CoverLast);
        assert_eq!((none.tokens(), none.one_to_one_rate(), none.unmapped_rate()), (0, 1.0, 0.0));
    }

    #[test]
    fn prompts_of_two_lengths_meet_at_their_ends() {
        let one = |token| vec![(token, 1.0)];
        assert_eq!(pieces(&Alignment::from_the_end(2, 4)), [one(2), one(3)]);
        assert_eq!(pieces(&Alignment::from_the_end(3, 2)), [vec![], one(0), one(1)]);
        assert_eq!(Alignment::from_the_end(3, 3), Alignment::identity(3));
        assert_eq!(pieces(&Alignment::from_the_end(1, 0)), [vec![]]);
    }

    #[test]
    fn equal_tokens_are_the_identity() {
        let spans = cuts(&[1, 3, 2, 5]);
        for overlap in [Overlap::CoverLast, Overlap::MaxOverlap, Overlap::MeanOverlap] {
            let by_bytes = Alignment::by_spans(&spans, &spans, overlap);
            assert_eq!(by_bytes, Alignment::identity(4));
            assert_eq!(by_bytes.one_to_one_rate(), 1.0);
        }
    }

    proptest! {
        /// Against the definition, by every byte.
        #[test]
        fn any_two_cuts_of_a_text_agree_with_the_definition(
            a in prop::collection::vec(0usize..5, 0..20),
            b in prop::collection::vec(0usize..5, 0..20),
        ) {
            let (receiver, mut sharer) = (cuts(&a), cuts(&b));
            let (ours, theirs) = (a.iter().sum::<usize>(), b.iter().sum::<usize>());
            sharer.push(theirs..ours.max(theirs));
            let mean = Alignment::by_spans(&receiver, &sharer, Overlap::MeanOverlap);
            let last = Alignment::by_spans(&receiver, &sharer, Overlap::CoverLast);
            for (token, span) in receiver.iter().enumerate() {
                let owner = |byte: usize| sharer.iter().position(|s| s.contains(&byte)).unwrap();
                for piece in mean.of(token) {
                    let bytes = span.clone().filter(|b| owner(*b) == piece.token as usize).count();
                    prop_assert_eq!(piece.weight, bytes as f32 / span.len() as f32);
                }
                let sum: f32 = mean.of(token).iter().map(|piece| piece.weight).sum();
                prop_assert!(span.is_empty() || (sum - 1.0).abs() < 1e-6);
                let expected = (!span.is_empty()).then(|| {
                    let ends = |s: &usize| sharer[*s].end <= span.end;
                    let mut inside: Vec<usize> = span.clone().map(owner).collect();
                    inside.dedup();
                    let within = inside.iter().copied().rfind(ends);
                    within.unwrap_or_else(|| owner(span.end - 1)) as u32
                });
                prop_assert_eq!(last.of(token).first().map(|piece| piece.token), expected);
            }
        }
    }

    #[test]
    fn two_tokenizers_of_one_text_meet_at_its_bytes() {
        let text = "the town of Aldor lies by the river; the river is the Aldo, a long river";
        let texts = [text, "another river lies by another town"];
        let make = |size| Tokenizer::train(&texts, size, 1).unwrap();
        let (small, large) = (make(262), make(290));
        let (a, b) = (small.encode(text).unwrap(), large.encode(text).unwrap());
        assert!(a.len() > b.len());
        let alignment =
            Alignment::of_tokens((&small, &a), (&large, &b), Overlap::CoverLast).unwrap();
        assert_eq!((alignment.tokens(), alignment.unmapped_rate()), (a.len(), 0.0));
        assert!(alignment.one_to_one_rate() < 1.0);
        assert_eq!(alignment.needed(), b.len());
        let cut = Alignment::of_tokens((&small, &a[1..]), (&large, &b), Overlap::CoverLast);
        assert!(cut.unwrap_err().to_string().contains("one text"));
    }
}
