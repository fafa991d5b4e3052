//! The tokenizers of a world: one of each side's own, and one that both could share.

use smidgen_data::Tokenizer;

use super::text::LETTERS;
use super::{Course, Role, World};
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
    /// [`Error::Data`], and [`Error::Letters`] where a letter of an option is no token.
    pub fn new(
        world: &World,
        vocabularies: Vocabularies,
        threads: usize,
    ) -> Result<Tokenizers, Error> {
        let courses = [Role::Sharer, Role::Receiver].map(Course::of);
        let texts: Vec<String> = courses
            .iter()
            .flat_map(|course| (0..DOCUMENTS).map(move |i| (course, i)))
            .map(|(course, i)| course.document(world, "tokenizer", [i, 0]).text)
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let train = |vocab| -> Result<Tokenizer, Error> {
            let tokenizer = Tokenizer::train(&texts, vocab, threads)?;
            letters(&tokenizer)?;
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

/// The token of each option's letter, as it stands behind a blank.
///
/// # Errors
/// [`Error::Letters`] where one is not a single token.
pub fn letters(tokenizer: &Tokenizer) -> Result<[u32; 4], Error> {
    let mut ids = [0; 4];
    for (id, letter) in ids.iter_mut().zip(LETTERS) {
        let tokens = tokenizer.encode(&format!(" {letter}"))?;
        let &[only] = tokens.as_slice() else {
            return Err(Error::Letters { letter, tokens: tokens.len() });
        };
        *id = only;
    }
    Ok(ids)
}
