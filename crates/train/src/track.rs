//! The one place that metrics of a run go through: to `metrics.jsonl`, and where it is asked for to
//! TensorBoard events besides. It measures what it costs itself.
//!
//! A failure to write either ends the run: what is on record would no longer be what happened. All
//! that is saved stays, and a resume goes on from it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smidgen_optim::{FireReport, Plasticity};
use smidgen_store::events::EventWriter;
use smidgen_store::{Metrics, RunDir};

use crate::{CompileRate, Error, Sample};

/// `[track]`: what is written besides `metrics.jsonl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrackConfig {
    /// Whether `RUN/events/` gets TensorBoard event files.
    pub tensorboard: bool,
    /// Whether validations measure the ranks of matrices; it costs an eigenproblem for each.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plasticity: bool,
}

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

/// One line for matrices that were replaced.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FireLine<'a> {
    pub(crate) fire: &'a [FireReport],
}

/// One line for how plastic matrices and units are.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlasticityLine<'a> {
    pub(crate) plasticity: BTreeMap<&'a str, Plasticity>,
    /// For each layer the share of dormant units.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) dormant: BTreeMap<String, f64>,
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
    events: Option<EventWriter>,
    seconds: f64,
}

impl Tracker {
    /// Goes on after step `resumed`, or begins anew.
    pub(crate) fn open(
        run: &RunDir,
        resumed: Option<u64>,
        config: TrackConfig,
    ) -> Result<Tracker, Error> {
        let metrics = Metrics::open(run, resumed)?;
        let events = config.tensorboard.then(|| EventWriter::create(run, next(resumed)));
        Ok(Tracker { metrics, events: events.transpose()?, seconds: 0.0 })
    }

    /// Takes back every line after step `saved`: the run went back to it.
    pub(crate) fn rewind(&mut self, run: &RunDir, saved: Option<u64>) -> Result<(), Error> {
        self.timed(|tracker| {
            tracker.metrics = Metrics::open(run, saved)?;
            Ok(tracker.events.as_mut().map_or(Ok(()), |events| events.restart(next(saved)))?)
        })
    }

    /// A line of a step; `time` is the run's, in seconds.
    pub(crate) fn step(&mut self, step: u64, time: f64, line: &StepLine<'_>) -> Result<(), Error> {
        self.timed(|tracker| {
            tracker.append(step, time, line)?;
            tracker.scalars(step, "train", line)
        })
    }

    /// A line of a validation.
    pub(crate) fn validation(
        &mut self,
        step: u64,
        time: f64,
        line: &ValidationLine,
    ) -> Result<(), Error> {
        self.timed(|tracker| {
            tracker.append(step, time, line)?;
            tracker.scalars(step, "val", line)
        })
    }

    /// A line of samples.
    pub(crate) fn samples(
        &mut self,
        step: u64,
        time: f64,
        line: &SamplesLine<'_>,
    ) -> Result<(), Error> {
        self.timed(|tracker| {
            tracker.append(step, time, line)?;
            tracker.scalars(step, "val", line)?;
            line.samples.iter().enumerate().try_for_each(|(i, sample)| {
                let text = as_it_is(&format!("{}{}", sample.prompt, sample.text));
                tracker.text(step, &format!("samples/{}", i + 1), &text)
            })
        })
    }

    /// A line of replaced matrices, of the step that is next.
    pub(crate) fn fire(&mut self, step: u64, time: f64, line: &FireLine<'_>) -> Result<(), Error> {
        self.timed(|tracker| tracker.append(step, time, line))
    }

    /// A line of ranks.
    pub(crate) fn plasticity(
        &mut self,
        step: u64,
        time: f64,
        line: &PlasticityLine<'_>,
    ) -> Result<(), Error> {
        self.timed(|tracker| {
            tracker.append(step, time, line)?;
            tracker.scalars(step, "plasticity", line)
        })
    }

    /// A line of an event. What happens between steps belongs to the step that is next: a resume
    /// from the checkpoint before it brings it again.
    pub(crate) fn event(
        &mut self,
        step: u64,
        time: f64,
        line: &EventLine<'_>,
    ) -> Result<(), Error> {
        self.timed(|tracker| {
            tracker.append(step, time, line)?;
            tracker.text(step, &format!("events/{}", line.event), line.text)
        })
    }

    /// Forces the metrics to the device. Events say nothing that is not there as well, and a second
    /// wait for the device would cost more than all the writing.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.timed(|tracker| Ok(tracker.metrics.sync()?))
    }

    /// Seconds spent in here since the last call.
    pub(crate) fn take_seconds(&mut self) -> f64 {
        std::mem::take(&mut self.seconds)
    }

    fn timed(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let since = Instant::now();
        work(self)?;
        self.seconds += since.elapsed().as_secs_f64();
        Ok(())
    }

    fn append(&mut self, step: u64, time: f64, record: &impl Serialize) -> Result<(), Error> {
        Ok(self.metrics.append(step, &Timed { time, record })?)
    }

    fn scalars(&mut self, step: u64, group: &str, line: &impl Serialize) -> Result<(), Error> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let line = serde_json::to_value(line).expect("lines are plain structs");
        let mut scalars = Vec::new();
        collect(group, &line, &mut scalars);
        Ok(events.scalars(step, &scalars)?)
    }

    fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<(), Error> {
        Ok(self.events.as_mut().map_or(Ok(()), |events| events.text(step, tag, text))?)
    }
}

/// The first step that is done after step `resumed`.
fn next(resumed: Option<u64>) -> u64 {
    resumed.map_or(0, |step| step + 1)
}

/// Every number of a line by its tag: `train/loss`, and for a table in it `lr/matrices`. What is not
/// finite has no number.
fn collect(group: &str, line: &Value, scalars: &mut Vec<(String, f32)>) {
    for (name, value) in line.as_object().into_iter().flatten() {
        if let Some(number) = value.as_f64() {
            // `val/loss` says all that `val/val_loss` does.
            let name = name.strip_prefix("val_").unwrap_or(name);
            scalars.push((format!("{group}/{name}"), number as f32));
        } else {
            collect(name, value, scalars);
        }
    }
}

/// A text that Markdown is to show as it is: a block indented by four.
fn as_it_is(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_tag_in_the_group_of_its_table() {
        let line = serde_json::json!({
            "val_loss": 2.5, "best": true, "loss": null, "samples": [{ "text": "a" }],
            "lr": { "rest": 0.5 }, "compile": { "rate": 0.25 },
        });
        let mut scalars = Vec::new();
        collect("val", &line, &mut scalars);
        scalars.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [("compile/rate", 0.25), ("lr/rest", 0.5), ("val/loss", 2.5)];
        assert_eq!(scalars, expected.map(|(tag, value)| (tag.to_string(), value)));
    }

    #[test]
    fn texts_are_blocks() {
        assert_eq!(as_it_is("# a\n\n*b*"), "    # a\n    \n    *b*\n");
    }
}
