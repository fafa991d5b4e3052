//! Keys and values of one sequence, as every part of the link passes them on.
//!
//! Order in memory: layer, token, head, element. A row (one layer, one token) is what a fuser reads,
//! and the whole is the order of a payload on the wire.

use bytemuck::allocation::try_zeroed_vec;
use smidgen_codec::{Entry, Ledger, Refused, Tag};

use crate::Error;

/// The sizes of a cache that do not depend on the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct KvShape {
    /// L, layers.
    pub layers: usize,
    /// K, heads of keys and values.
    pub kv_heads: usize,
    /// E of a key.
    pub key_dim: usize,
    /// E of a value.
    pub value_dim: usize,
}

impl KvShape {
    /// Elements of one key row, all heads of one layer and token.
    pub fn key_row(&self) -> usize {
        self.kv_heads * self.key_dim
    }

    /// Elements of one value row.
    pub fn value_row(&self) -> usize {
        self.kv_heads * self.value_dim
    }
}

/// Keys and values that somebody else owns.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    /// Sizes.
    pub shape: KvShape,
    /// T.
    pub tokens: usize,
    /// `[L T K E]`.
    pub keys: &'a [f32],
    /// `[L T K E]`.
    pub values: &'a [f32],
}

impl<'a> KvView<'a> {
    /// A view of arrays in the order of this module.
    ///
    /// # Errors
    /// [`Error::Length`] when they are not as long as the shape says.
    pub fn new(
        shape: KvShape,
        tokens: usize,
        keys: &'a [f32],
        values: &'a [f32],
    ) -> Result<KvView<'a>, Error> {
        let rows = shape.layers * tokens;
        for (what, expected, got) in [
            ("keys", rows * shape.key_row(), keys.len()),
            ("values", rows * shape.value_row(), values.len()),
        ] {
            if expected != got {
                return Err(Error::Length { what, expected, got });
            }
        }
        Ok(KvView { shape, tokens, keys, values })
    }

    /// The key of a layer and token, `[K E]`.
    pub fn key(&self, layer: usize, token: usize) -> &'a [f32] {
        let len = self.shape.key_row();
        &self.keys[(layer * self.tokens + token) * len..][..len]
    }

    /// The value of a layer and token, `[K E]`.
    pub fn value(&self, layer: usize, token: usize) -> &'a [f32] {
        let len = self.shape.value_row();
        &self.values[(layer * self.tokens + token) * len..][..len]
    }
}

/// Keys and values of a sequence, on the ledger under `kv`.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    tokens: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    _booked: Entry,
}

impl KvCache {
    /// Room for `tokens`, all zero.
    ///
    /// # Errors
    /// [`Error::Refused`] when the ledger's limit is reached, or that of the machine.
    pub fn zeroed(ledger: &Ledger, shape: KvShape, tokens: usize) -> Result<KvCache, Error> {
        let len = |row: usize| shape.layers.saturating_mul(tokens).saturating_mul(row);
        let (keys, values) = (len(shape.key_row()), len(shape.value_row()));
        let bytes = keys.saturating_add(values).saturating_mul(4);
        let (live, limit) = (ledger.total_live_bytes(), ledger.limit().unwrap_or(usize::MAX));
        let booked = ledger.try_book(Tag::Kv, bytes)?;
        // What a peer claims may be more than there is.
        let zeroed = |len| try_zeroed_vec(len).ok();
        let Some((keys, values)) = zeroed(keys).zip(zeroed(values)) else {
            return Err(Refused { tag: Tag::Kv, bytes, live, limit }.into());
        };
        Ok(KvCache { shape, tokens, keys, values, _booked: booked })
    }

    /// Sizes.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// All of it, to be read.
    pub fn view(&self) -> KvView<'_> {
        let (shape, tokens) = (self.shape, self.tokens);
        KvView { shape, tokens, keys: &self.keys, values: &self.values }
    }

    /// The key of a layer and token, `[K E]`.
    pub fn key_mut(&mut self, layer: usize, token: usize) -> &mut [f32] {
        let len = self.shape.key_row();
        &mut self.keys[(layer * self.tokens + token) * len..][..len]
    }

    /// The value of a layer and token, `[K E]`.
    pub fn value_mut(&mut self, layer: usize, token: usize) -> &mut [f32] {
        let len = self.shape.value_row();
        &mut self.values[(layer * self.tokens + token) * len..][..len]
    }

    /// All keys and all values, to be written.
    pub fn parts_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.keys, &mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_where_the_order_says_and_are_on_the_ledger() {
        let shape = KvShape { layers: 2, kv_heads: 1, key_dim: 2, value_dim: 3 };
        let ledger = Ledger::new();
        let mut cache = KvCache::zeroed(&ledger, shape, 4).unwrap();
        assert_eq!(ledger.live_bytes(Tag::Kv), 4 * (2 * 4 * 2 + 2 * 4 * 3));
        cache.key_mut(1, 2).fill(1.0);
        cache.value_mut(1, 2).fill(2.0);
        assert_eq!(cache.view().keys.iter().position(|x| *x == 1.0), Some((4 + 2) * 2));
        assert_eq!(cache.view().value(1, 2), [2.0; 3]);
        assert_eq!(cache.view().value(1, 1), [0.0; 3]);
        // No machine has an exabyte, and no number is past the largest.
        let whole = KvShape { layers: 1 << 25, kv_heads: 1 << 20, key_dim: 32, value_dim: 32 };
        for tokens in [1 << 7, usize::MAX] {
            let refused = KvCache::zeroed(&ledger, whole, tokens).unwrap_err();
            assert!(matches!(refused, Error::Refused(_)), "{refused}");
        }
        drop(cache);
        assert_eq!(ledger.live_bytes(Tag::Kv), 0);
        let short = KvView::new(shape, 4, &[0.0; 3], &[]).unwrap_err();
        assert_eq!(short.to_string(), "keys: expected 16 values, got 3");
    }
}
