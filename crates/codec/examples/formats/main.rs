//! Writes `docs/formats.md`: `cargo run --release -p smidgen-codec --example formats > docs/formats.md`.
//!
//! Speed is that of one thread on values in memory, not in a cache, the best of several passes;
//! with names of formats, those alone are timed and nothing else is shown.
#![allow(clippy::print_stdout)]

mod table;

use std::time::{Duration, Instant};

use smidgen_codec::{Format, Packed, Rng, Rounding, Stream};

/// Values timed: 64 MiB of them, more than a cache has.
const TIMED: usize = 1 << 24;
/// Time spent on each figure.
const ENOUGH: Duration = Duration::from_millis(400);
/// The page around the table.
const PAGE: &str = include_str!("page.md");

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let timer = Timer::new();
    if names.is_empty() {
        return print!("{}", PAGE.replace("{table}\n", &whole_table(&timer)));
    }
    for name in names {
        match Format::by_name(&name) {
            Ok(format) => println!("{name:24} {}", timer.time(&format)),
            Err(error) => println!("{error}"),
        }
    }
}

fn whole_table(timer: &Timer) -> String {
    let line = |row: table::Row| {
        let format = Format::by_name(&row.name).expect("a row has the name of a format");
        format!("{} {} |\n", row.columns(), timer.time(&format))
    };
    table::rows().into_iter().map(line).collect()
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

    /// Encode, stochastic encode and decode: G values per second, and the share of the bytes per
    /// second of a copy.
    fn time(&self, format: &Format) -> String {
        let shape = [TIMED >> 12, 1 << 12];
        let mut back = self.back.clone();
        let coded = Packed::encode(format.clone(), shape, &self.values, Rounding::Nearest);
        let mut packed = coded.expect("as many values as the shape says");
        let stochastic = Rounding::Stochastic { key: 3, first_index: 0 };
        let rates = [
            rate(|| packed.encode_from(&self.values, Rounding::Nearest).expect("the same shape")),
            rate(|| packed.encode_from(&self.values, stochastic).expect("the same shape")),
            rate(|| packed.decode_into(&mut back).expect("the same shape")),
        ];
        let bytes = 4.0 + packed.layout().bits_per_value() / 8.0;
        let share = |rate: f64| 100.0 * rate * bytes / self.copy;
        rates.map(|rate| format!("{rate:.2} ({:.0} %)", share(rate))).join(" | ")
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
