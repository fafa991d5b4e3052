//! Attention against its reference: around tile edges, with groups, documents and a prefix.
//!
//! A tile is 48 queries by 256 keys.

use std::sync::Arc;

use smidgen_codec::Rng;
use smidgen_tensor::{AttentionShape, Prefix};

use crate::check::{Case, Given, check};
use crate::reference;

fn shape(tokens: usize, heads: [usize; 2], head_dim: usize, prefix: usize) -> AttentionShape {
    AttentionShape { batch: 1, tokens, heads: heads[0], kv_heads: heads[1], head_dim, prefix }
}

/// Documents that begin at the given places of every sequence.
pub(crate) fn documents(s: AttentionShape, begins: &[u32]) -> Arc<[u32]> {
    let start = |i: usize| {
        let here = (i % s.tokens) as u32;
        begins.iter().copied().filter(|b| *b <= here).max().unwrap_or(0)
    };
    (0..s.batch * s.tokens).map(start).collect()
}

fn check_attention(s: AttentionShape, begins: Option<&[u32]>) {
    check_prefix(s, begins, None);
}

fn check_prefix(s: AttentionShape, begins: Option<&[u32]>, lens: Option<&[u32]>) {
    let starts = begins.map(|begins| documents(s, begins));
    let same = starts.clone();
    let lens: Option<Arc<[u32]>> = lens.map(Arc::from);
    let seen = lens.clone();
    let mut inputs = vec![Given::normal(1, [s.batch * s.tokens, s.qkv_cols()], 1.0)];
    if s.prefix > 0 {
        let shape = [s.batch * s.prefix, s.kv_heads * s.head_dim];
        inputs.extend([Given::normal(2, shape, 1.0), Given::normal(3, shape, 1.0)]);
    }
    check(&Case {
        name: format!("{s:?}, documents {begins:?}, prefixes {lens:?}"),
        params: vec![],
        inputs,
        build: Box::new(move |tape, _, x| {
            let prefix = || Prefix { keys: x[1], values: x[2], lens: lens.clone() };
            let prefix = (s.prefix > 0).then(prefix);
            tape.attention(x[0], s, starts.as_ref(), prefix.as_ref())
        }),
        reference: Box::new(move |_, x| {
            let prefix = (s.prefix > 0).then(|| (&x[1], &x[2]));
            reference::attention(&x[0], s, same.as_deref(), prefix, seen.as_deref())
        }),
    });
}

#[test]
fn lengths_around_the_tiles_of_queries() {
    for tokens in [1, 2, 47, 48, 49, 97] {
        check_attention(shape(tokens, [2, 1], 6, 0), None);
    }
}

#[test]
fn lengths_around_the_tiles_of_keys() {
    for tokens in [255, 256, 257] {
        check_attention(shape(tokens, [1, 1], 2, 0), None);
    }
}

#[test]
fn head_sizes_of_any_even_number() {
    for head_dim in [2, 6, 10, 34, 64] {
        check_attention(shape(21, [1, 1], head_dim, 0), None);
    }
}

#[test]
fn grouped_heads_share_keys_and_values() {
    for heads in [[1, 1], [2, 2], [4, 2], [3, 1], [6, 2]] {
        check_attention(AttentionShape { batch: 2, ..shape(13, heads, 4, 0) }, None);
    }
}

#[test]
fn a_prefix_gets_gradients() {
    for prefix in [1, 5, 256, 257] {
        check_attention(AttentionShape { batch: 2, ..shape(9, [2, 1], 4, prefix) }, None);
    }
}

/// Rows that only fill the batch: their gradient is zero, and a sequence may have no prefix at all.
#[test]
fn prefixes_of_a_batch_may_differ_in_length() {
    for (prefix, lens) in [(5, [5, 2, 0]), (1, [0, 1, 1]), (257, [1, 256, 257]), (259, [255, 0, 3])]
    {
        let s = AttentionShape { batch: 3, ..shape(4, [2, 1], 4, prefix) };
        check_prefix(s, None, Some(&lens));
    }
}

#[test]
fn documents_begin_in_odd_places() {
    let s = AttentionShape { batch: 2, ..shape(61, [2, 1], 4, 0) };
    check_attention(s, Some(&[0, 1, 2, 7, 47, 50]));
    check_attention(s, Some(&[0, 48]));
    check_attention(shape(300, [1, 1], 2, 0), Some(&[0, 33, 255, 257, 299]));
}

#[test]
fn every_document_sees_the_prefix() {
    check_attention(shape(55, [2, 1], 6, 3), Some(&[0, 11, 49]));
    check_attention(shape(270, [1, 1], 2, 259), Some(&[0, 100, 256]));
}

/// Sizes drawn at random, so that no combination is forgotten for long.
#[test]
fn sizes_drawn_at_random() {
    let rng = Rng::named(9, "sizes");
    for i in 0..12 {
        let draw = |what, bound| rng.below(i, what, 0, bound) as usize;
        let kv_heads = 1 + draw(0, 2);
        let s = AttentionShape {
            batch: 1 + draw(1, 2),
            tokens: 1 + draw(2, 60),
            heads: kv_heads * (1 + draw(3, 3)),
            kv_heads,
            head_dim: 2 * (1 + draw(4, 9)),
            prefix: draw(5, 2) * draw(6, 9),
        };
        let begins = [0, draw(7, 60) as u32, draw(8, 60) as u32];
        check_attention(s, (draw(9, 2) == 1).then_some(&begins));
    }
}
