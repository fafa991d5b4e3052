//! Words and runs of words, as numbers: what near-duplicates and contamination are found by.
//!
//! A word is a run of ASCII letters (in either case the same), digits and `_`, or one letter or digit
//! outside of ASCII, so that texts without spaces have words too. All the rest only separates.

/// The words of a text in their order, each a number that is equal for equal words.
pub(crate) fn words(text: &str) -> Vec<u64> {
    let mut words = Vec::with_capacity(text.len() / 5);
    let mut open = EMPTY;
    for character in text.chars() {
        if character.is_ascii_alphanumeric() || character == '_' {
            open = step(open, u64::from(character.to_ascii_lowercase()));
            continue;
        }
        if open != EMPTY {
            words.push(mix(open));
            open = EMPTY;
        }
        if !character.is_ascii() && character.is_alphanumeric() {
            words.push(mix(step(EMPTY, u64::from(character))));
        }
    }
    if open != EMPTY {
        words.push(mix(open));
    }
    words
}

/// Every run of `length` words, as a number; a shorter text has none.
pub(crate) fn runs(words: &[u64], length: usize) -> impl Iterator<Item = u64> {
    words.windows(length).map(|run| mix(run.iter().fold(EMPTY, |hash, word| step(hash, *word))))
}

/// FNV-1a: its start and its prime.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

fn step(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Spreads what `step` leaves in the low bits (the finaliser of MurmurHash3).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_no_case_and_no_signs() {
        assert_eq!(words("Let it_be = 2;"), words("let(IT_BE)\n2"));
        assert_eq!(words("let it be").len(), 3);
        assert_ne!(words("ab c"), words("a bc"));
        assert_eq!(words("春眠不觉晓，").len(), 5);
        assert_eq!(words("naïve").len(), 3);
        assert!(words(" ,;\n").is_empty());
    }

    #[test]
    fn a_run_needs_all_its_words() {
        let words = words("one two three four");
        assert_eq!(runs(&words, 3).count(), 2);
        assert_eq!(runs(&words, 5).count(), 0);
        assert_eq!(runs(&words[1..], 3).next(), runs(&words, 3).nth(1));
        let turned = [words[1], words[0], words[2]];
        assert_ne!(runs(&words, 3).next(), runs(&turned, 3).next());
    }
}
