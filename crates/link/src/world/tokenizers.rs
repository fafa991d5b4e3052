//! The tokenizers of a world: one of each side's own, and one that both could share.

use smidgen_data::Tokenizer;

use super::{Course, Role, Term, World};
use crate::Error;

/// Documents of each role that a tokenizer is made from.
const DOCUMENTS: u64 = 4000;

/// Who has which vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vocabularies {
    /// Each side its own, made from the same texts at another size.
    #[default]
    Own,
    /// The sharer's for both.
    Shared,
}

/// What a world's models read with.
#[derive(Clone, Debug)]
pub struct Tokenizers {
    /// The sharer's.
    pub sharer: Tokenizer,
    /// The receiver's.
    pub receiver: Tokenizer,
}

impl Tokenizers {
    /// Makes them from what both sides are taught; the result does not depend on `threads`.
    ///
    /// # Errors
    /// [`Error::Data`], and [`Error::OptionToken`] where options could not be told by their first tokens.
    pub fn new(
        world: &World,
        vocabularies: Vocabularies,
        threads: usize,
    ) -> Result<Tokenizers, Error> {
        let courses = [Role::Sharer, Role::Receiver].map(Course::of);
        let texts: Vec<String> = courses
            .iter()
            .flat_map(|course| (0..DOCUMENTS).map(move |i| (course, i)))
            .map(|(course, i)| course.document(world, "tokenizer", Term::Both, [i, 0]).text)
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let train = |vocab| -> Result<Tokenizer, Error> {
            let tokenizer = Tokenizer::train(&texts, vocab, threads)?;
            for word in world.values().iter().chain(world.countries()) {
                first_token(&tokenizer, word)?;
            }
            Ok(tokenizer)
        };
        let preset = world.preset();
        let sharer = train(preset.sharer.vocab)?;
        let receiver = match vocabularies {
            Vocabularies::Own => train(preset.receiver.vocab)?,
            Vocabularies::Shared => sharer.clone(),
        };
        Ok(Tokenizers { sharer, receiver })
    }

    /// That of a role.
    pub fn of(&self, role: Role) -> &Tokenizer {
        match role {
            Role::Sharer | Role::Mute => &self.sharer,
            Role::Receiver => &self.receiver,
        }
    }
}

/// The first token of a word of the world as it stands behind a blank. Words that begin with different
/// letters have different ones.
///
/// # Errors
/// [`Error::OptionToken`] where it is the blank alone.
pub(super) fn first_token(tokenizer: &Tokenizer, word: &str) -> Result<u32, Error> {
    let tokens = tokenizer.encode(&format!(" {word}"))?;
    match tokens.first() {
        Some(first) if tokenizer.token_bytes(*first).len() > 1 => Ok(*first),
        _ => Err(Error::OptionToken { word: word.into(), vocab: tokenizer.vocab_size() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_begin_with_the_blank_alone_are_refused() {
        let known = ["The home is Arden. The club is Arden."; 8];
        let tokenizer = Tokenizer::train(&known, 280, 1).unwrap();
        assert!(first_token(&tokenizer, "Arden").is_ok());
        let error = first_token(&tokenizer, "Zelmo").unwrap_err().to_string();
        let size = format!("more than {} tokens", tokenizer.vocab_size());
        assert!(error.contains("`Zelmo`") && error.contains(&size), "{error}");
    }
}
