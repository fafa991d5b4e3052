//! `bench formats`: bits, error and speed of every number format.
//!
//! Speed is that of one thread on values in memory, not in a cache, the best of several passes.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use smidgen_codec::quality::{Row, row, rows};
use smidgen_codec::{Format, Level, Packed, Rng, Rounding, Stream};
use smidgen_train::cpu_name;

use crate::out;

/// Values timed: 64 MiB of them, more than a cache has.
const TIMED: usize = 1 << 24;
/// Time spent on each figure.
const ENOUGH: Duration = Duration::from_millis(400);
/// The page around the table.
const PAGE: &str = include_str!("page.md");

/// Bits per value, error and speed of number formats, beside the speed of a copy.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  smidgen bench formats int8/256 nf4\n  \
    smidgen bench formats --markdown > docs/formats.md")]
pub(crate) struct Args {
    /// Formats [default: every one]
    formats: Vec<String>,
    /// Print the page of the documentation
    #[arg(long, conflicts_with_all = ["formats", "json"])]
    markdown: bool,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// What a format keeps, and how fast.
#[derive(Debug, Serialize)]
struct Measured {
    format: String,
    bits_per_value: f64,
    nrmse_normal: f64,
    nrmse_stochastic: f64,
    /// Of values like second moments: the median and the 95th percentile of the relative error, and
    /// the share that becomes 0.
    moments: [f64; 3],
    speed: Speed,
}

/// Encode, stochastic encode and decode.
#[derive(Clone, Copy, Debug, Serialize)]
struct Speed {
    /// G values per second.
    rates: [f64; 3],
    /// Shares of the bytes per second that a copy reads and writes.
    shares: [f64; 3],
}

impl Speed {
    fn cells(&self) -> [String; 3] {
        let cell = |(rate, share): (&f64, &f64)| format!("{rate:.2} ({:.0} %)", 100.0 * share);
        let mut cells = self.rates.iter().zip(&self.shares).map(cell);
        [(); 3].map(|()| cells.next().expect("three rates"))
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rows = match args.formats.as_slice() {
        [] => rows(),
        names => {
            let named = |name: &String| Ok(row(&Format::by_name(name)?));
            names.iter().map(named).collect::<Result<Vec<Row>>>()?
        }
    };
    let timer = Timer::new();
    let timed = |row: Row| {
        out::note(format_args!("timing {}", row.name));
        let speed = timer.time(&Format::by_name(&row.name)?)?;
        Ok((row, speed))
    };
    let all = rows.into_iter().map(timed).collect::<Result<Vec<(Row, Speed)>>>()?;
    if args.markdown {
        let line = |(row, speed): &(Row, Speed)| {
            format!("{} {} |\n", row.columns(), speed.cells().join(" | "))
        };
        let machine = format!(
            "one core of {} ({}), where a copy moves {:.0} GB/s",
            cpu_name(),
            Level::detect().name(),
            timer.copy
        );
        let table: String = all.iter().map(line).collect();
        return out::piece(PAGE.replace("{table}\n", &table).replace("{machine}", &machine));
    }
    if args.json {
        return out::json(&all.into_iter().map(measured).collect::<Vec<_>>());
    }
    let mut table = out::Table::new(&[
        "format",
        "bits",
        "error",
        "moments",
        "become 0",
        "encode G/s",
        "stochastic",
        "decode",
    ]);
    for (row, speed) in &all {
        let kept = [
            row.name.clone(),
            format!("{:.3}", row.bits),
            format!("{:.4}", row.normal),
            format!("{:.3}", row.moments.median),
            format!("{:.1} %", 100.0 * row.moments.flushed),
        ];
        table.row(kept.into_iter().chain(speed.cells()));
    }
    out::line(table)
}

fn measured((row, speed): (Row, Speed)) -> Measured {
    Measured {
        format: row.name,
        bits_per_value: row.bits,
        nrmse_normal: row.normal,
        nrmse_stochastic: row.stochastic,
        moments: [row.moments.median, row.moments.upper, row.moments.flushed],
        speed,
    }
}

/// Values in memory, and room for what they become.
struct Timer {
    values: Vec<f32>,
    back: Vec<f32>,
    /// G bytes per second that a copy reads and writes.
    copy: f64,
}

impl Timer {
    fn new() -> Self {
        let mut values = vec![0.0; 1 << 16];
        Rng::new(1, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
        let (values, mut back) = (values.repeat(TIMED >> 16), vec![1.0; TIMED]);
        let copy = 8.0 * rate(|| back.copy_from_slice(&values));
        Self { values, back, copy }
    }

    /// The speed of one format.
    fn time(&self, format: &Format) -> Result<Speed> {
        let shape = [TIMED >> 12, 1 << 12];
        let mut back = self.back.clone();
        let mut packed = Packed::encode(format.clone(), shape, &self.values, Rounding::Nearest)?;
        let stochastic = Rounding::Stochastic { key: 3, first_index: 0 };
        let rates = [
            rate(|| packed.encode_from(&self.values, Rounding::Nearest).expect("the same shape")),
            rate(|| packed.encode_from(&self.values, stochastic).expect("the same shape")),
            rate(|| packed.decode_into(&mut back).expect("the same shape")),
        ];
        let bytes = 4.0 + packed.layout().bits_per_value() / 8.0;
        Ok(Speed { rates, shares: rates.map(|rate| rate * bytes / self.copy) })
    }
}

/// G values per second, of the best pass.
fn rate(mut pass: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < ENOUGH {
        let start = Instant::now();
        pass();
        best = best.min(start.elapsed().as_secs_f64());
    }
    TIMED as f64 / best / 1e9
}
