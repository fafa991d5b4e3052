//! Which two tokens make which, and in what order.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::vocab::Vocab;

/// The pairs of a byte-pair encoding, the first to be joined first.
#[derive(Clone, Default)]
pub(crate) struct Merges {
    /// Left, right, joined.
    pairs: Vec<[u32; 3]>,
    /// Ranks, by pair.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Merges {
    /// Adds a pair behind the others. A pair that is there already keeps its rank.
    ///
    /// Fails where one of the three texts is no token.
    pub(crate) fn push(&mut self, vocab: &Vocab, left: &[u8], right: &[u8]) -> Result<(), String> {
        let find = |text: &[u8]| {
            let shown = String::from_utf8_lossy(text);
            vocab.find(text).ok_or_else(|| format!("merges: expected a token `{shown}`, got none"))
        };
        let triple = [find(left)?, find(right)?, find(&[left, right].concat())?];
        if self.find(triple[0], triple[1]).is_some() {
            return Ok(());
        }
        let rank = self.pairs.len() as u32;
        self.pairs.push(triple);
        let (hasher, pairs) = (&self.hasher, &self.pairs);
        let hash = |&rank: &u32| hasher.hash_one(&pairs[rank as usize][..2]);
        self.index.insert_unique(hash(&rank), rank, hash);
        Ok(())
    }

    /// Rank and result of a pair.
    pub(crate) fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let pair = [left, right];
        let same = |&rank: &u32| self.pairs[rank as usize][..2] == pair;
        let rank = *self.index.find(self.hasher.hash_one(&pair[..]), same)?;
        Some((rank, self.pairs[rank as usize][2]))
    }

    /// What the pairs make, in order.
    pub(crate) fn results(&self) -> impl ExactSizeIterator<Item = u32> + DoubleEndedIterator {
        self.pairs.iter().map(|&[_, _, joined]| joined)
    }

    /// Left and right tokens, in order.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = [u32; 2]> {
        self.pairs.iter().map(|&[left, right, _]| [left, right])
    }
}
