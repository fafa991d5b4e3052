//! The two large parts of a `tokenizer.json`, read straight into their tables.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::AddedToken;
use crate::tokenizer::alphabet::byte_of_name;
use crate::tokenizer::gguf::pair_of;
use crate::tokenizer::merges::Merges;
use crate::tokenizer::vocab::{Kind, Vocab};

/// How the bytes of a token come from its spelling.
pub(super) type Spelling = fn(&str) -> Result<Cow<'_, [u8]>, String>;

/// Reads `{"token": id, ..}` and puts the added tokens, ascending by id, to their places.
pub(crate) fn read_vocab(
    json: &str,
    added: &[AddedToken<'_>],
    byte_names: bool,
    spelling: Spelling,
) -> Result<Vocab, String> {
    let mut table = Table::default();
    let mut reader = serde_json::Deserializer::from_str(json);
    reader.deserialize_map(&mut table).map_err(|error| format!("`model.vocab`: {error}"))?;
    table.entries.sort_unstable();
    let mut vocab = Vocab::with_capacity(table.entries.len() + added.len());
    let mut entries = table.entries.iter().peekable();
    let mut added = added.iter().peekable();
    loop {
        let id = vocab.len() as u32;
        let entry = entries.next_if(|entry| entry.0 == id);
        match (added.next_if(|token| token.id == id), entry) {
            (Some(token), _) if token.special => {
                vocab.push(token.content.as_bytes(), Kind::Control)?
            }
            // Added tokens are not spelled: they are searched for as they stand.
            (Some(token), _) => vocab.push(token.content.as_bytes(), Kind::UserDefined)?,
            (None, Some(&(_, start, end))) => {
                let token = &table.text[start as usize..end as usize];
                if byte_names && byte_of_name(token.as_bytes()).is_some() {
                    vocab.push(token.as_bytes(), Kind::Byte)?
                } else {
                    vocab.push(&spelling(token)?, Kind::Normal)?
                }
            }
            (None, None) => break,
        };
    }
    let left = entries.next().map(|entry| entry.0).or(added.next().map(|token| token.id));
    match left {
        Some(id) => Err(format!("expected ids without a hole or a double, got id {id}")),
        None => Ok(vocab),
    }
}

/// Tokens in the order of the file: id, and where its text begins and ends.
#[derive(Default)]
struct Table {
    text: String,
    entries: Vec<(u32, u32, u32)>,
}

impl<'de> Visitor<'de> for &mut Table {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of ids by token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((token, id)) = map.next_entry::<Cow<'de, str>, u32>()? {
            let start = self.text.len() as u32;
            self.text.push_str(&token);
            let end = u32::try_from(self.text.len());
            let end = end.map_err(|_| A::Error::custom("expected less than 4 GiB of tokens"))?;
            self.entries.push((id, start, end));
        }
        Ok(())
    }
}

/// Reads `["a b", ..]` or `[["a", "b"], ..]`.
pub(super) fn read_merges(json: &str, vocab: &Vocab, spelling: Spelling) -> Result<Merges, String> {
    let mut pairs = Pairs { vocab, spelling, merges: Merges::default() };
    let mut reader = serde_json::Deserializer::from_str(json);
    reader.deserialize_seq(&mut pairs).map_err(|error| format!("`model.merges`: {error}"))?;
    Ok(pairs.merges)
}

struct Pairs<'a> {
    vocab: &'a Vocab,
    spelling: Spelling,
    merges: Merges,
}

impl Pairs<'_> {
    fn add(&mut self, left: &str, right: &str) -> Result<(), String> {
        let (left, right) = ((self.spelling)(left)?, (self.spelling)(right)?);
        self.merges.push(self.vocab, &left, &right)
    }
}

impl<'de> Visitor<'de> for &mut Pairs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of pairs of tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(OnePair(self))?.is_some() {}
        Ok(())
    }
}

struct OnePair<'a, 'b>(&'a mut Pairs<'b>);

impl<'de> DeserializeSeed<'de> for OnePair<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OnePair<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pair of tokens")
    }

    fn visit_str<E: serde::de::Error>(self, pair: &str) -> Result<(), E> {
        let (left, right) = pair_of(pair).map_err(E::custom)?;
        self.0.add(left, right).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let left: Option<Cow<'de, str>> = seq.next_element()?;
        let right: Option<Cow<'de, str>> = seq.next_element()?;
        match (left, right, seq.next_element::<serde::de::IgnoredAny>()?) {
            (Some(left), Some(right), None) => self.0.add(&left, &right).map_err(A::Error::custom),
            _ => Err(A::Error::custom("expected two tokens")),
        }
    }
}
