//! How few bytes a list of tokens takes: the shortest of five encodings, as the container's encoder
//! chooses them.
//!
//! u16 or u32 each; a bitmap of T bits; LEB128 gaps (the first index, then each gap less one);
//! ranges (LEB128 of their number, then start gap and length less one of each).

/// Bytes of the shortest encoding of strictly ascending `tokens` below `total_tokens`.
pub(super) fn index_bytes(tokens: &[u32], total_tokens: usize) -> u64 {
    let span = tokens.last().map_or(0, |last| *last as usize + 1);
    let fixed = fixed_bytes(span) * tokens.len() as u64;
    fixed.min(bitmap_bytes(total_tokens)).min(gap_bytes(tokens)).min(range_bytes(tokens))
}

/// The most that a token takes in a list, whatever the tokens are.
pub(super) fn token_bytes(total_tokens: usize) -> u64 {
    let last = total_tokens.saturating_sub(1) as u64;
    leb128_bytes(last).min(fixed_bytes(total_tokens))
}

/// Bytes of a list as bits.
pub(super) fn bitmap_bytes(total_tokens: usize) -> u64 {
    total_tokens.div_ceil(8) as u64
}

/// u16 where every index below `span` fits, else u32.
fn fixed_bytes(span: usize) -> u64 {
    if span <= 1 << 16 { 2 } else { 4 }
}

fn gap_bytes(tokens: &[u32]) -> u64 {
    let first = tokens.first().map_or(0, |token| leb128_bytes(u64::from(*token)));
    let gaps = tokens.windows(2).map(|pair| leb128_bytes(u64::from(pair[1] - pair[0] - 1)));
    first + gaps.sum::<u64>()
}

fn range_bytes(tokens: &[u32]) -> u64 {
    let (mut bytes, mut ranges, mut end) = (0, 0, 0);
    for run in tokens.chunk_by(|a, b| a + 1 == *b) {
        let (start, length) = (u64::from(run[0]), run.len() as u64);
        bytes += leb128_bytes(start - end) + leb128_bytes(length - 1);
        ranges += 1;
        end = start + length;
    }
    leb128_bytes(ranges) + bytes
}

fn leb128_bytes(value: u64) -> u64 {
    u64::from((64 - value.leading_zeros()).div_ceil(7).max(1))
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
        assert_eq!([0, 127, 128, 16_383, 16_384].map(leb128_bytes), [1, 1, 2, 2, 3]);
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
