//! Training batches: micro-batch (step, micro) is a pure function of dataset, settings and seed.
//!
//! An epoch is a permutation of windows of T tokens (targets one further) laid side by side over
//! the packed stream. Each epoch shifts the grid by a random offset below T, so that no token is
//! always the first of its window. Rows are numbered through all epochs; nothing but the step has
//! to be remembered to go on, in the middle of an epoch or exactly at its end.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smidgen_codec::{Rng, Stream};

use crate::permute::permute;
use crate::{Batch, Error, Feed, Shard};

/// Shape and order of the batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// B, rows of a micro-batch.
    pub rows: usize,
    /// T, tokens of a row.
    pub context: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Of the run.
    pub seed: u64,
    /// Batches made ahead.
    pub prefetch: usize,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { rows: 8, context: 256, micro_batches: 1, seed: 0, prefetch: 4 }
    }
}

/// The next step to consume, and where it begins; part of every checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Steps consumed.
    pub step: u64,
    /// The epoch of the next row.
    pub epoch: u64,
    /// The number of the next row in its epoch.
    pub sample: u64,
}

/// Makes batches of one shard; cheap to clone.
#[derive(Clone, Debug)]
pub struct Loader {
    shard: Arc<Shard>,
    config: LoaderConfig,
    rng: Rng,
    /// Windows of an epoch.
    windows: u64,
    /// The grid is shifted by 0..shifts.
    shifts: u64,
}

impl Loader {
    /// Checks the settings against the data.
    ///
    /// # Errors
    /// `Range` for a size of zero or over 2^31, `TooFewTokens` where not even one window fits.
    pub fn new(shard: Arc<Shard>, config: LoaderConfig) -> Result<Self, Error> {
        check_size("batch", config.rows)?;
        check_size("context", config.context)?;
        check_size("grad_accum", config.micro_batches)?;
        check_size("prefetch", config.prefetch)?;
        check_size("batch x context", config.rows.saturating_mul(config.context))?;
        let context = config.context as u64;
        let targets = shard.tokens() - 1;
        if targets < context {
            let (needed_tokens, found_tokens) = (context + 1, shard.tokens());
            return Err(Error::TooFewTokens {
                context: config.context,
                needed_tokens,
                found_tokens,
            });
        }
        // One window less than would fit leaves room to shift by any offset; short data has none.
        let windows = ((targets + 1 - context) / context).max(1);
        let shifts = (targets - windows * context + 1).min(context);
        let rng = Rng::new(config.seed, Stream::Data);
        Ok(Self { shard, config, rng, windows, shifts })
    }

    /// Micro-batch `micro` of step `step`, whatever came before.
    ///
    /// # Panics
    /// If there is no such micro-batch in a step.
    pub fn batch(&self, step: u64, micro: usize) -> Batch {
        assert!(micro < self.config.micro_batches, "a step has `micro_batches` of them");
        let mut batch = Batch::with_capacity(self.config.rows, self.config.context);
        for row in 0..self.config.rows {
            let (epoch, sample) = self.place(step, micro * self.config.rows + row);
            batch.push_row(&self.shard, self.window(epoch, sample));
        }
        batch.step_target_tokens = self.step_target_tokens();
        batch
    }

    /// Starts a thread that makes the batches from `step` on ahead of their use.
    ///
    /// # Errors
    /// `Worker` if the system gives no thread.
    pub fn start(&self, step: u64) -> Result<Feed, Error> {
        let (loader, micro_batches) = (self.clone(), self.config.micro_batches);
        let places =
            (step..).flat_map(move |step| (0..micro_batches).map(move |micro| (step, micro)));
        Feed::spawn(
            self.config.prefetch,
            places.map(move |(step, micro)| loader.batch(step, micro)),
        )
    }

    /// What a checkpoint that is taken before step `step` has to remember.
    pub fn cursor(&self, step: u64) -> Cursor {
        let (epoch, sample) = self.place(step, 0);
        Cursor { step, epoch, sample }
    }

    /// Accepts a cursor from a checkpoint and gives the step to go on with.
    ///
    /// # Errors
    /// `Cursor` where data or batch shape are not those the cursor was made with.
    pub fn resume(&self, cursor: &Cursor) -> Result<u64, Error> {
        let here = self.cursor(cursor.step);
        if here == *cursor {
            return Ok(cursor.step);
        }
        // In 128 bits: the cursor comes from a file and may hold any number.
        let number = |epoch: u64, sample: u64| {
            let number = u128::from(epoch) * u128::from(self.windows) + u128::from(sample);
            u64::try_from(number).unwrap_or(u64::MAX)
        };
        Err(Error::Cursor {
            step: cursor.step,
            expected: number(here.epoch, here.sample),
            got: number(cursor.epoch, cursor.sample),
        })
    }

    /// Windows of an epoch, each of which comes once.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows
    }

    /// Target tokens of one step: every position of every row counts.
    pub fn step_target_tokens(&self) -> u64 {
        (self.config.rows * self.config.context) as u64 * self.config.micro_batches as u64
    }

    /// The data.
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// The settings.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// Epoch and number in it of row `row` of a step.
    fn place(&self, step: u64, row: usize) -> (u64, u64) {
        let rows = (self.config.rows * self.config.micro_batches) as u128;
        let number = u128::from(step) * rows + row as u128;
        let windows = u128::from(self.windows);
        ((number / windows) as u64, (number % windows) as u64)
    }

    /// The first token of a window.
    fn window(&self, epoch: u64, sample: u64) -> u64 {
        let shift = self.rng.below(epoch, u64::MAX, 0, self.shifts);
        permute(&self.rng, epoch, self.windows, sample) * self.config.context as u64 + shift
    }
}

fn check_size(key: &'static str, value: usize) -> Result<(), Error> {
    if (1..=1 << 31).contains(&value) {
        return Ok(());
    }
    Err(Error::Range { key, expected: "1 to 2147483648".to_owned(), got: value.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::shard;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A stream whose tokens are their own positions, so that batches show where they come from.
    fn counting(tokens: u32) -> (tempfile::TempDir, Arc<Shard>) {
        let (dir, shard) = shard(&[(1..tokens - 1).collect()], 1 << 20);
        (dir, Arc::new(shard))
    }

    fn config(rows: usize, context: usize, micro_batches: usize) -> LoaderConfig {
        LoaderConfig { rows, context, micro_batches, seed: 5, prefetch: 2 }
    }

    fn first_tokens(loader: &Loader, steps: u64) -> Vec<u32> {
        let context = loader.config.context;
        (0..steps)
            .flat_map(|step| (0..loader.config.micro_batches).map(move |micro| (step, micro)))
            .flat_map(|(step, micro)| {
                loader.batch(step, micro).tokens.into_iter().step_by(context).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn an_epoch_has_every_window_once_and_the_next_another_order() {
        let (_dir, shard) = counting(1000);
        let loader = Loader::new(shard, config(3, 16, 2)).unwrap();
        let windows = loader.windows_per_epoch() as usize;
        assert_eq!(windows, 61);
        let firsts = first_tokens(&loader, 2 * 61);
        let epochs: Vec<&[u32]> = firsts.chunks(windows).collect();
        for epoch in &epochs {
            let distinct: BTreeSet<_> = epoch.iter().collect();
            let phases: BTreeSet<_> = epoch.iter().map(|first| first % 16).collect();
            assert_eq!((distinct.len(), phases.len()), (windows, 1));
        }
        assert_ne!(epochs[0], epochs[1]);
        let phases: BTreeSet<_> = epochs.iter().map(|epoch| epoch[0] % 16).collect();
        assert!(phases.len() > 4, "offsets vary: {phases:?}");
    }

    #[test]
    fn targets_follow_their_inputs() {
        let (_dir, shard) = counting(400);
        let loader = Loader::new(shard, config(2, 8, 3)).unwrap();
        let batch = loader.batch(7, 1);
        assert_eq!((batch.tokens.len(), batch.step_target_tokens), (16, 48));
        for (row, targets) in batch.tokens.chunks(8).zip(batch.targets.chunks(8)) {
            assert_eq!(row[1..], targets[..7]);
        }
    }

    #[test]
    fn short_data_has_one_window_and_shorter_data_is_refused() {
        for tokens in [9, 10, 15] {
            let (_dir, shard) = counting(tokens);
            let loader = Loader::new(shard, config(1, 8, 1)).unwrap();
            assert_eq!(loader.windows_per_epoch(), 1);
            first_tokens(&loader, 20);
        }
        let (_dir, shard) = counting(8);
        let error = Loader::new(Arc::clone(&shard), config(1, 8, 1)).unwrap_err();
        assert!(matches!(
            error,
            Error::TooFewTokens { context: 8, needed_tokens: 9, found_tokens: 8 }
        ));
        for bad in [config(0, 1, 1), config(1, 0, 1), config(1, 1, 0), config(1 << 20, 1 << 20, 1)]
        {
            assert!(matches!(Loader::new(Arc::clone(&shard), bad), Err(Error::Range { .. })));
        }
    }

    #[test]
    fn cursors_resume_here_and_nowhere_else() {
        let (_dir, shard) = counting(500);
        let loader = Loader::new(Arc::clone(&shard), config(4, 8, 2)).unwrap();
        for step in [0, 1, 7, 8, 1000] {
            assert_eq!(loader.resume(&loader.cursor(step)).unwrap(), step);
        }
        let other = Loader::new(shard, config(4, 16, 2)).unwrap();
        assert!(matches!(other.resume(&loader.cursor(9)), Err(Error::Cursor { step: 9, .. })));
        let nonsense = Cursor { step: u64::MAX, epoch: u64::MAX, sample: u64::MAX };
        assert!(loader.resume(&nonsense).is_err());
    }

    proptest! {
        #[test]
        fn any_sizes_stay_within_the_data(
            tokens in 5_u32..300,
            rows in 1_usize..5,
            context in 1_usize..40,
            step in 0_u64..1000,
        ) {
            let (_dir, shard) = counting(tokens);
            if let Ok(loader) = Loader::new(shard, config(rows, context, 2)) {
                let batch = loader.batch(step, 1);
                prop_assert_eq!(batch.weights.iter().sum::<f32>() as usize, rows * context);
            } else {
                prop_assert!(tokens as usize <= context);
            }
        }
    }
}
