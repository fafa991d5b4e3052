//! Batches of a prepared run: order, resumption, document borders, and what validation counts.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::prepared;
use smidgen_data::{Batch, Dataset, Error, Loader, LoaderConfig, ValSet};

fn config(prefetch: usize) -> LoaderConfig {
    LoaderConfig { rows: 3, context: 16, micro_batches: 2, seed: 11, prefetch }
}

fn loader(dataset: &Dataset, prefetch: usize) -> Loader {
    Loader::new(Arc::clone(&dataset.train), config(prefetch)).unwrap()
}

#[test]
fn direct_and_fed_batches_agree_for_any_prefetch() {
    let (_run, dataset) = prepared(1);
    let direct = loader(&dataset, 1);
    for prefetch in [1, 8] {
        let mut feed = loader(&dataset, prefetch).start(0).unwrap();
        for step in 0..30 {
            for micro in 0..2 {
                assert_eq!(feed.next_batch().unwrap(), direct.batch(step, micro));
            }
        }
    }
}

#[test]
fn resuming_anywhere_continues_the_stream() {
    let (_run, dataset) = prepared(1);
    let loader = loader(&dataset, 4);
    let rows_per_step = 6;
    let windows = loader.windows_per_epoch();
    let mut from_start = loader.start(0).unwrap();
    // The exact end of an epoch is a step's beginning after `rows_per_step` epochs at the latest.
    let epoch_end = (1..).find(|step| step * rows_per_step % windows == 0).unwrap();
    let at_end = loader.cursor(epoch_end);
    assert_eq!((at_end.sample, at_end.epoch > 0), (0, true));
    for step in 0..epoch_end + 3 {
        let expected = [from_start.next_batch().unwrap(), from_start.next_batch().unwrap()];
        if step % 5 != 0 && step + 1 < epoch_end {
            continue;
        }
        let cursor = serde_json::to_string(&loader.cursor(step)).unwrap();
        let back = loader.resume(&serde_json::from_str(&cursor).unwrap()).unwrap();
        let mut resumed = loader.start(back).unwrap();
        let got = [resumed.next_batch().unwrap(), resumed.next_batch().unwrap()];
        assert!(got == expected, "step {step}");
    }
}

#[test]
fn seeds_and_steps_differ() {
    let (_run, dataset) = prepared(1);
    let other = LoaderConfig { seed: 12, ..config(1) };
    let other = Loader::new(Arc::clone(&dataset.train), other).unwrap();
    let loader = loader(&dataset, 1);
    assert_ne!(loader.batch(0, 0), other.batch(0, 0));
    assert_ne!(loader.batch(0, 0), loader.batch(0, 1));
    assert_ne!(loader.batch(0, 0), loader.batch(1, 0));
}

/// The index of the opening token of the document at each position, from the tokens alone.
fn starts_by_tokens(batch: &Batch, eot: u32) -> Vec<u32> {
    let mut starts = Vec::new();
    for row in batch.tokens.chunks(batch.context) {
        let mut begin = 0;
        for (i, &id) in row.iter().enumerate() {
            begin = if id == eot { i as u32 } else { begin };
            starts.push(begin);
        }
    }
    starts
}

#[test]
fn documents_begin_at_their_opening_token() {
    let (_run, dataset) = prepared(1);
    let loader = loader(&dataset, 1);
    let eot = dataset.tokenizer.prefix();
    let mut borders = 0;
    for step in 0..20 {
        let batch = loader.batch(step, 1);
        assert_eq!(batch.starts, starts_by_tokens(&batch, eot));
        assert_eq!(batch.weights, vec![1.0; 48]);
        assert_eq!(batch.step_target_tokens, 96);
        borders += batch.starts.iter().filter(|&&start| start > 0).count();
    }
    assert!(borders > 0, "the stories are short enough to meet borders");
}

/// Multiset of (input, target) with weight 1.
fn scored(set: &ValSet) -> BTreeMap<(u32, u32), u64> {
    let mut pairs = BTreeMap::new();
    for batch in (0..set.batches()).map(|index| set.batch(index)) {
        let counted: u64 = batch.weights.iter().map(|&weight| weight as u64).sum();
        assert_eq!(counted, batch.step_target_tokens);
        for i in (0..batch.tokens.len()).filter(|&i| batch.weights[i] > 0.0) {
            *pairs.entry((batch.tokens[i], batch.targets[i])).or_default() += 1;
        }
    }
    pairs
}

#[test]
fn validation_counts_every_target_once_for_any_batch_size() {
    let (_run, dataset) = prepared(1);
    let val = &dataset.val;
    let mut tokens = vec![0; val.tokens() as usize];
    val.read(0, &mut tokens);
    let mut expected = BTreeMap::new();
    for pair in tokens.windows(2) {
        *expected.entry((pair[0], pair[1])).or_default() += 1;
    }
    for (rows, context) in [(1, 16), (4, 16), (3, 7), (2, 100_000)] {
        let set = ValSet::new(Arc::clone(val), &dataset.tokenizer, rows, context, None).unwrap();
        assert_eq!(scored(&set), expected, "{rows} x {context}");
        assert_eq!(set.target_tokens(), val.tokens() - 1);
        assert_eq!(set.target_bytes(), val.source_bytes());
    }
}

#[test]
fn limited_validation_is_spread_and_counts_its_own_bytes() {
    let (_run, dataset) = prepared(1);
    let tokenizer = &dataset.tokenizer;
    let set = ValSet::new(Arc::clone(&dataset.val), tokenizer, 2, 16, Some(100)).unwrap();
    let again = ValSet::new(Arc::clone(&dataset.val), tokenizer, 2, 16, Some(100)).unwrap();
    assert_eq!(set.target_tokens(), 96);
    let pairs = scored(&set);
    assert_eq!(pairs, scored(&again));
    let bytes: u64 =
        pairs.iter().map(|((_, id), count)| tokenizer.token_bytes(*id).len() as u64 * count).sum();
    assert_eq!(set.target_bytes(), bytes);
    assert!(set.target_bytes() < dataset.val.source_bytes());
    // One bit for each byte.
    let nll = bytes as f64 * std::f64::consts::LN_2;
    assert!((set.bits_per_byte(nll) - 1.0).abs() < 1e-12);
    let least = ValSet::new(Arc::clone(&dataset.val), tokenizer, 2, 16, Some(0)).unwrap();
    assert_eq!((least.target_tokens(), least.batches()), (16, 1));
}

#[test]
fn a_context_over_the_data_is_a_typed_error() {
    let (_run, dataset) = prepared(1);
    let long = LoaderConfig { context: 1 << 20, rows: 1, ..config(1) };
    let error = Loader::new(Arc::clone(&dataset.train), long).unwrap_err();
    assert!(matches!(error, Error::TooFewTokens { needed_tokens: 1_048_577, .. }), "{error}");
    let zero = ValSet::new(Arc::clone(&dataset.val), &dataset.tokenizer, 0, 16, None);
    assert!(matches!(zero, Err(Error::Range { .. })));
}
