//! What `metrics.jsonl` says about a run, in bounded memory.
//!
//! Whatever is absent, or is not what it should be, is left out: a report of an old, damaged or
//! half-written run shows what there is.

use std::collections::BTreeMap;

use serde_json::Value;

use super::trace::Trace;

/// Texts of samples are cut to this many characters.
const SAMPLE_CHARS: usize = 4000;
/// Samples that are kept: the first ones, and the last ones.
const FIRST_SAMPLES: usize = 4;
const LAST_SAMPLES: usize = 28;
/// Events that are kept; the others are counted.
const EVENTS: usize = 500;
/// Groups and tags that get a series of their own.
const NAMES: usize = 24;

/// The course of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The highest step of any line.
    pub(crate) steps: u64,
    /// Seconds of the run so far.
    pub(crate) seconds: Option<f64>,
    /// Targets so far.
    pub(crate) tokens: Option<u64>,
    /// Steps that changed nothing.
    pub(crate) skipped: u64,
    pub(crate) loss: Trace,
    pub(crate) val_loss: Trace,
    pub(crate) val_bpb: Trace,
    pub(crate) ema_loss: Trace,
    pub(crate) ema_bpb: Trace,
    pub(crate) lr_multiplier: Trace,
    /// Rate by group.
    pub(crate) lr: BTreeMap<String, Trace>,
    pub(crate) grad_norm: Trace,
    pub(crate) tok_s: Trace,
    /// Share of the time that was spent waiting for data.
    pub(crate) wait: Trace,
    pub(crate) entropy: Trace,
    pub(crate) power_w: Trace,
    /// Peak bytes by tag.
    pub(crate) bytes: BTreeMap<String, Trace>,
    /// Peak bytes of all tags together.
    pub(crate) total_bytes: Trace,
    pub(crate) compile: Compile,
    /// The best validation's step, its loss and its bits per byte.
    pub(crate) best: Option<Best>,
    pub(crate) samples: Vec<Samples>,
    pub(crate) events: Vec<Happened>,
    /// Events beyond those kept.
    pub(crate) more_events: usize,
}

/// Share of sampled completions that compile, with its interval.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compile {
    pub(crate) rate: Trace,
    pub(crate) low: Trace,
    pub(crate) high: Trace,
    /// The newest measurement.
    pub(crate) last: Option<Compiled>,
}

/// One measurement of completions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) samples: u64,
    pub(crate) parsed: u64,
    pub(crate) compiled: u64,
    pub(crate) rate: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The best validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Best {
    pub(crate) step: u64,
    pub(crate) loss: f64,
    pub(crate) bpb: Option<f64>,
}

/// What the model wrote at one validation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Samples {
    pub(crate) step: u64,
    /// Prompt, continuation.
    pub(crate) texts: Vec<(String, String)>,
}

/// Something out of the ordinary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Happened {
    pub(crate) step: u64,
    /// `alarm`, `rollback`, `pressure`, ...
    pub(crate) event: String,
    pub(crate) kind: Option<String>,
    pub(crate) text: String,
}

impl History {
    /// Takes one line in.
    pub(crate) fn take(&mut self, line: &Value) {
        let Some(step) = line["step"].as_u64() else { return };
        self.steps = self.steps.max(step);
        self.seconds = line["time"].as_f64().or(self.seconds);
        self.tokens = line["tokens"].as_u64().or(self.tokens);
        self.numbers(step, line);
        self.validation(step, line);
        self.by_name(step, line);
        self.samples(step, line);
        self.event(step, line);
    }

    /// Everything that is one number under one name.
    fn numbers(&mut self, step: u64, line: &Value) {
        self.skipped += u64::from(line["skipped"] == Value::Bool(true));
        let traces = [
            ("loss", &mut self.loss),
            ("val_loss", &mut self.val_loss),
            ("val_bpb", &mut self.val_bpb),
            ("ema_loss", &mut self.ema_loss),
            ("ema_bpb", &mut self.ema_bpb),
            ("lr_multiplier", &mut self.lr_multiplier),
            ("grad_norm", &mut self.grad_norm),
            ("tok_s", &mut self.tok_s),
            ("wait", &mut self.wait),
            ("entropy", &mut self.entropy),
            ("power_w", &mut self.power_w),
        ];
        for (name, trace) in traces {
            if let Some(value) = line[name].as_f64() {
                trace.push(step, value);
            }
        }
    }

    fn validation(&mut self, step: u64, line: &Value) {
        if let Some(loss) = line["val_loss"].as_f64() {
            let better = self.best.is_none_or(|best| loss < best.loss);
            if line["best"].as_bool().unwrap_or(better) {
                self.best = Some(Best { step, loss, bpb: line["val_bpb"].as_f64() });
            }
        }
        let compile = &line["compile"];
        let (count, number) =
            (|name: &str| compile[name].as_u64(), |name: &str| compile[name].as_f64());
        let Some(rate) = number("rate") else { return };
        let (low, high) = (number("low").unwrap_or(rate), number("high").unwrap_or(rate));
        let counted = |name| count(name).unwrap_or(0);
        let (samples, parsed, compiled) =
            (counted("samples"), counted("parsed"), counted("compiled"));
        self.compile.rate.push(step, rate);
        self.compile.low.push(step, low);
        self.compile.high.push(step, high);
        self.compile.last = Some(Compiled { samples, parsed, compiled, rate, low, high });
    }

    /// Rates by group and bytes by tag.
    fn by_name(&mut self, step: u64, line: &Value) {
        for (name, rate) in line["lr"].as_object().into_iter().flatten() {
            push_named(&mut self.lr, name, step, rate);
        }
        for (name, bytes) in line["bytes"].as_object().into_iter().flatten() {
            if name != "total" {
                push_named(&mut self.bytes, name, step, bytes);
            }
        }
        // A run without tags has the sum alone.
        let total = line["bytes"]["total"].as_f64().or(line["bytes"].as_f64());
        if let Some(total) = total {
            self.total_bytes.push(step, total);
        }
    }

    fn samples(&mut self, step: u64, line: &Value) {
        let Some(samples) = line["samples"].as_array() else { return };
        let text = |value: &Value| cut(value.as_str().unwrap_or_default());
        let texts = samples.iter().take(NAMES).filter(|sample| sample["text"].is_string());
        let texts = texts.map(|sample| (text(&sample["prompt"]), text(&sample["text"])));
        self.samples.push(Samples { step, texts: texts.collect() });
        if self.samples.len() > FIRST_SAMPLES + LAST_SAMPLES {
            self.samples.remove(FIRST_SAMPLES);
        }
    }

    fn event(&mut self, step: u64, line: &Value) {
        let Some(event) = line["event"].as_str() else { return };
        if self.events.len() == EVENTS {
            self.more_events += 1;
            return;
        }
        let text = |name: &str| line[name].as_str().map(cut);
        let (kind, said) = (text("kind"), text("text").unwrap_or_default());
        self.events.push(Happened { step, event: cut(event), kind, text: said });
    }

    /// Whether nothing was measured yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.loss.is_empty() && self.val_loss.is_empty()
    }
}

fn push_named(traces: &mut BTreeMap<String, Trace>, name: &str, step: u64, value: &Value) {
    let Some(value) = value.as_f64() else { return };
    if traces.contains_key(name) || traces.len() < NAMES {
        traces.entry(name.to_string()).or_default().push(step, value);
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SAMPLE_CHARS) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn history(lines: &[Value]) -> History {
        let mut history = History::default();
        lines.iter().for_each(|line| history.take(line));
        history
    }

    #[test]
    fn every_kind_of_line_is_understood() {
        let bytes = json!({ "weights": 10, "grads": 5, "total": 14 });
        let compile = json!({ "samples": 8, "parsed": 5, "compiled": 2, "rate": 0.25, "low": 0.1, "high": 0.5 });
        let history = history(&[
            json!({ "step": 1, "time": 0.5, "loss": 3.0, "lr": { "rest": 1e-3 }, "tokens": 64, "bytes": bytes }),
            json!({ "step": 2, "time": 1.0, "loss": null, "skipped": true, "tokens": 128 }),
            json!({ "step": 2, "val_loss": 2.5, "val_bpb": 1.5, "best": true, "compile": compile }),
            json!({ "step": 2, "samples": [{ "prompt": "fn", "text": " main" }, { "no": 1 }, 3] }),
            json!({ "step": 3, "event": "alarm", "kind": "spike", "text": "the loss rose" }),
        ]);
        assert_eq!(
            (history.steps, history.seconds, history.tokens, history.skipped),
            (3, Some(1.0), Some(128), 1)
        );
        assert_eq!(history.best, Some(Best { step: 2, loss: 2.5, bpb: Some(1.5) }));
        assert_eq!(history.lr["rest"].means(), [(1.0, 1e-3)]);
        assert_eq!(history.bytes.keys().collect::<Vec<_>>(), ["grads", "weights"]);
        assert_eq!(history.total_bytes.means(), [(1.0, 14.0)]);
        assert_eq!(history.compile.last.unwrap().compiled, 2);
        assert_eq!(history.samples[0].texts, [("fn".into(), " main".into())]);
        assert_eq!(history.events[0].kind.as_deref(), Some("spike"));
    }

    #[test]
    fn lines_that_are_wrong_do_no_harm() {
        let history = history(&[
            json!({ "loss": 3.0 }),
            json!({ "step": "one", "loss": 3.0 }),
            json!({ "step": 1, "loss": "low", "lr": 3, "bytes": 77, "samples": 1, "event": 5, "compile": [] }),
            json!({ "step": 2, "bytes": { "weights": {} }, "val_loss": {}, "compile": { "rate": "x" } }),
        ]);
        assert!(history.is_empty() && history.bytes.is_empty() && history.samples.is_empty());
        assert_eq!((history.steps, history.total_bytes.max()), (2, Some(77.0)));
    }

    #[test]
    fn samples_and_events_are_bounded() {
        let sample = |step: u64| json!({ "step": step, "samples": [{ "prompt": "", "text": "é".repeat(9000) }] });
        let event = |step: u64| json!({ "step": step, "event": "alarm", "text": "" });
        let lines: Vec<Value> = (0..1000).flat_map(|step| [sample(step), event(step)]).collect();
        let history = history(&lines);
        let steps: Vec<u64> = history.samples.iter().map(|samples| samples.step).collect();
        assert_eq!((steps[0], steps[3], steps[4], steps.last()), (0, 3, 972, Some(&999)));
        assert_eq!(history.samples[0].texts[0].1.chars().count(), SAMPLE_CHARS + 2);
        assert_eq!((history.events.len(), history.more_events), (EVENTS, 500));
    }
}
