//! `lr-find`: which learning rate a model can bear, before a run is spent on it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use smidgen_store::RunView;
use smidgen_train::{Config, Context, LrCurve, LrPoint, RangeTest, lr_find_run, lr_find_source};

use super::train::Screen;
use crate::exit::INTERRUPTED;
use crate::out::Table;
use crate::report::chart::{Axis, Chart, Ink, Kind, Mark, Series, Size, Unit, svg};
use crate::{out, signals};

/// Rows of the table at most.
const ROWS: usize = 20;
/// Columns of the longest bar.
const BAR: f64 = 30.0;

/// Try rising learning rates for some steps, and suggest one; nothing is kept of the training.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "On a run the test goes on from its newest checkpoint and changes nothing of it.\n\n\
    Examples:\n  smidgen lr-find notes/\n  \
    smidgen lr-find config.toml --out plots --set model.width=256\n  \
    smidgen lr-find runs/notes --high 0.1 --json"
)]
pub(crate) struct Args {
    /// A folder or file of text, a configuration, or a run
    #[arg(value_name = "PATH|CONFIG|RUN")]
    source: PathBuf,
    /// The lowest rate
    #[arg(long, value_name = "RATE", default_value_t = RangeTest::default().low, allow_negative_numbers = true)]
    low: f64,
    /// The highest rate
    #[arg(long, value_name = "RATE", default_value_t = RangeTest::default().high, allow_negative_numbers = true)]
    high: f64,
    /// Steps from the one to the other
    #[arg(long, value_name = "N", default_value_t = RangeTest::default().steps)]
    steps: u32,
    /// Set a key of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Write the curve into this folder, as a picture and as numbers
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one object on one line in place of the table
    #[arg(long)]
    json: bool,
}

/// Gives the exit code: 0, or 130 when it was interrupted.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let stop = signals::stop_flag()?;
    let test = RangeTest { low: args.low, high: args.high, steps: args.steps };
    let mut screen = Screen::new(args.json, stop.clone());
    let cx = Context::new(&mut screen, &stop);
    let curve = if RunView::open(&args.source).is_ok() {
        lr_find_run(&args.source, &test, cx)
    } else {
        let config = Config::read(&args.source, &args.sets)?;
        let scratch = tempfile::tempdir().context("cannot make a folder for the prepared data")?;
        lr_find_source(&config, &scratch.path().join("run"), &test, cx)
    };
    let shown = screen.finish();
    let curve = curve?;
    shown?;
    if stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Ok(INTERRUPTED);
    }
    let picture = args.out.as_deref().map(|dir| write(dir, &curve)).transpose()?;
    if args.json {
        out::json(&curve)?;
    } else {
        out::line(text(&curve, args, picture.as_deref()))?;
    }
    Ok(0)
}

/// The curve as a picture and as numbers.
fn write(dir: &Path, curve: &LrCurve) -> Result<PathBuf> {
    let file = |name: &str, text: String| -> Result<PathBuf> {
        let path = dir.join(name);
        smidgen_store::write_text(&smidgen_store::Disk, &path, &text)?;
        Ok(path)
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    file("lr-find.json", serde_json::to_string(curve)? + "\n")?;
    file("lr-find.svg", svg(&chart(curve), Size::File))
}

fn chart(curve: &LrCurve) -> Chart {
    let points = |of: fn(&LrPoint) -> f64| curve.points.iter().map(|p| (p.lr, of(p))).collect();
    let x = Axis::new("learning rate", Unit::Number).log();
    let y = Axis::new("loss (nats)", Unit::Number);
    let mark = |at: Option<f64>, ink, name| at.map(|at| Mark { at, ink, name });
    let marks = [
        mark(curve.tenth_of_best, Ink::Change, "a tenth of the best"),
        mark(curve.steepest, Ink::Muted, "steepest fall"),
    ];
    Chart {
        series: vec![
            Series::line("each batch", Ink::Series(0), points(|p| p.loss)).kind(Kind::Faint),
            Series::line("smoothed", Ink::Series(0), points(|p| p.smoothed)),
        ],
        marks: marks.into_iter().flatten().collect(),
        ..Chart::new("lr-find", "Loss over the learning rate", x, y)
    }
}

fn text(curve: &LrCurve, args: &Args, picture: Option<&Path>) -> String {
    let mut text = format!("\n{}", table(curve));
    let found = match (curve.tenth_of_best, curve.suggestion()) {
        (Some(tenth), Ok(lower)) => {
            let steepest = curve.steepest.map_or("nowhere".into(), |lr| format!("at {lr:.2e}"));
            let ends = if curve.diverged { "it diverged at the end" } else { "it did not diverge" };
            format!(
                "\nThe loss falls most steeply {steepest}; a tenth of the best rate is {tenth:.2e}; {ends}.\
                 \n\nNext:\n  smidgen train {} --lr {lower:.1e} --set schedule.kind=one-cycle",
                super::train::shown(&args.source)
            )
        }
        _ => "\nThe loss fell at none of these rates.".into(),
    };
    text.push_str(&found);
    if let Some(path) = picture {
        text.push_str(&format!("\n\nThe curve is in {}", super::train::shown(path)));
    }
    text
}

/// Some rates from the first to the last, with a bar for each loss.
fn table(curve: &LrCurve) -> Table {
    let points = &curve.points;
    let all = points.iter().map(|point| point.smoothed);
    let (least, most) = all.fold((f64::MAX, f64::MIN), |(a, b), loss| (a.min(loss), b.max(loss)));
    let mut table = Table::new(&["rate", "loss", "smoothed", ""]).left(&[3]);
    for point in points.iter().step_by(points.len().div_ceil(ROWS).max(1)) {
        let share = (point.smoothed - least) / (most - least).max(1e-12);
        let bar = "#".repeat((share * BAR).round() as usize);
        let LrPoint { lr, loss, smoothed } = point;
        table.row([format!("{lr:.2e}"), format!("{loss:.3}"), format!("{smoothed:.3}"), bar]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> LrCurve {
        let point = |i: i32| {
            let loss = f64::from((i - 60) * (i - 60)) / 900.0 + 1.0;
            LrPoint { lr: 10f64.powf(f64::from(i) / 20.0 - 5.0), loss, smoothed: loss }
        };
        LrCurve {
            points: (0..90).map(point).collect(),
            diverged: true,
            steepest: Some(1e-4),
            tenth_of_best: Some(1e-3),
        }
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let text = table(&curve()).to_string();
        assert!(text.lines().count() <= ROWS + 2 && text.contains("1.00e-5"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn the_picture_has_both_marks() {
        let picture = svg(&chart(&curve()), Size::File);
        assert!(picture.contains("a tenth of the best") && picture.contains("learning rate"));
    }
}
