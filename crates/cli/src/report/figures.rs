//! Which charts a report has.

use smidgen_codec::Tag;

use super::chart::{Axis, Chart, Ink, Kind, Mark, Point, Series, Unit, shown};
use super::history::{Happened, History};
use super::subject::Subject;
use super::trace::Trace;

/// Buckets of stacked areas: their outlines are long.
const STACKED: usize = 240;
/// Buckets of all runs of one chart together.
const COMPARED: usize = 4096;
/// A limit this many times above everything says nothing in a chart.
const FAR: f64 = 3.0;

fn steps() -> Axis {
    Axis::new("step", Unit::Count)
}

/// The charts of one run; those without data are left out.
pub(crate) fn of_run(subject: &Subject) -> Vec<Chart> {
    let history = &subject.history;
    let all = [
        loss(history),
        bits(history),
        compile(history),
        rates(history),
        one("throughput", "Throughput", "tokens per second", Unit::Number, &history.tok_s),
        memory(subject),
        gradients(history),
        one("wait", "Waiting for data", "share of the step", Unit::Share, &history.wait),
        one("entropy", "Entropy of predictions", "nats per token", Unit::Number, &history.entropy),
        one("power", "Power", "watts", Unit::Number, &history.power_w),
    ];
    all.into_iter().filter(|chart| !chart.is_empty()).collect()
}

fn loss(history: &History) -> Chart {
    let y = Axis::new("loss in nats per token", Unit::Number);
    let mut chart = Chart::new("loss", "Loss", steps(), y);
    chart.series = raw_and_smoothed("training", Ink::Series(0), &history.loss);
    chart.series.push(Series::line("validation", Ink::Series(1), history.val_loss.means()));
    let averaged = "validation, averaged weights";
    chart.series.push(Series::line(averaged, Ink::Series(2), history.ema_loss.means()));
    chart.series.retain(|series| !series.points.is_empty());
    chart.note = smoothed_note(&history.loss);
    chart.marks = history.events.iter().map(mark).collect();
    chart.wide = true;
    chart
}

fn bits(history: &History) -> Chart {
    let y = Axis::new("bits per byte of held-out text", Unit::Number);
    let mut chart = Chart::new("bpb", "Bits per byte", steps(), y);
    let lines = [
        ("validation", Ink::Series(1), &history.val_bpb),
        ("averaged weights", Ink::Series(2), &history.ema_bpb),
    ];
    let lines = lines.into_iter().filter(|line| !line.2.is_empty());
    chart.series = lines.map(|(name, ink, trace)| Series::line(name, ink, trace.means())).collect();
    chart
}

fn compile(history: &History) -> Chart {
    let y = Axis::new("share of sampled completions that compile", Unit::Share).including([0.0]);
    let mut chart = Chart::new("compile", "Compile rate", steps(), y);
    let values = |trace: &Trace| trace.means().into_iter().map(|point| point.1).collect();
    let kind = Kind::Area { lower: values(&history.compile.low), alpha: 50 };
    let (ink, high) = (Ink::Series(3), history.compile.high.means());
    chart.series.push(Series::line("95 % interval", ink, high).kind(kind));
    chart.series.push(Series::line("rate", ink, history.compile.rate.means()));
    chart
}

/// One line for each rate that differs from the others.
fn rates(history: &History) -> Chart {
    let mut chart = Chart::new(
        "rate",
        "Learning rate",
        steps(),
        Axis::new("rate", Unit::Number).including([0.0]),
    );
    let mut lines: Vec<(String, Vec<Point>)> = Vec::new();
    for (name, trace) in &history.lr {
        let points = trace.means();
        match lines.iter_mut().find(|line| line.1 == points) {
            Some(line) => line.0 = format!("{}, {name}", line.0),
            None => lines.push((name.clone(), points)),
        }
    }
    if lines.is_empty() {
        chart.y.label = "share of the base rate".into();
        lines.push((String::new(), history.lr_multiplier.means()));
    }
    let line = |(n, (name, points))| Series::line(name, Ink::Series(n), points);
    chart.series = lines.into_iter().enumerate().map(line).collect();
    chart
}

fn gradients(history: &History) -> Chart {
    let label = "global norm before clipping";
    let mut chart = one("gradients", "Gradient norm", label, Unit::Number, &history.grad_norm);
    let ends = (history.grad_norm.min(), history.grad_norm.max());
    if let (Some(min), Some(max)) = ends
        && min > 0.0
        && max > 50.0 * min
    {
        chart.y = chart.y.log();
    }
    chart.marks =
        history.events.iter().filter(|event| event.event != "pressure").map(mark).collect();
    chart
}

/// A chart of one series, from zero.
fn one(name: &'static str, title: &'static str, label: &str, unit: Unit, trace: &Trace) -> Chart {
    let mut chart = Chart::new(name, title, steps(), Axis::new(label, unit).including([0.0]));
    chart.series = raw_and_smoothed("", Ink::Series(0), trace);
    chart
}

/// Tags upon each other, the total and the limit.
fn memory(subject: &Subject) -> Chart {
    let history = &subject.history;
    let y = Axis::new("peak bytes of a step", Unit::Bytes).including([0.0]);
    let mut chart = Chart::new("memory", "Memory", steps(), y);
    chart.series = stacked(history);
    let total = history.total_bytes.reduced(STACKED).peaks();
    let (ends, most) = (total.first().zip(total.last()), history.total_bytes.max());
    if let (Some((first, last)), Some(limit), Some(most)) = (ends, subject.limit_bytes(), most) {
        let limit = limit as f64;
        if limit < FAR * most {
            let points = vec![(first.0, limit), (last.0, limit)];
            chart.series.push(Series::line("limit", Ink::Alarm, points).kind(Kind::Dashed));
        } else {
            chart.note = format!("The limit, {}, is far above.", shown(Unit::Bytes, limit));
        }
    }
    if !chart.series.is_empty() && chart.series[0].points.len() > 1 {
        chart.note.insert_str(0, "Tags peak at different moments, so together less than stacked. ");
    }
    if !total.is_empty() {
        chart.series.push(Series::line("all at once", Ink::Text, total));
    }
    chart.marks =
        history.events.iter().filter(|event| event.event == "pressure").map(mark).collect();
    chart
}

/// The areas of the tags, the first below; tags that hold nothing are left out.
fn stacked(history: &History) -> Vec<Series> {
    let known = Tag::ALL.map(Tag::name);
    let unknown = history.bytes.keys().map(String::as_str).filter(|name| !known.contains(name));
    let mut floor: Vec<Point> = Vec::new();
    let mut areas = Vec::new();
    for (n, name) in known.into_iter().chain(unknown).enumerate() {
        let Some(trace) = history.bytes.get(name).filter(|trace| trace.max() > Some(0.0)) else {
            continue;
        };
        let peaks = trace.reduced(STACKED).peaks();
        if floor.len() != peaks.len() {
            // The first tag, or one that came late: nothing below it where it begins.
            floor.resize(peaks.len(), (0.0, 0.0));
        }
        let lower: Vec<f64> = floor.iter().map(|point| point.1).collect();
        let upper: Vec<Point> = peaks.iter().zip(&lower).map(|(p, low)| (p.0, p.1 + low)).collect();
        floor.clone_from(&upper);
        let kind = Kind::Area { lower, alpha: 170 };
        areas.push(Series::line(name, Ink::Series(n), upper).kind(kind));
    }
    areas
}

fn raw_and_smoothed(name: &str, ink: Ink, trace: &Trace) -> Vec<Series> {
    let smoothed = Series::line(name, ink, trace.smoothed());
    if trace.smoothed_over() == 1 {
        return vec![smoothed];
    }
    vec![Series::line("", ink, trace.raw()).kind(Kind::Faint), smoothed]
}

fn smoothed_note(trace: &Trace) -> String {
    match trace.smoothed_over() {
        1 => String::new(),
        over => format!("The training line is a mean over {over} steps; single steps are faint."),
    }
}

fn mark(event: &Happened) -> Mark {
    let (name, ink) = match event.event.as_str() {
        "alarm" => ("alarm", Ink::Alarm),
        "rollback" | "restore" => ("went back", Ink::Change),
        "pressure" => ("memory pressure", Ink::Change),
        "stop" => ("stopped early", Ink::Muted),
        "extend" => ("extended", Ink::Muted),
        _ => ("event", Ink::Muted),
    };
    Mark { at: event.step as f64, ink, name }
}

/// A chart that compares: name, title, axis, which series of a run, and which points of it.
type Compared =
    (&'static str, &'static str, Axis, fn(&History) -> &Trace, fn(&Trace) -> Vec<Point>);

/// Charts with one line for each run.
pub(crate) fn of_runs(subjects: &[Subject]) -> Vec<Chart> {
    let number = |label: &str| Axis::new(label, Unit::Number);
    let bytes = Axis::new("peak bytes of a step", Unit::Bytes).including([0.0]);
    let smoothed = number("smoothed loss in nats per token");
    let speed = number("tokens per second").including([0.0]);
    let all: [Compared; 5] = [
        ("compare-loss", "Training loss", smoothed, |h| &h.loss, Trace::smoothed),
        ("compare-val", "Validation loss", number("nats per token"), |h| &h.val_loss, Trace::means),
        ("compare-bpb", "Bits per byte", number("of held-out text"), |h| &h.val_bpb, Trace::means),
        ("compare-throughput", "Throughput", speed, |h| &h.tok_s, Trace::smoothed),
        ("compare-memory", "Memory", bytes, |h| &h.total_bytes, Trace::peaks),
    ];
    let buckets = COMPARED / subjects.len().max(1);
    let charts = all.into_iter().map(|(name, title, y, trace, points)| {
        let mut chart = Chart::new(name, title, steps(), y);
        chart.wide = name == "compare-loss";
        let line = |(n, subject): (usize, &Subject)| {
            let points = points(&trace(&subject.history).reduced(buckets));
            Series::line(subject.name.clone(), Ink::Series(n), points)
        };
        chart.series = subjects.iter().enumerate().map(line).collect();
        chart
    });
    charts.filter(|chart| !chart.is_empty()).collect()
}
