//! The table of tokens: text by id, and id by text.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::alphabet::byte_of_name;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Stands for its text, and is reached by joining smaller tokens.
    Normal,
    /// Stands for its text, and is taken from the text before anything is joined.
    UserDefined,
    /// Stands for one byte; its name says which.
    Byte,
    /// Stands for no text: a border, a role, a place left free.
    Control,
}

/// All tokens of a tokenizer. Text is held in one piece: a vocabulary must not cost much more than
/// the file it came from.
#[derive(Clone, Default)]
pub(crate) struct Vocab {
    text: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Ids of the tokens that stand for their text.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Vocab {
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        Self {
            ends: Vec::with_capacity(tokens),
            kinds: Vec::with_capacity(tokens),
            index: HashTable::with_capacity(tokens),
            ..Self::default()
        }
    }

    /// Adds the token of the next id. Of a normal and a user-defined token with one text, the normal
    /// one is found: joining leads to it.
    ///
    /// Fails for two tokens of one kind and text, an empty token with text to stand for, a byte token
    /// of another name.
    pub(crate) fn push(&mut self, text: &[u8], kind: Kind) -> Result<u32, String> {
        let id = self.len() as u32;
        let shown = || String::from_utf8_lossy(text).into_owned();
        if kind == Kind::Byte && byte_of_name(text).is_none() {
            return Err(format!("token {id}: expected a name like `<0x0A>`, got `{}`", shown()));
        }
        self.text.extend_from_slice(text);
        self.ends
            .push(u32::try_from(self.text.len()).map_err(|_| "expected less than 4 GiB of text")?);
        self.kinds.push(kind);
        if matches!(kind, Kind::Byte | Kind::Control) {
            return Ok(id);
        }
        if text.is_empty() {
            return Err(format!("token {id}: expected a text, got none"));
        }
        match self.find(text) {
            Some(other) if self.kind(other) == kind => {
                return Err(format!("tokens {other} and {id} are both `{}`", shown()));
            }
            Some(other) if kind == Kind::Normal => self.forget(other),
            Some(_) => return Ok(id),
            None => {}
        }
        let (hasher, all, ends) = (&self.hasher, &self.text, &self.ends);
        let hash = |&id: &u32| hasher.hash_one(slice(all, ends, id));
        self.index.insert_unique(hasher.hash_one(text), id, hash);
        Ok(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The token of this text.
    pub(crate) fn find(&self, text: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.index.find(hash, |&id| slice(&self.text, &self.ends, id) == text).copied()
    }

    /// The token that stands for no text and has this name.
    pub(crate) fn control(&self, name: &str) -> Option<u32> {
        let ids = 0..self.len() as u32;
        let mut ids = ids.filter(|&id| self.kind(id) == Kind::Control);
        ids.find(|&id| self.name(id) == name.as_bytes())
    }

    /// The token of this name, of whatever kind.
    pub(crate) fn named(&self, name: &str) -> Option<u32> {
        self.control(name).or_else(|| self.find(name.as_bytes()))
    }

    pub(crate) fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    /// Text or name of a token.
    pub(crate) fn name(&self, id: u32) -> &[u8] {
        slice(&self.text, &self.ends, id)
    }

    /// The bytes a token stands for; none for unknown ids.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        match self.kinds.get(id as usize) {
            Some(Kind::Normal | Kind::UserDefined) => self.name(id),
            Some(Kind::Byte) => {
                let byte = byte_of_name(self.name(id)).expect("`push` has seen the name");
                std::slice::from_ref(&BYTES[usize::from(byte)])
            }
            Some(Kind::Control) | None => &[],
        }
    }

    /// Ids with their kinds, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Kind)> {
        self.kinds.iter().enumerate().map(|(id, &kind)| (id as u32, kind))
    }

    /// The token of every single byte, where there is one.
    pub(crate) fn byte_tokens(&self) -> [Option<u32>; 256] {
        let mut tokens = [None; 256];
        for (id, _) in self.iter().filter(|(_, kind)| *kind == Kind::Byte) {
            tokens[usize::from(self.bytes(id)[0])].get_or_insert(id);
        }
        tokens
    }

    fn forget(&mut self, id: u32) {
        let hash = self.hasher.hash_one(self.name(id));
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
    }
}

fn slice<'a>(text: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] as usize };
    &text[start..ends[id] as usize]
}

/// Every byte, so that a token can stand for a slice of one.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < 256 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_what_they_stand_for() {
        let mut vocab = Vocab::default();
        for (text, kind) in [
            ("<s>", Kind::Control),
            ("<0x41>", Kind::Byte),
            ("ab", Kind::UserDefined),
            ("ab", Kind::Normal),
            ("<0x41>", Kind::Normal),
        ] {
            vocab.push(text.as_bytes(), kind).unwrap();
        }
        assert_eq!(vocab.find(b"ab"), Some(3));
        assert_eq!((vocab.find(b"<s>"), vocab.control("<s>")), (None, Some(0)));
        assert_eq!(vocab.bytes(1), b"A");
        assert_eq!(vocab.byte_tokens()[0x41], Some(1));
        assert_eq!(vocab.find(b"<0x41>"), Some(4));
        assert_eq!(
            (vocab.bytes(0), vocab.bytes(2), vocab.bytes(9)),
            (&b""[..], &b"ab"[..], &b""[..])
        );
        for (text, kind) in [("ab", Kind::Normal), ("", Kind::Normal), ("x", Kind::Byte)] {
            assert!(vocab.clone().push(text.as_bytes(), kind).is_err(), "{text}");
        }
    }
}
