//! Answers and whether they are right, in the same way for every method.
//!
//! A choice is answered by comparing the logits of the options' first tokens; a word is written out, the most
//! likely token each time, and must match exactly. Nothing here knows where the logits come from.

use serde::{Deserialize, Serialize};
use smidgen_data::Tokenizer;
use smidgen_model::{Sampler, Sampling, Session};

use super::tokenizers::first_token;
use super::{Answer, Item};
use crate::Error;

/// Tokens of a word at most.
pub(crate) const MOST_TOKENS: usize = 12;

/// Something that gives logits after a prompt: a model alone, one behind a link, one with a note.
pub trait Reader {
    /// What its tokens stand for.
    fn tokenizer(&self) -> &Tokenizer;

    /// Reads the prompt of an item from the beginning; logits after it, `[V]`.
    ///
    /// # Errors
    /// Whatever it meets.
    fn read(&mut self, item: &Item) -> Result<Vec<f32>, Error>;

    /// Reads one token more; logits after it, `[V]`.
    ///
    /// # Errors
    /// As for [`Reader::read`].
    fn follow(&mut self, token: u32) -> Result<Vec<f32>, Error>;
}

/// How an item was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// The item's id.
    pub id: String,
    /// What it is resampled by.
    pub cluster: u64,
    /// The word.
    pub answer: String,
    /// Tokens of it.
    pub tokens: u64,
    /// Whether it is right.
    pub correct: bool,
    /// For a choice, by how much the first option leads the second in probability among the four.
    pub margin: Option<f64>,
}

/// Lets a reader answer items.
///
/// # Errors
/// Those of the reader, and [`Error::OptionToken`] for a vocabulary that does not tell options apart.
pub fn score(reader: &mut dyn Reader, items: &[Item]) -> Result<Vec<Scored>, Error> {
    items.iter().map(|item| score_one(reader, item)).collect()
}

/// Lets a reader answer one item.
///
/// # Errors
/// As for [`score`].
pub fn score_one(reader: &mut dyn Reader, item: &Item) -> Result<Scored, Error> {
    let logits = reader.read(item)?;
    let (answer, tokens, correct, margin) = match &item.answer {
        Answer::Choice { options, gold } => {
            let tokens = options.iter().map(|option| first_token(reader.tokenizer(), option));
            let (place, margin) = choose(&logits, &tokens.collect::<Result<Vec<_>, _>>()?);
            (options[place].clone(), 1, place == *gold, Some(margin))
        }
        Answer::Word { gold } => {
            let (word, tokens) = write(reader, logits)?;
            let correct = word == *gold;
            (word, tokens, correct, None)
        }
    };
    Ok(Scored { id: item.id.clone(), cluster: item.cluster, answer, tokens, correct, margin })
}

/// Share of right answers; 0 of none.
pub fn accuracy(scored: &[Scored]) -> f64 {
    let right = scored.iter().filter(|scored| scored.correct).count();
    right as f64 / scored.len().max(1) as f64
}

/// The likeliest of the options by their first tokens, the first of equal ones, and its lead in probability.
fn choose(logits: &[f32], options: &[u32]) -> (usize, f64) {
    let values: Vec<f64> = options.iter().map(|id| f64::from(logits[*id as usize])).collect();
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = values.iter().map(|value| (value - most).exp()).collect();
    let best = values.iter().position(|value| *value == most).unwrap_or(0);
    let second = weights.iter().enumerate().filter(|(place, _)| *place != best);
    let second = second.map(|(_, weight)| *weight).fold(0.0, f64::max);
    (best, (weights[best] - second) / weights.iter().sum::<f64>())
}

/// The most likely tokens up to the end of the text or of the sentence, as a word, and how many.
fn write(reader: &mut dyn Reader, mut logits: Vec<f32>) -> Result<(String, u64), Error> {
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() })?;
    let mut ids = Vec::new();
    while ids.len() < MOST_TOKENS {
        let id = sampler.draw(&logits);
        let tokenizer = reader.tokenizer();
        if tokenizer.ends(id) || tokenizer.token_bytes(id).contains(&b'.') {
            break;
        }
        ids.push(id);
        logits = reader.follow(id)?;
    }
    Ok((reader.tokenizer().decode(&ids).trim().to_string(), ids.len() as u64))
}

/// A model alone, and which of an item's texts it reads.
pub struct Alone<'m> {
    session: Session<'m>,
    tokenizer: Tokenizer,
    text: fn(&Item) -> &str,
}

impl<'m> Alone<'m> {
    /// The sharer that is asked itself.
    pub fn sharer(session: Session<'m>, tokenizer: &Tokenizer) -> Alone<'m> {
        Alone { session, tokenizer: tokenizer.clone(), text: |item| &item.asked }
    }

    /// The receiver without help.
    pub fn receiver(session: Session<'m>, tokenizer: &Tokenizer) -> Alone<'m> {
        Alone { session, tokenizer: tokenizer.clone(), text: |item| &item.receiver }
    }
}

impl Reader for Alone<'_> {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn read(&mut self, item: &Item) -> Result<Vec<f32>, Error> {
        let mut ids = vec![self.tokenizer.prefix()];
        ids.extend(self.tokenizer.encode((self.text)(item))?);
        self.session.truncate(0);
        Ok(self.session.feed(&ids)?)
    }

    fn follow(&mut self, token: u32) -> Result<Vec<f32>, Error> {
        Ok(self.session.feed(&[token])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_options_is_chosen_and_leads_by_nothing() {
        let logits = [9.0, 1.0, 2.0, 2.0, -1.0];
        let (place, margin) = choose(&logits, &[1, 2, 3, 4]);
        assert_eq!((place, margin), (1, 0.0));
        let (place, margin) = choose(&logits, &[4, 0, 2, 3]);
        assert_eq!(place, 1);
        let expected = (1.0 - (-7f64).exp()) / (1.0 + 2.0 * (-7f64).exp() + (-10f64).exp());
        assert!((margin - expected).abs() < 1e-12);
    }
}
