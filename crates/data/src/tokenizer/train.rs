//! Trains a byte-level BPE tokenizer with GPT-2's split pattern.
//!
//! Merges are chosen by count, ties by the lower pair of ids, and the counts are sums: the result
//! depends on the texts alone, not on their order of arrival or on the number of threads.

use std::path::Path;

use rayon::ThreadPoolBuilder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use super::folder::Hints;
use super::pieces::Pieces;
use super::{END_OF_TEXT, Tokenizer, json, unusable};
use crate::Error;

/// The 256 bytes and the special token.
pub const LEAST_VOCAB: usize = 257;

/// More text than this does not change a vocabulary much, but takes minutes.
const SAMPLE_BYTES: usize = 32 << 20;

impl Tokenizer {
    /// Trains on at most 32 MiB, spread evenly over the texts. The vocabulary may come out smaller
    /// than asked where the texts have too few different words.
    ///
    /// # Errors
    /// `Range` for a vocabulary under [`LEAST_VOCAB`], `Worker` if threads cannot be started,
    /// `Tokenize` if the library fails.
    pub fn train(texts: &[&str], vocab_size: usize, threads: usize) -> Result<Self, Error> {
        if vocab_size < LEAST_VOCAB {
            let expected = format!("at least {LEAST_VOCAB}");
            return Err(Error::Range { key: "vocab_size", expected, got: vocab_size.to_string() });
        }
        let failed = |error: tokenizers::Error| Error::Tokenize {
            what: "be trained",
            message: error.to_string(),
        };
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(vocab_size)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build();
        let mut tokenizer = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None::<tokenizers::NormalizerWrapper>)
            .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
            .with_post_processor(Some(ByteLevel::new(false, true, true)))
            .with_decoder(Some(ByteLevel::new(false, true, true)))
            .build()
            .map_err(failed)?;
        let sample = sample(texts, SAMPLE_BYTES);
        pool(threads)?
            .install(|| tokenizer.train(&mut trainer, sample.into_iter()).map(drop))
            .map_err(failed)?;
        let json = tokenizer.to_string(false).map_err(failed)?;
        json::read(json.as_bytes(), &Hints::begins_with(END_OF_TEXT))
            .map_err(unusable(Path::new("tokenizer.json")))
    }
}

/// Threads for a piece of work that may use several; they end with it.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool, Error> {
    ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|index| format!("data-{index}"))
        .build()
        .map_err(|error| Error::Worker { what: error.to_string() })
}

/// Pieces of all texts, taken as often as keeps the share of `limit` in the bytes seen so far.
fn sample<'a>(texts: &[&'a str], limit: usize) -> Vec<&'a str> {
    let total: usize = texts.iter().map(|text| text.len()).sum();
    let share = (limit as f64 / total.max(1) as f64).min(1.0);
    let (mut seen, mut taken) = (0, 0);
    let mut keep = |piece: &&str| {
        seen += piece.len();
        let fits = (taken + piece.len()) as f64 <= seen as f64 * share;
        taken += if fits { piece.len() } else { 0 };
        fits
    };
    texts.iter().flat_map(|text| Pieces::of(text)).filter(|piece| keep(piece)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smidgen_store::sha256_bytes;
    use std::sync::LazyLock;

    const TEXT: &str = "The quick brown fox jumps over the lazy dog; the dog doesn't mind.\n\
        fn main() { let löwe = \"größe\"; }\n";

    static TOKENIZER: LazyLock<Tokenizer> =
        LazyLock::new(|| Tokenizer::train(&[TEXT], 300, 1).expect("the text is legal"));

    #[test]
    fn knows_its_sizes() {
        assert!(TOKENIZER.vocab_size() <= 300 && TOKENIZER.vocab_size() > LEAST_VOCAB);
        assert!(TOKENIZER.token_bytes(TOKENIZER.prefix()).is_empty());
        assert!(TOKENIZER.token_bytes(u32::MAX).is_empty());
        assert!(matches!(
            Tokenizer::train(&[TEXT], 256, 1),
            Err(Error::Range { key: "vocab_size", .. })
        ));
    }

    #[test]
    fn special_text_is_text() {
        let ids = TOKENIZER.encode("a<|endoftext|>b").unwrap();
        assert!(!ids.contains(&TOKENIZER.prefix()));
        assert_eq!(TOKENIZER.decode(&ids), "a<|endoftext|>b");
    }

    #[test]
    fn too_little_text_gives_a_smaller_vocabulary() {
        let small = Tokenizer::train(&["ab ab"], 5000, 1).unwrap();
        assert!(small.vocab_size() < 270, "{}", small.vocab_size());
    }

    #[test]
    fn samples_are_spread_and_bounded() {
        let texts: Vec<String> = (0..64).map(|i| format!("{i} word ").repeat(20_000)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let total: usize = texts.iter().map(|text| text.len()).sum();
        let taken = sample(&texts, total / 4);
        let bytes: usize = taken.iter().map(|piece| piece.len()).sum();
        assert!(bytes > total / 5 && bytes <= total / 4, "{bytes} of {total}");
        assert!(taken.iter().any(|piece| piece.contains("63 word") || piece.contains("62 word")));
        assert_eq!(sample(&texts, total).concat(), texts.concat());
    }

    #[test]
    fn save_and_load_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        TOKENIZER.save(&smidgen_store::Disk, &path).unwrap();
        let again =
            Tokenizer::load_exactly(&path, &sha256_bytes(TOKENIZER.to_json().as_bytes())).unwrap();
        assert_eq!(again.to_json(), TOKENIZER.to_json());
        assert_eq!(again.encode(TEXT).unwrap(), TOKENIZER.encode(TEXT).unwrap());
    }

    proptest! {
        #[test]
        fn round_trip(text in "\\PC{0,60}|[ \\n\\ta-z\u{0}-\u{1f}]{0,60}") {
            let ids = TOKENIZER.encode(&text).unwrap();
            prop_assert_eq!(TOKENIZER.decode(&ids), text.clone());
            let bytes: usize = ids.iter().map(|&id| TOKENIZER.token_bytes(id).len()).sum();
            prop_assert_eq!(bytes, text.len());
        }

        #[test]
        fn damaged_files_never_panic(at in 0_usize..1_000_000, bit in 0_u8..8, cut in any::<bool>()) {
            let mut json = TOKENIZER.to_json().into_bytes();
            let at = at % json.len();
            if cut { json.truncate(at) } else { json[at] ^= 1 << bit }
            if let Ok(tokenizer) = Tokenizer::from_json(&json, Path::new("x")) {
                let _ = tokenizer.encode(TEXT);
            }
        }
    }
}
