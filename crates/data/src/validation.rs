//! The fixed set of batches that every validation of a run scores.
//!
//! Windows of T tokens lie side by side over the held-out stream; each target counts exactly once,
//! whatever the batch size. Where a limit is set, windows are taken evenly from the whole side, so
//! that the first documents are not all there is to see.

use std::sync::Arc;

use crate::{Batch, Error, Shard, Tokenizer};

/// Validation batches, and how much text they stand for.
#[derive(Clone, Debug)]
pub struct ValSet {
    shard: Arc<Shard>,
    rows: usize,
    context: usize,
    /// Windows scored, and windows there are.
    windows: u64,
    all_windows: u64,
    target_tokens: u64,
    target_bytes: u64,
}

impl ValSet {
    /// Chooses the windows: all of them, or as many as fit into `max_tokens` targets, but one.
    ///
    /// # Errors
    /// `Range` for a size of zero, `TooFewTokens` for a side without a target.
    pub fn new(
        shard: Arc<Shard>,
        tokenizer: &Tokenizer,
        rows: usize,
        context: usize,
        max_tokens: Option<u64>,
    ) -> Result<Self, Error> {
        if rows == 0 || context == 0 {
            let (expected, got) = ("at least 1".to_owned(), "0".to_owned());
            return Err(Error::Range { key: "batch, context", expected, got });
        }
        if shard.tokens() < 2 {
            let (needed_tokens, found_tokens) = (2, shard.tokens());
            return Err(Error::TooFewTokens { context, needed_tokens, found_tokens });
        }
        let all_windows = (shard.tokens() - 1).div_ceil(context as u64);
        let limit = max_tokens.map_or(all_windows, |tokens| tokens / context as u64);
        let windows = limit.clamp(1, all_windows);
        let (target_tokens, target_bytes) = (0, 0);
        let mut set =
            Self { shard, rows, context, windows, all_windows, target_tokens, target_bytes };
        set.count(tokenizer);
        Ok(set)
    }

    /// Batch `index` below [`ValSet::batches`]; the last one is filled up with rows of weight 0.
    /// Its `step_target_tokens` are its own.
    pub fn batch(&self, index: u64) -> Batch {
        let rows = self.rows as u64;
        let mut batch = Batch::with_capacity(self.rows, self.context);
        for window in (index * rows..(index + 1) * rows).map(|number| self.start(number)) {
            match window {
                Some(start) => batch.push_row(&self.shard, start),
                None => batch.push_empty_row(self.last_token()),
            }
        }
        batch.step_target_tokens =
            batch.weights.iter().filter(|&&weight| weight > 0.0).count() as u64;
        batch
    }

    /// The data.
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// How many batches there are.
    pub fn batches(&self) -> u64 {
        self.windows.div_ceil(self.rows as u64)
    }

    /// Targets of all batches: the divisor of the mean loss.
    pub fn target_tokens(&self) -> u64 {
        self.target_tokens
    }

    /// Bytes of text that these targets stand for; the special token stands for none.
    pub fn target_bytes(&self) -> u64 {
        self.target_bytes
    }

    /// Bits per byte of a summed negative log-likelihood in nats over all batches.
    pub fn bits_per_byte(&self, nll: f64) -> f64 {
        nll / (std::f64::consts::LN_2 * self.target_bytes as f64)
    }

    /// The first token of the chosen window `number`.
    fn start(&self, number: u64) -> Option<u64> {
        let spread =
            || u128::from(number) * u128::from(self.all_windows) / u128::from(self.windows);
        (number < self.windows).then(|| spread() as u64 * self.context as u64)
    }

    fn last_token(&self) -> u32 {
        let mut last = [0];
        self.shard.read(self.shard.tokens() - 1, &mut last);
        last[0]
    }

    fn count(&mut self, tokenizer: &Tokenizer) {
        for number in 0..self.windows {
            let start = self.start(number).expect("the number is that of a chosen window");
            let there = (self.shard.tokens() - 1 - start).min(self.context as u64);
            let mut targets = vec![0; there as usize];
            self.shard.read(start + 1, &mut targets);
            self.target_tokens += there;
            let bytes = targets.iter().map(|&id| tokenizer.token_bytes(id).len() as u64);
            self.target_bytes += bytes.sum::<u64>();
        }
    }
}
