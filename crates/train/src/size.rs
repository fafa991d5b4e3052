//! Automatic sizes: a pure function of the bytes of text, the memory, the threads and the kernels.
//!
//! The time a run may take buys floating-point operations at a nominal rate of the CPU class; of a
//! ladder of shapes the largest is taken that still sees enough tokens for its parameters. No timing
//! enters, so the same folder gives the same model on every machine of a class.

use smidgen_model::Spec;
use smidgen_optim::{GroupConfig, Role};
use smidgen_tensor::Level;

use crate::Precision;

/// Minutes of a run that names no limit.
pub(crate) const DEFAULT_MINUTES: f64 = 3.0;

/// Tokens that a parameter of an automatic model sees at least.
const TOKENS_PER_PARAM: f64 = 4.0;

/// Passes over the text after which more steps only learn it by heart.
const MAX_EPOCHS: f64 = 10.0;

/// Width and layers, smallest first.
const LADDER: [(usize, usize); 12] = [
    (32, 2),
    (64, 2),
    (96, 3),
    (128, 4),
    (192, 4),
    (256, 4),
    (256, 6),
    (320, 6),
    (384, 6),
    (512, 8),
    (640, 10),
    (768, 12),
];

/// What automatic sizes depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    pub(crate) train_bytes: u64,
    pub(crate) minutes: f64,
    /// Nominal floating-point operations per second.
    pub(crate) rate: f64,
}

impl Means {
    /// Operations that the time buys.
    fn flop(&self) -> f64 {
        self.rate * 60.0 * self.minutes
    }

    /// Tokens that a model can be trained on.
    pub(crate) fn tokens(&self, spec: &Spec, context: usize) -> f64 {
        let by_time = self.flop() / spec.train_flop_per_token(context);
        by_time.min(self.useful_tokens(spec.vocab))
    }

    /// Tokens after which a text is only learnt by heart.
    pub(crate) fn useful_tokens(&self, vocab: usize) -> f64 {
        MAX_EPOCHS * text_tokens(self.train_bytes, vocab)
    }
}

/// Operations per second in training: about half of what a register loop reaches.
pub(crate) fn nominal_rate(level: Level, compute: Precision, threads: usize) -> f64 {
    let bf16 = compute == Precision::Bf16 && level.has_bf16_dot();
    let per_thread = match level {
        _ if bf16 => 1.4e11,
        Level::Avx512 | Level::Avx512Bf16 => 7e10,
        Level::Avx2 => 3.5e10,
        Level::Portable => 5e9,
    };
    per_thread * threads as f64
}

/// Tokens of a text under a vocabulary, by experience with code and prose.
pub(crate) fn text_tokens(bytes: u64, vocab: usize) -> f64 {
    bytes as f64 / (0.35 * (vocab.max(2) as f64).log2() - 1.0).max(1.0)
}

/// Tokens of the vocabulary: larger text has more words worth a token of their own.
pub(crate) fn vocab(train_bytes: u64) -> usize {
    match train_bytes {
        0..2_000_000 => 512,
        2_000_000..8_000_000 => 1024,
        8_000_000..32_000_000 => 4096,
        _ => 8192,
    }
}

/// Tokens of a training sequence; little text is cut into shorter ones.
pub(crate) fn context(train_bytes: u64, vocab: usize) -> usize {
    let most = (text_tokens(train_bytes, vocab) / 16.0) as usize;
    previous_power_of_two(most.clamp(16, 256))
}

/// Sequences of a step: about a two-thousandth of all tokens.
pub(crate) fn batch(tokens: f64, context: usize) -> usize {
    let step_tokens = (tokens / 2000.0).clamp(1024.0, 16_384.0);
    previous_power_of_two((step_tokens * 1.5 / context as f64).max(1.0) as usize)
}

/// The largest shape of the ladder that sees enough tokens; `accept` refuses what memory refuses.
pub(crate) fn ladder(
    means: &Means,
    context: usize,
    spec: impl Fn(usize, usize) -> Spec,
    accept: impl Fn(&Spec) -> bool,
) -> (usize, usize) {
    let fits = |(width, layers): &(usize, usize)| {
        let spec = spec(*width, *layers);
        let enough = TOKENS_PER_PARAM * spec.param_count() as f64;
        means.tokens(&spec, context) >= enough && accept(&spec)
    };
    LADDER.into_iter().rev().find(fits).unwrap_or(LADDER[0])
}

/// Base rate of AdamW: narrow models take larger ones.
pub(crate) fn lr(width: usize) -> f64 {
    let lr = 3e-3 * (256.0 / width.max(1) as f64).min(1.0);
    // Two digits, so that a written configuration is pleasant to read.
    (lr * 1e5).round() / 1e5
}

/// Passes over the text from which on forgetting has to be helped.
const MANY_EPOCHS: f64 = 4.0;

/// Update rules of a run that names none. Text that is read often is learnt by heart unless weights
/// decay more, the table's too; the figures are in `docs/results/tinyshakespeare.md`.
pub(crate) fn groups(lr: f64, epochs: f64) -> Vec<GroupConfig> {
    let mut groups = GroupConfig::defaults(lr);
    if epochs >= MANY_EPOCHS {
        for group in &mut groups {
            group.role.retain(|role| *role != Role::Embedding);
            if group.role.is_empty() {
                group.weight_decay = Some(0.5);
            }
        }
    }
    groups
}

/// Heads of about 64 values, at least one, dividing the width into even parts.
pub(crate) fn heads(width: usize) -> usize {
    let fits = |heads: &usize| width.is_multiple_of(*heads) && (width / heads).is_multiple_of(2);
    let wanted = (width / 64).max(1);
    (1..=wanted).rev().find(fits).unwrap_or(1)
}

/// 8/3 of the width, in whole register tiles.
pub(crate) fn ffn(width: usize) -> usize {
    (width * 8).div_ceil(3).next_multiple_of(32)
}

fn previous_power_of_two(n: usize) -> usize {
    1 << n.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ladder_rises() {
        let count = |(width, layers)| {
            Spec::new(1024, width, layers, heads(width), ffn(width), 256).param_count()
        };
        assert!(LADDER.map(count).is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn more_time_and_text_never_give_a_smaller_model() {
        let params = |minutes, train_bytes| {
            let means = Means { train_bytes, minutes, rate: 2e11 };
            let spec = |width, layers| Spec::new(1024, width, layers, 1, ffn(width), 256);
            let (width, layers) = ladder(&means, 256, spec, |_| true);
            spec(width, layers).param_count()
        };
        let by_time = [0.1, 1.0, 10.0, 100.0, 1e4, 1e6].map(|minutes| params(minutes, 1 << 30));
        let by_text = [1 << 10, 1 << 16, 1 << 22, 1 << 30].map(|bytes| params(1e4, bytes));
        assert!(by_time.is_sorted() && by_time[0] < by_time[4], "{by_time:?}");
        assert!(by_text.is_sorted() && by_text[0] < by_text[3], "{by_text:?}");
    }

    #[test]
    fn only_text_that_is_read_often_decays_its_table() {
        let decay = |epochs, role| {
            let groups = groups(1e-3, epochs);
            let first = groups.into_iter().find(|g| g.role.is_empty() || g.role.contains(&role));
            first.expect("the last group takes the rest").weight_decay
        };
        assert_eq!([1.0, 10.0].map(|n| decay(n, Role::Embedding)), [Some(0.0), Some(0.5)]);
        assert_eq!([1.0, 10.0].map(|n| decay(n, Role::MatrixHidden)), [None, Some(0.5)]);
        assert_eq!([1.0, 10.0].map(|n| decay(n, Role::Norm)), [Some(0.0); 2]);
    }

    proptest! {
        #[test]
        fn automatic_parts_fit_any_width(width in (1_usize..5000).prop_map(|half| 2 * half)) {
            let spec = Spec::new(300, width, 1, heads(width), ffn(width), 16);
            prop_assert_eq!(spec.heads * spec.head_dim, width);
            spec.validate().unwrap();
            prop_assert!(lr(width) > 0.0);
        }

        #[test]
        fn any_bytes_have_sizes(bytes in any::<u64>()) {
            let (vocab, context) = (vocab(bytes), context(bytes, vocab(bytes)));
            prop_assert!(vocab >= 257 && (16..=256).contains(&context));
            prop_assert!(batch(text_tokens(bytes, vocab), context) >= 1);
        }
    }
}
