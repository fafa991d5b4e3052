//! The figures and tables of one run, as texts.

use serde::Serialize;
use serde_json::Value;
use smidgen_codec::Tag;
use smidgen_store::config::{flat, to_table};
use smidgen_train::Config;
use toml::Table;

use super::chart::{Unit, shown};
use super::history::History;
use super::subject::Subject;
use crate::out::count;

/// One of the figures at the top.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    label: &'static str,
    value: String,
    unit: &'static str,
    note: String,
}

/// One row of the events.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    step: String,
    event: String,
    text: String,
    alarm: bool,
}

/// What the model wrote at one step.
#[derive(Debug, Serialize)]
pub(super) struct SampleSet {
    step: String,
    texts: Vec<(String, String)>,
}

/// Bytes by tag.
#[derive(Debug, Serialize)]
pub(super) struct Bytes {
    rows: Vec<TagBytes>,
    /// Whether the plan is known.
    planned: bool,
}

/// Bytes of one tag.
#[derive(Debug, Serialize)]
struct TagBytes {
    tag: String,
    peak: String,
    plan: String,
    /// Percent of the greatest, for its bar.
    share: f64,
    total: bool,
}

/// A key of the configuration that is not at its default.
#[derive(Debug, Serialize)]
pub(super) struct Changed {
    key: String,
    value: String,
    default: String,
}

/// `1:02:03`, `2:03`.
pub(super) fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// With so many digits after the point.
pub(super) fn decimal(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

/// The sentence below a run's name.
pub(super) fn summary(subject: &Subject) -> String {
    let number = |key: &str| subject.config.get("model")?.get(key)?.as_integer();
    let shape = number("layers").zip(number("width"));
    let shape = shape.map(|(layers, width)| format!("{layers} layers, width {width}"));
    let context = number("context").map(|context| format!("context {context}"));
    let cpu = subject.env["cpu"].as_str().map(str::to_string);
    let threads = subject.env["threads"]
        .as_u64()
        .map(|threads| format!("{threads} {}", if threads == 1 { "thread" } else { "threads" }));
    let compute = subject.env["compute"].as_str().map(str::to_string);
    let parts = [shape, context, compute, threads, cpu];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// The figures at the top; those that are not known are left out.
pub(super) fn cards(subject: &Subject) -> Vec<Card> {
    let cards = learnt(&subject.history).into_iter().chain(spent(subject));
    cards.filter(|card| !card.value.is_empty()).collect()
}

fn card(label: &'static str, value: Option<String>, unit: &'static str, note: String) -> Card {
    Card { label, value: value.unwrap_or_default(), unit, note }
}

/// How good it became.
fn learnt(history: &History) -> [Card; 4] {
    let best = history.best;
    let bpb = best.and_then(|best| best.bpb).map(|bpb| decimal(bpb, 3));
    let at = best.map_or(String::new(), |best| format!("at step {}", count(best.step)));
    let loss = best.map(|best| decimal(best.loss, 3));
    let ppl = best.map_or(String::new(), |best| shown(Unit::Number, best.loss.exp()));
    let training = history.loss.smoothed().last().map(|point| decimal(point.1, 3));
    let skipped = match history.skipped {
        0 => String::new(),
        skipped => format!("{} steps skipped", count(skipped)),
    };
    let compiled = history.compile.last;
    let interval = compiled.map_or(String::new(), |compiled| {
        let (low, high) = (shown(Unit::Share, compiled.low), shown(Unit::Share, compiled.high));
        format!("{} of {}, 95 % interval {low} to {high}", compiled.compiled, compiled.samples)
    });
    let rate = compiled.map(|compiled| shown(Unit::Share, compiled.rate));
    [
        card("best bits per byte", bpb, "", at),
        card("best validation loss", loss, "", format!("perplexity {ppl}")),
        card("training loss", training, "", skipped),
        card("completions that compile", rate, "", interval),
    ]
}

/// What it took.
fn spent(subject: &Subject) -> [Card; 5] {
    let history = &subject.history;
    let planned = subject.planned_steps().filter(|planned| *planned != subject.steps());
    let of = planned.map_or(String::new(), |planned| format!("of {}", count(planned)));
    let steps = (!history.is_empty()).then(|| count(subject.steps()));
    let tokens = history.tokens.map(|tokens| shown(Unit::Count, tokens as f64));
    let speed = subject.tokens_per_s().map(|speed| count(speed as u64));
    let peak = subject.peak_bytes().map(|bytes| shown(Unit::Bytes, bytes));
    let bytes = |name: &str, bytes: f64| format!("{name} {}", shown(Unit::Bytes, bytes));
    let limit = subject.limit_bytes().map(|limit| bytes("limit", limit as f64));
    let process = subject.outcome["peak_rss_mib"].as_f64();
    let process = process.map(|mib| bytes("process", mib * f64::from(1 << 20)));
    let memory = [limit, process].into_iter().flatten().collect::<Vec<_>>().join(", ");
    [
        card("steps", steps, "", of),
        card("learnt from", tokens, "tokens", String::new()),
        card("time", subject.seconds().map(clock), "", String::new()),
        card("speed", speed, "tokens/s", String::new()),
        card("memory at most", peak, "", memory),
    ]
}

/// What happened, in order.
pub(super) fn events(history: &History) -> Vec<Event> {
    let row = |event: &super::history::Happened| Event {
        step: count(event.step),
        event: match &event.kind {
            Some(kind) => format!("{}: {kind}", event.event),
            None => event.event.clone(),
        },
        text: event.text.clone(),
        alarm: event.event == "alarm",
    };
    history.events.iter().map(row).collect()
}

/// Samples, the newest first.
pub(super) fn samples(history: &History) -> Vec<SampleSet> {
    let sets = history.samples.iter().rev().filter(|set| !set.texts.is_empty());
    sets.map(|set| SampleSet { step: count(set.step), texts: set.texts.clone() }).collect()
}

/// Peak bytes by tag: of the whole run where it has ended, of its steps until then.
pub(super) fn bytes(subject: &Subject) -> Bytes {
    let (ledger, history) = (&subject.ledger, &subject.history);
    let tags = Tag::ALL.map(Tag::name);
    let peak = |tag: &str| {
        ledger[tag]["peak"]
            .as_f64()
            .or_else(|| history.bytes.get(tag).and_then(|trace| trace.max()))
    };
    let plan = |tag: &str| subject.plan["by_tag"][tag].as_f64();
    let known = tags.iter().map(|tag| (*tag, peak(tag).unwrap_or(0.0), plan(tag)));
    let known: Vec<_> = known.filter(|row| row.1 > 0.0 || row.2 > Some(0.0)).collect();
    let total = subject
        .peak_bytes()
        .map(|peak| ("all at once", peak, subject.plan["total_bytes"].as_f64()));
    let most = known.iter().map(|row| row.1).fold(0.0, f64::max);
    let of = |bytes: f64| shown(Unit::Bytes, bytes);
    let row = |(tag, peak, plan): (&str, f64, Option<f64>), total: bool| TagBytes {
        tag: tag.to_string(),
        peak: of(peak),
        plan: plan.map_or("–".into(), of),
        share: if total { 0.0 } else { (100.0 * peak / most.max(1.0)).round() },
        total,
    };
    let rows = known.iter().map(|tag| row(*tag, false)).chain(total.map(|total| row(total, true)));
    Bytes { planned: known.iter().any(|row| row.2.is_some()), rows: rows.collect() }
}

/// `env.json` as names and texts.
pub(super) fn environment(env: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let parts =
                parts.iter().map(|part| part.as_str().map_or(part.to_string(), str::to_string));
            parts.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    let entries = env.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    entries.map(|(name, value)| (name.replace('_', " "), text(value))).collect()
}

/// Keys that have a default and are not at it. What was automatic has none.
pub(super) fn changed(config: &Table) -> Vec<Changed> {
    let defaults = to_table(&Config::default()).map(|table| flat(&table)).unwrap_or_default();
    let differs = |(key, value): (String, String)| {
        let default = defaults.get(&key).filter(|default| **default != value)?.clone();
        Some(Changed { key, value, default })
    };
    flat(config).into_iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn clocks_and_environments_read_well() {
        assert_eq!([clock(0.4), clock(61.0), clock(3723.0)], ["0:00", "1:01", "1:02:03"]);
        let env = json!({ "cpu": "A", "threads": 2, "source_commit": null, "command": ["a", "b"] });
        let rows = environment(&env);
        let expected = [("command", "a b"), ("cpu", "A"), ("threads", "2")];
        assert_eq!(rows, expected.map(|(name, text)| (name.to_string(), text.to_string())));
        assert!(environment(&Value::Null).is_empty());
    }

    #[test]
    fn only_keys_with_another_default_count_as_changed() {
        let config = "seed = 7\nthreads = 2\n[train]\ngrad_accum = 1\nkeep = 9\n".parse().unwrap();
        let keys: Vec<_> = changed(&config).into_iter().map(|changed| changed.key).collect();
        assert_eq!(keys, ["seed", "train.keep"]);
    }
}
