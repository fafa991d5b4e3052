//! Everything that a run tells, as structured log lines besides.

use crate::{Event, Progress};

/// Logs events on their way to somebody.
pub(crate) struct Logged<'a>(pub(crate) &'a mut dyn Progress);

impl Progress for Logged<'_> {
    fn event(&mut self, event: Event<'_>) {
        log(&event);
        self.0.event(event);
    }
}

fn log(event: &Event<'_>) {
    match event {
        Event::Scanned { summary, skipped, train_bytes, val_bytes } => {
            let (documents, skipped) = (summary.taken.count, skipped.len());
            tracing::info!(documents, skipped, train_bytes, val_bytes, "scanned");
        }
        Event::Tokenizing { vocab } => tracing::info!(vocab, "training a tokenizer"),
        Event::Prepared { vocab, train_tokens, val_tokens } => {
            tracing::info!(vocab, train_tokens, val_tokens, "prepared");
        }
        Event::Plan(plan) => {
            let (params, total_bytes) = (plan.params, plan.total_bytes);
            tracing::info!(params, total_bytes, steps = plan.steps, "planned");
        }
        Event::Resumed { step } => tracing::info!(step, "resumed"),
        Event::Horizon { steps } => tracing::info!(steps, "horizon fixed"),
        Event::Step(step) => {
            let (loss, tokens_per_s) = (step.loss, step.tokens_per_s);
            tracing::trace!(step = step.step, loss, tokens_per_s, "step");
        }
        Event::Validation { step, score, best, .. } => {
            tracing::info!(step, loss = score.loss, bpb = score.bpb, best, "validated");
        }
        Event::Checkpoint { step } => tracing::info!(step, "checkpoint saved"),
        // Whoever shows the notice shows it to a person already.
        Event::Notice(text) => tracing::info!("{text}"),
        Event::Done { outcome, run } => {
            let (steps, seconds, run) = (outcome.steps, outcome.seconds, run.display());
            tracing::info!(%run, steps, seconds, status = ?outcome.status, "done");
        }
        _ => {}
    }
}
