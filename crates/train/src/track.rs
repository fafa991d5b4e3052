//! The one place that metrics of a run go through. It measures what it costs itself.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use smidgen_store::{Metrics, RunDir};

use crate::{CompileRate, Error, Sample};

/// One line of `metrics.jsonl` for a step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StepLine<'a> {
    pub(crate) loss: f64,
    pub(crate) lr_multiplier: f64,
    /// The rate of each group.
    pub(crate) lr: BTreeMap<&'a str, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grad_norm: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) skipped: bool,
    pub(crate) tokens: u64,
    pub(crate) tok_s: f64,
    /// Share of the step that was spent waiting for data.
    pub(crate) wait: f64,
    /// The most bytes of the step, by ledger tag and in `total`.
    pub(crate) bytes: BTreeMap<&'static str, u64>,
    /// Watts of the processor's packages since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) power_w: Option<f64>,
}

/// One line for a validation.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ValidationLine {
    pub(crate) val_loss: f64,
    pub(crate) val_ppl: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) val_bpb: Option<f64>,
    pub(crate) best: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ema_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ema_bpb: Option<f64>,
    /// Validation loss over the running training loss.
    pub(crate) gap: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compile: Option<CompileLine>,
}

/// What became of the sampled completions.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CompileLine {
    #[serde(flatten)]
    counts: CompileRate,
    rate: f64,
}

impl From<CompileRate> for CompileLine {
    fn from(counts: CompileRate) -> CompileLine {
        CompileLine { rate: counts.rate(), counts }
    }
}

/// One line for what the model wrote at a validation.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SamplesLine<'a> {
    pub(crate) samples: &'a [Sample],
    /// Mean entropy of the predictions, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entropy: Option<f64>,
}

/// One line for something out of the ordinary.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EventLine<'a> {
    pub(crate) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    pub(crate) text: &'a str,
}

#[derive(Serialize)]
struct Timed<'a, T> {
    time: f64,
    #[serde(flatten)]
    record: &'a T,
}

/// Writes the metrics of a run.
pub(crate) struct Tracker {
    metrics: Metrics,
    seconds: f64,
}

impl Tracker {
    /// Goes on after step `resumed`, or begins anew.
    pub(crate) fn open(run: &RunDir, resumed: Option<u64>) -> Result<Tracker, Error> {
        Ok(Tracker { metrics: Metrics::open(run, resumed)?, seconds: 0.0 })
    }

    /// A line of a step; `time` is the run's, in seconds.
    pub(crate) fn step(&mut self, step: u64, time: f64, line: &StepLine<'_>) -> Result<(), Error> {
        self.append(step, time, line)
    }

    /// A line of a validation.
    pub(crate) fn validation(
        &mut self,
        step: u64,
        time: f64,
        line: &ValidationLine,
    ) -> Result<(), Error> {
        self.append(step, time, line)
    }

    /// A line of samples.
    pub(crate) fn samples(
        &mut self,
        step: u64,
        time: f64,
        line: &SamplesLine<'_>,
    ) -> Result<(), Error> {
        self.append(step, time, line)
    }

    /// A line of an event. What happens between steps belongs to the step that is next: a resume
    /// from the checkpoint before it brings it again.
    pub(crate) fn event(
        &mut self,
        step: u64,
        time: f64,
        line: &EventLine<'_>,
    ) -> Result<(), Error> {
        self.append(step, time, line)
    }

    /// Forces everything to the device.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        let since = Instant::now();
        self.metrics.sync()?;
        self.seconds += since.elapsed().as_secs_f64();
        Ok(())
    }

    /// Seconds spent in here since the last call.
    pub(crate) fn take_seconds(&mut self) -> f64 {
        std::mem::take(&mut self.seconds)
    }

    fn append(&mut self, step: u64, time: f64, record: &impl Serialize) -> Result<(), Error> {
        let since = Instant::now();
        self.metrics.append(step, &Timed { time, record })?;
        self.seconds += since.elapsed().as_secs_f64();
        Ok(())
    }
}
