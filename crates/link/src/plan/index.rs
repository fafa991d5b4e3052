//! How few bytes a list of tokens takes, and bounds on it that depend on their number alone.

use crate::wire::{Encoding, leb_bytes};

/// Bytes of the shortest encoding of strictly ascending `tokens` below `total_tokens`, as the container's
/// encoder chooses it.
pub(super) fn index_bytes(tokens: &[u32], total_tokens: usize) -> u64 {
    Encoding::shortest(tokens, total_tokens).1 as u64
}

/// The most that a token takes in a list, whatever the tokens are: two or four bytes, or its LEB128.
pub(super) fn token_bytes(total_tokens: usize) -> u64 {
    let last = total_tokens.saturating_sub(1);
    let fixed = if last < 1 << 16 { 2 } else { 4 };
    fixed.min(leb_bytes(last as u32) as u64)
}

/// Bytes of a list as bits.
pub(super) fn bitmap_bytes(total_tokens: usize) -> u64 {
    total_tokens.div_ceil(8) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lists_of_the_reference_vectors() {
        // {0,2} of 3: a bitmap; {36..39} of 40: one range in three bytes; {0,10,20,30}: gaps.
        assert_eq!(index_bytes(&[0, 2], 3), 1);
        assert_eq!(index_bytes(&[36, 37, 38, 39], 40), 3);
        assert_eq!(index_bytes(&[0, 10, 20, 30], 40), 4);
        assert_eq!(index_bytes(&[0, 1, 5, 6, 7, 30, 39], 40), 5);
        assert_eq!([1, 128, 129, 16_384, 16_385, 65_537].map(token_bytes), [1, 1, 2, 2, 2, 3]);
    }

    proptest! {
        #[test]
        fn no_list_takes_more_than_its_count_says(
            total in 1usize..200_000,
            raw in prop::collection::btree_set(0u32..200_000, 1..40),
        ) {
            let tokens: Vec<u32> = raw.into_iter().filter(|t| (*t as usize) < total).collect();
            let bound = (token_bytes(total) * tokens.len() as u64).min(bitmap_bytes(total));
            prop_assert!(tokens.is_empty() || index_bytes(&tokens, total) <= bound);
        }
    }
}
