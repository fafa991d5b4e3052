//! What a person sees while a run goes: a moving line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smidgen_store::Bytes;
use smidgen_train::{Event, LrPoint, Outcome, Progress, Sample, Status, StepEvent, Validation};

use super::{RUNS, tables};
use crate::out;

/// Plain lines come no closer together than this, so that a log stays readable.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// Steps of a range test between plain lines.
const RANGE_LINES: u32 = 20;
/// The moving line has a position, and before the clock has fixed the steps only a count.
const WITH_END: &str = "  step {pos}/{len} [{wide_bar:.green}] {msg}";
const WITHOUT_END: &str = "  step {pos} {msg}";

/// Shows the events of a run.
pub(crate) struct Screen {
    /// Text for people goes to standard error, because standard output is for the object.
    to_stderr: bool,
    /// Present on a terminal that is not a build server's.
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    /// What the model wrote at the last validation.
    samples: Vec<Sample>,
    /// The watcher of the stop flag ends when this is dropped.
    _watched: Sender<()>,
    /// What does not go through the library's error type: a closed standard output.
    failed: Option<anyhow::Error>,
}

impl Screen {
    pub(crate) fn new(json: bool, stop: Arc<AtomicBool>) -> Screen {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        let moves = std::io::stderr().is_terminal() && !is_ci;
        let bar = moves.then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(8);
            ProgressBar::with_draw_target(None, target).with_style(style(WITHOUT_END))
        });
        Screen {
            to_stderr: json,
            last_line: None,
            samples: Vec::new(),
            _watched: watch(stop, bar.clone()),
            failed: None,
            bar,
        }
    }

    /// A line above the moving one.
    pub(super) fn say(&mut self, text: impl std::fmt::Display) {
        let to_stderr = self.to_stderr;
        let print = || match to_stderr {
            true => {
                out::note(&text);
                Ok(())
            }
            false => out::line_of_work(&text),
        };
        let done = match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        };
        if let Err(error) = done {
            self.failed.get_or_insert(error);
        }
    }

    /// The first failure to show something.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    fn step(&mut self, event: &StepEvent) {
        let figures = figures(event);
        if let Some(bar) = &self.bar {
            if bar.length() != event.steps {
                bar.set_style(style(if event.steps.is_some() { WITH_END } else { WITHOUT_END }));
                event.steps.map_or_else(|| bar.unset_length(), |steps| bar.set_length(steps));
            }
            bar.set_message(figures);
            return bar.set_position(event.step);
        }
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= PLAIN_EVERY);
        if is_due || event.steps == Some(event.step) {
            self.last_line = Some(Instant::now());
            let steps = event.steps.map_or(String::new(), |steps| format!("/{steps}"));
            self.say(format_args!("  step {}{steps}  {figures}", event.step));
        }
    }

    fn range(&mut self, index: u32, steps: u32, point: &LrPoint) {
        let LrPoint { lr, smoothed, .. } = point;
        let figures = format!("rate {lr:.1e}  loss {smoothed:.3}");
        match &self.bar {
            Some(bar) => {
                bar.set_style(style(WITH_END));
                bar.set_length(steps.into());
                bar.set_message(figures);
                bar.set_position(u64::from(index) + 1);
            }
            None if (index + 1).is_multiple_of(RANGE_LINES) => {
                self.say(format_args!("  step {}/{steps}  {figures}", index + 1));
            }
            None => {}
        }
    }

    /// One line while the run goes; all of them are shown at its end.
    fn samples(&mut self, samples: &[Sample]) {
        if let Some(first) = samples.first() {
            self.say(format_args!("    {}", tables::one_line(first)));
        }
        self.samples = samples.to_vec();
    }

    fn done(&mut self, outcome: &Outcome) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        for sample in std::mem::take(&mut self.samples) {
            self.say(tables::sample(&sample));
        }
        let text = match outcome.status {
            Status::Finished => finished(outcome),
            Status::Interrupted => interrupted(outcome),
        };
        self.say(text);
    }
}

/// Tells a person at once that Ctrl-C was heard: the step it waits for may be a long one.
fn watch(stop: Arc<AtomicBool>, bar: Option<ProgressBar>) -> Sender<()> {
    let (alive, ended) = mpsc::channel();
    std::thread::spawn(move || {
        while ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
            if stop.load(Relaxed) {
                let say =
                    || out::note("stopping: the step is saved first; Ctrl-C again ends at once");
                return bar.map_or_else(say, |bar| bar.suspend(say));
            }
        }
    });
    alive
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is a constant that a test reads")
        .progress_chars("=> ")
}

/// `loss 3.412  8745 tok/s  310 MiB  1:23 left`.
fn figures(event: &StepEvent) -> String {
    let rate = event.tokens_per_s;
    let memory = Bytes(event.peak_bytes);
    let loss = if event.skipped { "skipped".into() } else { format!("{:.3}", event.mean_loss) };
    let left = event.steps.filter(|_| event.step > 0 && rate > 0.0).map(|steps| {
        let tokens = event.tokens as f64 / event.step as f64;
        clock(steps.saturating_sub(event.step) as f64 * tokens / rate)
    });
    let left = left.map_or_else(|| clock(event.seconds), |left| format!("{left} left"));
    format!("loss {loss}  {rate:.0} tok/s  {memory}  {left}")
}

/// `1:02:03`, `2:03`.
pub(super) fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

fn validation(step: u64, score: &Validation, ema: Option<&Validation>, best: bool) -> String {
    let bpb = score.bpb.map_or(String::new(), |bpb| format!(", {bpb:.3} bits per byte"));
    let averaged = ema.map(|ema| ema.bpb.unwrap_or(ema.loss));
    let averaged = averaged.map_or(String::new(), |ema| format!(" ({ema:.3} averaged)"));
    let compile = score.compile.map_or(String::new(), |compile| {
        format!(", {} of {} compile", compile.compiled, compile.samples)
    });
    let bpb = bpb + &averaged + &compile;
    let best = if best { "  (best so far)" } else { "" };
    format!("  step {step}: validation loss {:.3}{bpb}{best}", score.loss)
}

fn finished(outcome: &Outcome) -> String {
    let (run, program) = (tables::shown(&outcome.run_dir), program());
    let folder = outcome.run_dir.parent().filter(|folder| *folder != Path::new(RUNS));
    let folder = match folder {
        Some(folder) if folder.as_os_str().is_empty() => " .".into(),
        Some(folder) => format!(" {}", tables::shown(folder)),
        None => String::new(),
    };
    format!(
        "{}\n\nNext:\n  {program} generate {run} --prompt \"...\"\n  {program} report {run}\n  \
         {program} runs list{folder}",
        tables::outcome(outcome)
    )
}

fn interrupted(outcome: &Outcome) -> String {
    let run = tables::shown(&outcome.run_dir);
    format!(
        "\nInterrupted and saved at step {}. Go on with:\n  {} train --resume {run}",
        outcome.steps,
        program()
    )
}

/// This program as it was called, so that the next command can be copied.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    // A bare name was found on the search path, and will be again.
    if called.components().count() > 1 { tables::shown(&called) } else { "smidgen".into() }
}

impl Progress for Screen {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Scanned { summary, skipped, train_bytes, val_bytes } => {
                self.say(tables::scanned(summary, skipped, train_bytes, val_bytes));
            }
            Event::Tokenizing { vocab } => {
                self.say(format_args!("\nTraining a tokenizer of {vocab} tokens ..."));
            }
            Event::Prepared { vocab, train_tokens, val_tokens } => self.say(format_args!(
                "Tokenizer: {vocab} tokens; {} to learn from, {} held out",
                out::count(train_tokens),
                out::count(val_tokens)
            )),
            Event::Outlook(outlook) => {
                self.say(format_args!("\n{}\n", tables::outlook(outlook)));
            }
            Event::Plan(plan) => self.say(format_args!("\n{}\n", tables::plan(plan))),
            Event::Resumed { step } => self.say(format_args!("Going on from step {step}")),
            Event::Horizon { steps } => {
                self.say(format_args!("  the time is enough for {steps} steps"));
            }
            Event::Range { index, steps, point } => self.range(index, steps, point),
            Event::Step(event) => self.step(event),
            Event::Validation { step, score, ema, best } => {
                self.say(validation(step, &score, ema.as_ref(), best));
            }
            Event::Checkpoint { .. } => {}
            Event::Samples { samples, .. } => self.samples(samples),
            Event::Notice(text) => self.say(format_args!("note: {text}")),
            Event::Done { outcome, .. } => self.done(outcome),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> StepEvent {
        StepEvent {
            step: 10,
            steps: Some(110),
            loss: 4.0,
            mean_loss: 3.41234,
            multiplier: 1.0,
            grad_norm: None,
            skipped: false,
            tokens: 20_480,
            tokens_per_s: 2048.0,
            peak_bytes: 310 << 20,
            seconds: 10.0,
        }
    }

    #[test]
    fn figures_fit_beside_a_bar_in_80_columns() {
        assert_eq!(figures(&event()), "loss 3.412  2048 tok/s  310 MiB  1:40 left");
        let open = StepEvent { steps: None, ..event() };
        assert_eq!(figures(&open), "loss 3.412  2048 tok/s  310 MiB  0:10");
        let line = format!("  step 1234/12345 [====]  {}", figures(&event()));
        assert!(line.len() <= 72, "{line}");
    }

    #[test]
    fn templates_are_legal_and_clocks_read_well() {
        style(WITH_END);
        style(WITHOUT_END);
        assert_eq!([clock(0.2), clock(61.0), clock(3723.0)], ["0:00", "1:01", "1:02:03"]);
    }
}
