//! What a run tells while it goes; the library prints nothing.

use std::path::Path;

use smidgen_data::Summary;

use crate::{LrPoint, Outcome, Outlook, Plan, Sample, Validation};

/// Something a person may want to see.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A plan that is only looked at.
    Outlook(&'a Outlook),
    /// The source was read: what was taken, and what was left and why.
    Scanned {
        /// Counts by extension and by reason.
        summary: &'a Summary,
        /// Everything left out, by name.
        skipped: &'a [smidgen_data::Skipped],
        /// Bytes of text to learn from.
        train_bytes: u64,
        /// Bytes of text held out.
        val_bytes: u64,
    },
    /// The tokenizer is being trained.
    Tokenizing {
        /// The vocabulary asked for.
        vocab: usize,
    },
    /// The tokenizer is there and the shards are written.
    Prepared {
        /// Tokens of the vocabulary.
        vocab: usize,
        /// Tokens to learn from.
        train_tokens: u64,
        /// Tokens held out.
        val_tokens: u64,
    },
    /// Everything is decided; nothing is spent yet.
    Plan(&'a Plan),
    /// The run goes on from a checkpoint (from step 0 where there is none).
    Resumed {
        /// Steps done.
        step: u64,
    },
    /// The horizon of a run by the clock was fixed.
    Horizon {
        /// Steps of the schedule.
        steps: u64,
    },
    /// A step of a range test was done.
    Range {
        /// Which, from 0.
        index: u32,
        /// Of how many.
        steps: u32,
        /// Rate and loss.
        point: &'a LrPoint,
    },
    /// A step was done.
    Step(&'a StepEvent),
    /// A validation was done.
    Validation {
        /// After this many steps.
        step: u64,
        /// The score.
        score: Validation,
        /// The score of the averaged weights, where they are kept.
        ema: Option<Validation>,
        /// Whether it is the best so far.
        best: bool,
    },
    /// A checkpoint was saved.
    Checkpoint {
        /// After this many steps.
        step: u64,
    },
    /// What the model wrote at a validation.
    Samples {
        /// After this many steps.
        step: u64,
        /// One text for each prompt.
        samples: &'a [Sample],
    },
    /// Something out of the ordinary that did not end the run.
    Notice(&'a str),
    /// The run ended.
    Done {
        /// What came out.
        outcome: &'a Outcome,
        /// The run directory.
        run: &'a Path,
    },
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepEvent {
    /// Steps done, this one included.
    pub step: u64,
    /// Steps of the whole run, where that is known already.
    pub steps: Option<u64>,
    /// Loss of this step; not finite where it was skipped for that.
    pub loss: f64,
    /// Running mean of the loss.
    pub mean_loss: f64,
    /// The schedule's multiplier over each group's base rate.
    pub multiplier: f64,
    /// Global norm of the gradients, where it was computed.
    pub grad_norm: Option<f64>,
    /// Whether the parameters were left as they were.
    pub skipped: bool,
    /// Targets so far.
    pub tokens: u64,
    /// Targets per second, over the last steps.
    pub tokens_per_s: f64,
    /// Bytes on the ledger at most, so far.
    pub peak_bytes: u64,
    /// Seconds of the run so far, those before a resume included.
    pub seconds: f64,
}

/// Receives events.
pub trait Progress {
    /// Called from the thread that trains, between steps.
    fn event(&mut self, event: Event<'_>);
}

impl<F: FnMut(Event<'_>)> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _event: Event<'_>) {}
}
