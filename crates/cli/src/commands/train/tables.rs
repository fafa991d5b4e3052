//! The texts around a run: what was found, what is planned, what came out.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use smidgen_data::{Skipped, Summary, Tally};
use smidgen_store::Bytes;
use smidgen_train::{Choice, CompileRate, Outcome, Outlook, Plan, Sample};

use super::screen::clock;
use crate::out::{Table, count};

/// Kinds of files that get a line of their own.
const KINDS: usize = 8;
/// Columns of a sample and its prompt in one line, and of the prompt alone.
const LINE_WIDTH: usize = 72;
const PROMPT_WIDTH: usize = 30;
/// Columns of an example's name.
const NAME_WIDTH: usize = 36;

/// A path as it can be typed into a shell.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%:,=".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// What was taken, by extension, and what was left, by reason, with an example of each.
pub(super) fn scanned(
    summary: &Summary,
    skipped: &[Skipped],
    train_bytes: u64,
    val_bytes: u64,
) -> String {
    let mut text = taken(summary).to_string();
    if !summary.by_reason.is_empty() {
        text = format!("{text}\n\n{}", left(summary, skipped));
    }
    let (train, val) = (Bytes(train_bytes), Bytes(val_bytes));
    format!("{text}\n\n  split: {train} to learn from, {val} held out")
}

fn taken(summary: &Summary) -> Table {
    let mut table = Table::new(&["took", "documents", "bytes"]);
    let mut kinds: Vec<(&String, &Tally)> = summary.by_extension.iter().collect();
    kinds.sort_by_key(|(name, tally)| (Reverse(tally.bytes), *name));
    let shown = if kinds.len() > KINDS + 1 { KINDS } else { kinds.len() };
    for (name, tally) in &kinds[..shown] {
        table.row([name.to_string(), count(tally.count), Bytes(tally.bytes).to_string()]);
    }
    let rest = &kinds[shown..];
    if !rest.is_empty() {
        let sum = |of: fn(&Tally) -> u64| rest.iter().map(|(_, tally)| of(tally)).sum::<u64>();
        let bytes = Bytes(sum(|tally| tally.bytes)).to_string();
        table.row([format!("{} other kinds", rest.len()), count(sum(|tally| tally.count)), bytes]);
    }
    let all = &summary.taken;
    table.row(["together".into(), count(all.count), Bytes(all.bytes).to_string()]);
    table
}

fn left(summary: &Summary, skipped: &[Skipped]) -> Table {
    let mut examples = BTreeMap::new();
    for thing in skipped {
        examples.entry(thing.reason.label()).or_insert(thing);
    }
    let mut table = Table::new(&["skipped", "count", "for example"]).left(&[0, 2]);
    for (label, tally) in &summary.by_reason {
        let example = examples.get(label).map_or(String::new(), |thing| shortened(&thing.name));
        table.row([label.to_string(), count(tally.count), example]);
    }
    table
}

/// The end of a long name says more than its beginning.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME_WIDTH {
        return name.to_string();
    }
    let end: String = name.chars().skip(length - NAME_WIDTH + 3).collect();
    format!("...{end}")
}

/// Model, data, steps and bytes, before anything is spent.
pub(crate) fn plan(plan: &Plan) -> String {
    let (spec, config) = (&plan.spec, &plan.config);
    let mut table = Table::new(&["plan", ""]).left(&[0, 1]);
    let mut row = |name: &str, text: String| table.row([name.to_string(), text]);
    let millions = plan.params as f64 / 1e6;
    row("model", format!("{millions:.2} M parameters, vocabulary {}", count(spec.vocab as u64)));
    let heads = match spec.kv_heads == spec.heads {
        true => many(spec.heads, "head"),
        false => format!("{} on {}", many(spec.heads, "head"), spec.kv_heads),
    };
    let (layers, width) = (spec.layers, spec.width);
    let layers = many(layers, "layer");
    row("", format!("{layers}, width {width}, {heads}, feed-forward {}", spec.ffn));
    let about = if plan.encoded { "" } else { "about " };
    let (train, val) = (count(plan.train_tokens), count(plan.val_tokens));
    row("tokens", format!("{about}{train} to learn from, {val} held out"));
    let (batch, context) = (plan.batch(), plan.context());
    let accum = config.train.grad_accum;
    let accum = if accum > 1 { format!(" x {accum} micro-batches") } else { String::new() };
    let steps = if config.train.steps.is_some() { "" } else { "about " };
    row("steps", format!("{steps}{} of {batch} x {context} tokens{accum}", count(plan.steps)));
    row("", format!("{:.1} passes over the text", plan.epochs()));
    let (format, threads) = (plan.compute().format().name(), many(plan.threads(), "thread"));
    row("compute", format!("{format}, {threads}"));
    let limit = config.train.max_minutes.map(|limit| format!(", at most {limit} by the clock"));
    let minutes =
        if plan.minutes < 0.1 { "under 0.1".into() } else { format!("about {:.1}", plan.minutes) };
    row("minutes", format!("{minutes}{}", limit.unwrap_or_default()));
    let decided = decided(&plan.choice);
    format!("{table}\n\n{}\n\n{decided}", bytes(plan))
}

/// `1 head`, `2 heads`.
fn many(count: usize, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// Bytes by tag, each at its own time, and together.
fn bytes(plan: &Plan) -> Table {
    let (choice, mut table) = (&plan.choice, Table::new(&["bytes", "at most"]));
    let mut row = |name: &str, bytes| table.row([name.to_string(), Bytes(bytes).to_string()]);
    plan.bytes.iter().for_each(|(tag, bytes)| row(tag, *bytes));
    row("at once", plan.total_bytes);
    row("process", choice.process_bytes);
    row("together", choice.needed_bytes);
    row("limit", choice.memory_bytes);
    table
}

/// What was changed to fit, and what was preferred and does not.
fn decided(choice: &Choice) -> Table {
    let mut table = Table::new(&["memory", ""]).left(&[0, 1]);
    let mut row = |name: &str, text: String| table.row([name.to_string(), text]);
    let or_as_asked =
        |levers: &[String]| if levers.is_empty() { "as asked".into() } else { levers.join(", ") };
    row(if choice.fits { "fits" } else { "does not fit" }, or_as_asked(&choice.levers));
    if let Some(over) =
        choice.needed_bytes.checked_sub(choice.memory_bytes).filter(|_| !choice.fits)
    {
        row("", format!("the smallest there is, and {} too much", Bytes(over)));
    }
    if let Some(rejected) = &choice.rejected {
        row("rejected", or_as_asked(&rejected.levers));
        let (needed, over) = (Bytes(rejected.needed_bytes), Bytes(rejected.over_bytes));
        row("", format!("needs {needed}, {over} too much"));
    }
    if let Some(offer) = &choice.offer {
        let names: Vec<&str> = offer.allow.iter().map(|relax| relax.name()).collect();
        row("offered", format!("--allow {}", names.join(",")));
        row("", format!("{}: {}", offer.levers.join(", "), Bytes(offer.needed_bytes)));
    }
    table
}

/// A plan that is looked at: what it needs, what was decided, which contexts fit.
pub(crate) fn outlook(outlook: &Outlook) -> String {
    let mut table = Table::new(&["tier", "tokens", "granted", "bytes", ""]).left(&[0, 2, 4]);
    for tier in &outlook.tiers {
        let bytes = tier.needed_bytes.map_or("-".to_string(), |bytes| Bytes(bytes).to_string());
        let granted = if tier.granted { "yes" } else { "no" }.to_string();
        let context = count(tier.context as u64);
        table.row([tier.name.to_string(), context, granted, bytes, tier.reason.clone()]);
    }
    let available = Bytes(outlook.available_bytes);
    format!("{}\n\n{table}\n\n  the machine could give {available} now", plan(&outlook.plan))
}

/// What came out of a finished run.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let bpb = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.3}"));
    let loss = outcome.val_loss.map_or("-".to_string(), |loss| format!("{loss:.3}"));
    let best = outcome.best_step.map_or(String::new(), |step| format!(" at step {step}"));
    let mut table = Table::new(&["done", ""]).left(&[0, 1]);
    let mut row = |name: &str, text: String| table.row([name.to_string(), text]);
    row("run", shown(&outcome.run_dir));
    let (steps, tokens) = (count(outcome.steps), count(outcome.tokens));
    row("trained", format!("{steps} steps, {tokens} tokens in {}", clock(outcome.seconds)));
    if outcome.stopped_early {
        row("", "stopped early: validations no longer improved".into());
    }
    // Outcomes of earlier versions name no result.
    if (1..outcome.steps).contains(&outcome.result_step) {
        row("result", format!("the weights of step {}", count(outcome.result_step)));
    }
    row("validation", format!("{} bits per byte, loss {loss}", bpb(outcome.val_bpb)));
    if outcome.ema_loss.is_some() {
        row("averaged", format!("{} bits per byte", bpb(outcome.ema_bpb)));
    }
    if let Some(CompileRate { samples, compiled, low, high, .. }) = outcome.compile {
        let (low, high) = (100.0 * low, 100.0 * high);
        row(
            "compiled",
            format!("{compiled} of {samples} ({low:.0} to {high:.0} % with 95 % certainty)"),
        );
    }
    row("best", format!("{} bits per byte{best}", bpb(outcome.best_val_bpb)));
    row("speed", format!("{:.0} tokens/s", outcome.tokens_per_s));
    let (private, resident) = (outcome.peak_rss_anon_mib, outcome.peak_rss_mib);
    row("memory", format!("{private:.0} MiB private, {resident:.0} MiB resident at most"));
    if outcome.pressures > 0 {
        row("", format!("refused {}, and saved", many(outcome.pressures as usize, "time")));
    }
    table.to_string()
}

/// A prompt and what the model made of it, for the end of a run.
pub(super) fn sample(sample: &Sample) -> String {
    let name = match sample.prompt.is_empty() {
        true => "Sample from nothing".to_string(),
        false => format!("Sample after {:?}", ends(&sample.prompt, PROMPT_WIDTH)),
    };
    format!("\n{name}:\n{}", indented(&sample.text))
}

/// The same in one line, for a run that goes on.
pub(super) fn one_line(sample: &Sample) -> String {
    let Sample { prompt, text } = sample;
    let prompt = ends(prompt, PROMPT_WIDTH);
    let room = LINE_WIDTH.saturating_sub(prompt.chars().count());
    let mut text: String = text.chars().take(room).collect();
    text.retain(|c| !c.is_control() || c == '\n');
    format!("{} | {}", prompt.replace('\n', " "), text.replace('\n', " "))
}

/// The end of a text, cut to a width, without control characters.
fn ends(text: &str, width: usize) -> String {
    let clean: Vec<char> = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    clean[clean.len().saturating_sub(width)..].iter().collect()
}

/// A text set off from ours; control characters of a model must not reach the terminal.
pub(super) fn indented(text: &str) -> String {
    let clean = |c: &char| !c.is_control() || *c == '\t';
    let lines =
        text.lines().map(|line| format!("  | {}", line.chars().filter(clean).collect::<String>()));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_data::Reason;

    #[test]
    fn what_was_found_is_shown_by_kind_and_by_reason() {
        let taken = Tally { count: 12, bytes: 3 << 20 };
        let mut summary = Summary { taken, ..Summary::default() };
        for (i, name) in "abcdefghijkl".chars().enumerate() {
            let tally = Tally { count: 1, bytes: (12 - i as u64) << 10 };
            summary.by_extension.insert(name.to_string(), tally);
        }
        summary.by_reason.insert("binary", Tally { count: 2, bytes: 10 });
        let name = "a/very/long/path/to/some/picture/of/a/cat.png".to_string();
        let skipped = [Skipped { name, reason: Reason::Binary, bytes: 5 }];
        let text = scanned(&summary, &skipped, 1000, 24);
        assert!(text.contains("4 other kinds") && text.contains("...") && text.contains("cat.png"));
        assert!(text.ends_with("split: 1000 B to learn from, 24 B held out"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn paths_can_be_typed_into_a_shell() {
        assert_eq!(shown(Path::new("runs/a-1")), "runs/a-1");
        assert_eq!(shown(Path::new("my runs/it's")), r"'my runs/it'\''s'");
    }

    #[test]
    fn samples_cannot_move_the_cursor() {
        assert_eq!(indented("a\u{1b}[2Jb\n\tc"), "  | a[2Jb\n  | \tc");
    }
}
