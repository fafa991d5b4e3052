//! Near-duplicates across the split: training text that is held out in all but a few words.
//!
//! A training document whose runs of five words have a Jaccard similarity of [`THRESHOLD`] or more
//! with those of a held-out one leaves the training side; the held-out side stays as the hash drew
//! it. Candidates come from MinHash bands and are then compared exactly, so nothing less similar
//! ever leaves; of the pairs at the threshold the bands miss 6 in 100 000, fewer above it.
//!
//! The work is linear in the text: a bucket holds at most [`BUCKET`] held-out documents and at most
//! [`COMPARED`] of them, the most similar by estimate, are compared exactly. A pair may be missed
//! for that where the held-out side itself holds very many near-copies of one text.
//!
//! Where less than [`LEAST_BYTES`](crate::LEAST_BYTES) would be left to train on, the least similar
//! documents stay.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::minhash::{Hasher, Signature, jaccard, shingles};
use crate::split::{Leaving, leave};
use crate::tokenizer::pool;
use crate::{Corpus, Error, LEAST_BYTES, Piece, Reason, Split};

/// The similarity from which on two documents count as one.
const THRESHOLD: f64 = 0.8;

/// Below this estimate a pair at the threshold is five deviations away.
const WORTH_A_LOOK: f64 = 0.65;

/// Held-out documents of a bucket; the first ones in the order of the corpus.
const BUCKET: usize = 64;

/// Held-out documents that one training document is compared with word by word.
const COMPARED: usize = 16;

/// Takes near-duplicates of held-out documents out of the training side and lists them under
/// [`Reason::NearDuplicate`]. The result does not depend on `threads`. A corpus of one document is
/// left as it is.
///
/// # Errors
/// `Worker` where threads cannot be started.
pub fn drop_near_duplicates(
    corpus: &mut Corpus,
    split: &mut Split,
    threads: usize,
) -> Result<(), Error> {
    if corpus.documents.len() < 2 {
        return Ok(());
    }
    let found = pool(threads)?.install(|| {
        let held_out = HeldOut::of(corpus, &split.val);
        let nearest = |piece| held_out.nearest(corpus, piece);
        split.train.par_iter().map(nearest).collect::<Vec<_>>()
    });
    let kept = kept_in_spite(corpus, split, &found);
    let mut leaving = Leaving::new();
    for ((piece, near), kept) in split.train.iter().zip(found).zip(kept) {
        if let Some(Near { of, .. }) = near.filter(|_| !kept) {
            let of = corpus.documents[of].name.clone();
            leaving.insert(piece.document, Reason::NearDuplicate { of });
        }
    }
    leave(corpus, split, leaving);
    Ok(())
}

/// A held-out document, and how similar it is.
#[derive(Clone, Copy, Debug)]
struct Near {
    of: usize,
    similarity: f64,
}

/// The held-out side, made to be searched.
struct HeldOut {
    hasher: Hasher,
    /// Documents with words, in the order of the corpus.
    documents: Vec<(usize, Signature)>,
    /// Band and its number -> places in `documents`.
    buckets: HashMap<(usize, u64), Vec<u32>>,
}

impl HeldOut {
    fn of(corpus: &Corpus, side: &[Piece]) -> Self {
        let hasher = Hasher::new();
        let sign = |piece: &Piece| {
            let signature = hasher.sign(&shingles(corpus.text(piece)))?;
            Some((piece.document, signature))
        };
        let documents: Vec<_> = side.par_iter().filter_map(sign).collect();
        let mut buckets = HashMap::<_, Vec<u32>>::new();
        for (place, (_, signature)) in documents.iter().enumerate() {
            for key in signature.bands().enumerate() {
                let bucket = buckets.entry(key).or_default();
                if bucket.len() < BUCKET {
                    bucket.push(place as u32);
                }
            }
        }
        Self { hasher, documents, buckets }
    }

    /// The most similar held-out document among those at the threshold.
    fn nearest(&self, corpus: &Corpus, piece: &Piece) -> Option<Near> {
        let own = shingles(corpus.text(piece));
        let signature = self.hasher.sign(&own)?;
        let candidates = self.candidates(&signature);
        let near = candidates.into_iter().map(|of| {
            let similarity = jaccard(&own, &shingles(&corpus.documents[of].text));
            Near { of, similarity }
        });
        // Of equal ones the first.
        near.filter(|near| near.similarity >= THRESHOLD)
            .reduce(|best, near| if near.similarity > best.similarity { near } else { best })
    }

    /// The held-out documents worth an exact look, the most similar first.
    fn candidates(&self, signature: &Signature) -> Vec<usize> {
        let keys = signature.bands().enumerate();
        let mut places: Vec<u32> =
            keys.filter_map(|key| self.buckets.get(&key)).flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        let estimate = |place: u32| {
            let (document, other) = &self.documents[place as usize];
            (signature.similarity(other), *document)
        };
        let mut estimates: Vec<_> =
            places.into_iter().map(estimate).filter(|it| it.0 >= WORTH_A_LOOK).collect();
        estimates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        estimates.truncate(COMPARED);
        estimates.into_iter().map(|(_, document)| document).collect()
    }
}

/// Which of the found documents train all the same, so that something is left.
fn kept_in_spite(corpus: &Corpus, split: &Split, found: &[Option<Near>]) -> Vec<bool> {
    let bytes = |at: usize| corpus.text(&split.train[at]).len() as u64;
    let mut kept = vec![false; found.len()];
    let mut left: u64 = (0..found.len()).filter(|&at| found[at].is_none()).map(bytes).sum();
    let mut near: Vec<(f64, usize)> = found
        .iter()
        .enumerate()
        .filter_map(|(at, near)| Some((near.as_ref()?.similarity, at)))
        .collect();
    near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    for (_, at) in near {
        if left >= LEAST_BYTES {
            break;
        }
        (kept[at], left) = (true, left + bytes(at));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;
    use proptest::{prelude::ProptestConfig, prop_assert_eq, proptest};
    use smidgen_codec::Rng;

    /// `count` words of a vocabulary of 2000; `changed` of them are others than the seed's.
    fn text(seed: u64, count: u64, changed: &[u64]) -> String {
        let rng = Rng::named(seed, "words");
        let word = |at| {
            let drawn = rng.at(0, u64::from(changed.contains(&at)), at) % 2000;
            format!("word{drawn}{}", if at % 9 == 8 { ".\n" } else { " " })
        };
        (0..count).map(word).collect()
    }

    fn corpus(texts: Vec<String>) -> Corpus {
        let bytes = texts.iter().map(|text| text.len() as u64).sum();
        let document =
            |(at, text)| Document { name: format!("{at}"), group: format!("{at}"), text };
        let documents = texts.into_iter().enumerate().map(document).collect();
        Corpus { documents, skipped: Vec::new(), bytes }
    }

    /// The first `train` documents train, the others are held out.
    fn split_at(corpus: &Corpus, train: usize) -> Split {
        let piece =
            |document: usize| Piece { document, range: 0..corpus.documents[document].text.len() };
        let all = 0..corpus.documents.len();
        Split {
            train: all.clone().take(train).map(piece).collect(),
            val: all.skip(train).map(piece).collect(),
        }
    }

    /// Who left, and for whom.
    fn dropped(corpus: &Corpus) -> Vec<(String, String)> {
        let pair = |skipped: &crate::Skipped| match &skipped.reason {
            Reason::NearDuplicate { of } => (skipped.name.clone(), of.clone()),
            other => panic!("{other}"),
        };
        corpus.skipped.iter().map(pair).collect()
    }

    #[test]
    fn a_copy_with_a_few_other_words_leaves_the_training_side() {
        let texts =
            vec![text(1, 400, &[7, 300]), text(2, 400, &[]), text(3, 400, &[]), text(1, 400, &[])];
        let mut corpus = corpus(texts.clone());
        let mut split = split_at(&corpus, 3);
        drop_near_duplicates(&mut corpus, &mut split, 2).unwrap();
        assert_eq!(dropped(&corpus), [("0".to_owned(), "3".to_owned())]);
        assert_eq!(corpus.documents.len(), 3);
        let left: Vec<&str> = split.train.iter().map(|piece| corpus.text(piece)).collect();
        assert_eq!(left, [&texts[1], &texts[2]]);
        assert_eq!(corpus.text(&split.val[0]), texts[3]);
        assert_eq!(corpus.bytes, texts[1..].iter().map(|text| text.len() as u64).sum::<u64>());
        let line = corpus.skipped[0].reason.to_string();
        assert_eq!(line, "near-duplicate of held-out 3");
    }

    #[test]
    fn something_is_always_left_and_it_is_the_least_similar() {
        let changed: Vec<Vec<u64>> = (0..4).map(|at| (0..=at).map(|i| i * 90).collect()).collect();
        let mut texts: Vec<String> = changed.iter().map(|changed| text(1, 400, changed)).collect();
        texts.push(text(1, 400, &[]));
        let mut corpus = corpus(texts.clone());
        let mut split = split_at(&corpus, 4);
        drop_near_duplicates(&mut corpus, &mut split, 1).unwrap();
        assert_eq!(split.train.len(), 1);
        assert_eq!(corpus.text(&split.train[0]), texts[3]);
    }

    #[test]
    fn one_cut_text_and_texts_without_words_stay() {
        let mut one = corpus(vec!["again and again and again ".repeat(200)]);
        let half = one.documents[0].text.len() / 2;
        let piece = |range| vec![Piece { document: 0, range }];
        let mut split = Split { train: piece(0..half), val: piece(half..2 * half) };
        let before = (one.clone(), split.clone());
        drop_near_duplicates(&mut one, &mut split, 1).unwrap();
        assert_eq!((one, split), before);
        let mut signs = corpus(vec!["+-".repeat(3000), "-+".repeat(3000)]);
        let mut split = split_at(&signs, 1);
        drop_near_duplicates(&mut signs, &mut split, 1).unwrap();
        assert!(signs.skipped.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn exactly_those_at_the_threshold_leave(seed in 0_u64..1000, threads in 1_usize..4) {
            let rng = Rng::named(seed, "changes");
            // Copies of three texts with none to thirty of 300 words changed, so J is 1 to 0.5.
            let copy = |at: u64| {
                let changes = rng.at(0, at, 99) % 30;
                let changed: Vec<u64> = (0..changes).map(|i| rng.at(1, at, i) % 300).collect();
                text(seed + at % 3, 300, &changed)
            };
            let mut texts: Vec<String> = (0..30).map(copy).collect();
            texts.push(text(seed + 500, 800, &[]));
            texts.extend((0..3).map(|at| text(seed + at, 300, &[])));
            let mut corpus = corpus(texts.clone());
            let mut split = split_at(&corpus, 31);
            drop_near_duplicates(&mut corpus, &mut split, threads).unwrap();
            let near = |train: &String| texts[31..].iter()
                .any(|val| jaccard(&shingles(train), &shingles(val)) >= THRESHOLD);
            let expected: Vec<&String> = texts[..31].iter().filter(|text| !near(text)).collect();
            let left: Vec<&str> = split.train.iter().map(|piece| corpus.text(piece)).collect();
            prop_assert_eq!(left, expected);
            prop_assert_eq!(split.val.len(), 3);
        }
    }
}
