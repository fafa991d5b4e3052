//! Perplexity and bits per byte of a text.
//!
//! A text longer than the context is cut into windows that begin `stride` tokens apart. Every token is
//! scored once, by the window that shows the most of the text before it: with a stride of the context
//! the windows lie side by side, with a smaller one no token but the first few has less than
//! `context - stride` tokens before it, and the work grows by `context / stride`. The text opens with
//! the model's own prefix, so that its first token is scored too.
//!
//! `ppl = exp(nll / tokens)`, `bpb = nll / (ln 2 * bytes)`. Several texts and the ends of long ones
//! share rows where they fit; attention does not cross their borders, so neither rows nor packing
//! change a score by more than rounding.

use smidgen_data::Tokenizer;
use smidgen_model::{Scorer, TokenBatch};

use crate::Error;

/// How texts are cut and batched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens a window sees, 1 to the context of the model.
    pub context: usize,
    /// Tokens from the beginning of a window to the next, 1 to `context`.
    pub stride: usize,
    /// Rows scored at once, at least 1.
    pub rows: usize,
}

/// The negative log-likelihood of texts, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextScore {
    /// Tokens scored, without the prefix.
    pub tokens: u64,
    /// Bytes of the texts.
    pub bytes: u64,
    /// Sum over all tokens.
    pub nll: f64,
}

impl TextScore {
    /// Nats per token.
    pub fn mean_nll(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// Perplexity per token.
    pub fn ppl(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// Bits per byte of text: the same measure for every tokenizer.
    pub fn bpb(&self) -> f64 {
        self.nll / (std::f64::consts::LN_2 * self.bytes as f64)
    }
}

/// A token and how surprising it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredToken {
    /// The token.
    pub id: u32,
    /// Its negative log-likelihood after all tokens that its window shows, in nats.
    pub nll: f64,
}

/// Texts cut and batched, ready to be scored.
pub struct Scoring {
    windows: Windows,
    /// Every text with its prefix.
    texts: Vec<Vec<u32>>,
    prefix: u32,
    tokens: u64,
    bytes: u64,
}

impl Scoring {
    /// Encodes the texts; empty ones do not count.
    ///
    /// # Errors
    /// `Range` for windows that cannot be, `NoText`, and those of the tokenizer.
    pub fn new(tokenizer: &Tokenizer, texts: &[&str], windows: Windows) -> Result<Self, Error> {
        let Windows { context, stride, rows } = windows;
        for (key, got, most) in [
            ("context", context, usize::MAX),
            ("stride", stride, context),
            ("rows", rows, usize::MAX),
        ] {
            if got == 0 || got > most {
                let expected = match most {
                    usize::MAX => "at least 1".to_owned(),
                    _ => format!("1 to {most}, the context"),
                };
                return Err(Error::Range { key, expected, got });
            }
        }
        let prefix = tokenizer.prefix();
        let encode = |text: &&str| -> Result<Vec<u32>, Error> {
            let mut ids = vec![prefix];
            ids.extend(tokenizer.encode(text)?);
            Ok(ids)
        };
        let mut encoded = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        encoded.retain(|ids| ids.len() > 1);
        let tokens: u64 = encoded.iter().map(|ids| ids.len() as u64 - 1).sum();
        if tokens == 0 {
            return Err(Error::NoText);
        }
        let bytes = texts.iter().map(|text| text.len() as u64).sum();
        Ok(Self { windows, texts: encoded, prefix, tokens, bytes })
    }

    /// Tokens that will be scored.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Scores everything; `each` gets the tokens of every batch, in the order of the texts.
    ///
    /// # Errors
    /// Those of the model: a context beyond its own, a token outside its vocabulary.
    pub fn run(
        &self,
        scorer: &Scorer<'_>,
        each: &mut dyn FnMut(&[ScoredToken]),
    ) -> Result<TextScore, Error> {
        let mut score = TextScore { bytes: self.bytes, ..TextScore::default() };
        let mut rows = self.rows();
        loop {
            let batch: Vec<Row> = rows.by_ref().take(self.windows.rows).collect();
            if batch.is_empty() {
                return Ok(score);
            }
            let scored = self.batch(scorer, &batch)?;
            score.tokens += scored.len() as u64;
            score.nll += scored.iter().map(|token| token.nll).sum::<f64>();
            each(&scored);
        }
    }

    fn batch(&self, scorer: &Scorer<'_>, rows: &[Row]) -> Result<Vec<ScoredToken>, Error> {
        let length = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let rows: Vec<Row> = rows.iter().map(|row| row.filled(length, self.prefix)).collect();
        let all = |part: fn(&Row) -> &[u32]| rows.iter().flat_map(part).copied().collect();
        let (tokens, starts) = (all(|row| &row.tokens), all(|row| &row.starts));
        let targets: Vec<u32> = all(|row| &row.targets);
        let nll = scorer.nll(&TokenBatch::new(rows.len(), tokens, starts)?, &targets)?;
        let counts = rows.iter().flat_map(|row| &row.counts);
        let scored = targets.iter().zip(nll).zip(counts).filter(|(_, counts)| **counts);
        Ok(scored.map(|((&id, nll), _)| ScoredToken { id, nll }).collect())
    }

    /// Windows side by side in rows, as many as fit.
    fn rows(&self) -> impl Iterator<Item = Row> {
        let mut windows = self.texts.iter().flat_map(|ids| self.cut(ids)).peekable();
        let context = self.windows.context;
        std::iter::from_fn(move || {
            let mut row = Row::default();
            while let Some(window) =
                windows.next_if(|next| row.tokens.len() + next.ids.len() - 1 <= context)
            {
                row.push(&window);
            }
            (!row.tokens.is_empty()).then_some(row)
        })
    }

    /// The windows of one text.
    fn cut<'a>(&self, ids: &'a [u32]) -> impl Iterator<Item = Window<'a>> {
        let Windows { context, stride, .. } = self.windows;
        let targets = ids.len() - 1;
        // The first window scores all it has, each later one the `stride` targets behind the last.
        let count = 1 + targets.saturating_sub(context).div_ceil(stride);
        (0..count).map(move |number| {
            let from = number * stride;
            let end = (from + context).min(targets);
            let scored = if number == 0 { 0 } else { context - stride };
            Window { ids: &ids[from..end + 1], scored }
        })
    }
}

/// Tokens with the one behind them; those from `scored` on count.
struct Window<'a> {
    ids: &'a [u32],
    scored: usize,
}

/// Windows side by side.
#[derive(Clone, Default)]
struct Row {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    starts: Vec<u32>,
    counts: Vec<bool>,
}

impl Row {
    fn push(&mut self, window: &Window<'_>) {
        let (start, length) = (self.tokens.len() as u32, window.ids.len() - 1);
        self.tokens.extend(&window.ids[..length]);
        self.targets.extend(&window.ids[1..]);
        self.starts.extend(std::iter::repeat_n(start, length));
        self.counts.extend((0..length).map(|place| place >= window.scored));
    }

    /// The row with a text behind it that counts for nothing, `length` tokens in all.
    fn filled(&self, length: usize, id: u32) -> Row {
        let mut row = self.clone();
        let missing = length - row.tokens.len();
        row.push(&Window { ids: &vec![id; missing + 1], scored: missing });
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scoring(texts: &[Vec<u32>], context: usize, stride: usize) -> Scoring {
        let windows = Windows { context, stride, rows: 1 };
        let tokens = texts.iter().map(|ids| ids.len() as u64 - 1).sum();
        Scoring { windows, texts: texts.to_vec(), prefix: 0, tokens, bytes: 1 }
    }

    #[test]
    fn windows_begin_a_stride_apart() {
        let cut = |stride| -> Vec<(Vec<u32>, usize)> {
            let texts = [(0..8).collect::<Vec<u32>>()];
            let scoring = scoring(&texts, 4, stride);
            scoring.cut(&texts[0]).map(|window| (window.ids.to_vec(), window.scored)).collect()
        };
        assert_eq!(cut(4), [(vec![0, 1, 2, 3, 4], 0), (vec![4, 5, 6, 7], 0)]);
        assert_eq!(
            cut(2),
            [(vec![0, 1, 2, 3, 4], 0), (vec![2, 3, 4, 5, 6], 2), (vec![4, 5, 6, 7], 2)]
        );
    }

    #[test]
    fn short_windows_share_a_row() {
        let texts: Vec<Vec<u32>> = [3, 2, 5].iter().map(|&n| (0..n).collect()).collect();
        let rows: Vec<Row> = scoring(&texts, 4, 4).rows().collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].tokens, [0, 1, 0]);
        assert_eq!(rows[0].starts, [0, 0, 2]);
        assert_eq!(rows[0].filled(5, 9).starts, [0, 0, 2, 3, 3]);
        assert_eq!(rows[0].filled(5, 9).counts, [true, true, true, false, false]);
    }

    proptest! {
        #[test]
        fn every_target_is_scored_once(
            lengths in proptest::collection::vec(2_usize..40, 1..6),
            context in 1_usize..12,
            stride in 1_usize..12,
        ) {
            let mut next = 0;
            let mut text = |length: &usize| -> Vec<u32> {
                next += 100;
                (next..next + *length as u32).collect()
            };
            let texts: Vec<Vec<u32>> = lengths.iter().map(&mut text).collect();
            let stride = stride.min(context);
            let mut scored = Vec::new();
            for row in scoring(&texts, context, stride).rows() {
                prop_assert!(row.tokens.len() <= context);
                for place in 0..row.tokens.len() {
                    prop_assert_eq!(row.tokens[place] + 1, row.targets[place]);
                    if row.counts[place] {
                        scored.push(row.targets[place]);
                        let before = place as u32 - row.starts[place];
                        let all = (row.tokens[place] % 100) as usize;
                        prop_assert!(before as usize >= all.min(context - stride));
                    }
                }
            }
            let expected: Vec<u32> = texts.iter().flat_map(|ids| ids[1..].to_vec()).collect();
            prop_assert_eq!(scored, expected);
        }
    }
}
