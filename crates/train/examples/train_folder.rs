//! Trains on a folder and tells the events, without the command line:
//! `cargo run --release -p smidgen-train --example train_folder -- PATH RUN_DIR [KEY=VALUE ...]`.

use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use smidgen_train::{Config, Context, Event, train};

fn show(event: Event<'_>) -> std::io::Result<()> {
    let mut out = stderr();
    match event {
        Event::Plan(plan) => writeln!(
            out,
            "width {}, {} layers, {} parameters, vocabulary {}, context {}, batch {}, {} steps, \
             {:.1} epochs, about {:.1} minutes, {} MiB",
            plan.spec.width,
            plan.spec.layers,
            plan.params,
            plan.spec.vocab,
            plan.context(),
            plan.batch(),
            plan.steps,
            plan.epochs(),
            plan.minutes,
            plan.total_bytes >> 20,
        ),
        Event::Step(step) if step.step.is_multiple_of(50) => writeln!(
            out,
            "step {} of {:?}: loss {:.4}, {:.0} tok/s, {:.0} s",
            step.step, step.steps, step.mean_loss, step.tokens_per_s, step.seconds,
        ),
        Event::Validation { step, score, .. } => {
            writeln!(out, "validation {step}: loss {:.4}, bpb {:?}", score.loss, score.bpb)
        }
        Event::Sample(text) => writeln!(out, "---\n{text}\n---"),
        Event::Horizon { steps } => writeln!(out, "horizon: {steps} steps"),
        Event::Notice(text) => writeln!(out, "note: {text}"),
        _ => Ok(()),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, run, sets @ ..] = arguments.as_slice() else {
        return Err("usage: train_folder PATH RUN_DIR [KEY=VALUE ...]".into());
    };
    let config = Config::read(Path::new(source), sets)?;
    let stop = AtomicBool::new(false);
    let mut progress = |event: Event<'_>| {
        // Nobody may be reading; the run goes on.
        let _ = show(event);
    };
    let outcome = train(&config, Path::new(run), Context::new(&mut progress, &stop))?;
    writeln!(stdout(), "{}", serde_json::to_string(&outcome)?)?;
    Ok(())
}
