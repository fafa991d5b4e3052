//! Where text goes: data to standard output, everything for people to standard error or, where no
//! `--json` is asked for, to standard output as well.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

/// One line on standard output. A reader that went away ends the process quietly.
///
/// # Errors
/// Whatever the system says, a closed pipe excepted.
pub(crate) fn line(text: impl Display) -> Result<()> {
    piece(format_args!("{text}\n"))
}

/// Text on standard output, at once.
///
/// # Errors
/// As for [`line()`].
pub(crate) fn piece(text: impl Display) -> Result<()> {
    match write(text) {
        // `smidgen runs list | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("cannot write to standard output"),
    }
}

/// One line on standard output for work that goes on whoever reads: a reader that went away is
/// nobody's loss.
///
/// # Errors
/// As for [`line()`].
pub(crate) fn line_of_work(text: impl Display) -> Result<()> {
    match write(format_args!("{text}\n")) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn write(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush())
}

/// One object on one line on standard output.
///
/// # Errors
/// As for [`line()`].
pub(crate) fn json(object: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(object)?)
}

/// Whether lines for people are objects too, because a program reads standard error.
static NOTES_AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on every line of [`note`] is an object with one field, `note`.
pub(crate) fn notes_as_json() {
    NOTES_AS_JSON.store(true, Relaxed);
}

/// One line for a person on standard error; a closed one is nobody's loss.
pub(crate) fn note(text: impl Display) {
    let _ = match NOTES_AS_JSON.load(Relaxed) {
        true => writeln!(io::stderr().lock(), "{}", json!({ "note": text.to_string() })),
        false => writeln!(io::stderr().lock(), "{text}"),
    };
}

/// The first column of a table is not cut below this.
const LEAST_WIDTH: usize = 8;

/// Rows of a label and right-aligned figures.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns of texts; the others are figures.
    left: &'static [usize],
}

impl Table {
    /// A table with a heading; columns after the first are aligned to the right.
    pub(crate) fn new(heading: &[&str]) -> Table {
        Table { rows: vec![heading.iter().map(|cell| cell.to_string()).collect()], left: &[0] }
    }

    /// Aligns these columns to the left, and no other.
    pub(crate) fn left(self, left: &'static [usize]) -> Table {
        Table { left, ..self }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Fits the terminal, where standard output is one, by cutting the cells of the first column.
    pub(crate) fn fitted(self) -> Table {
        match terminal_size::terminal_size_of(io::stdout()) {
            Some((width, _)) => self.within(usize::from(width.0)),
            None => self,
        }
    }

    fn within(mut self, limit: usize) -> Table {
        let widths = self.widths();
        let whole: usize = widths.iter().map(|width| width + 2).sum();
        let first = widths.first().copied().unwrap_or(0);
        let first = first.saturating_sub(whole.saturating_sub(limit)).max(LEAST_WIDTH);
        for cell in self.rows.iter_mut().filter_map(|row| row.first_mut()) {
            *cell = cut(cell, first);
        }
        self
    }

    /// Characters of each column.
    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

/// A text of at most `width` characters; an ellipsis says that there was more.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

/// A figure with so many decimals, or a dash where there is none.
pub(crate) fn decimals(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths = self.widths();
        let lines = self.rows.iter().map(|row| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if self.left.contains(&column) {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
            format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_string()
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// A count with a thin separation of thousands: `1 234 567`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let first = digits.len() % 3;
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && i % 3 == first {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_well() {
        assert_eq!([count(7), count(999), count(1000)], ["7", "999", "1 000"]);
        assert_eq!([count(123_456), count(1_234_567)], ["123 456", "1 234 567"]);
    }

    #[test]
    fn columns_are_aligned_and_ends_are_trimmed() {
        let mut table = Table::new(&["part", "ms"]);
        table.row(["head", "1.0"]);
        table.row(["backward", "10.0"]);
        assert_eq!(table.to_string(), "  part        ms\n  head       1.0\n  backward  10.0");
    }

    #[test]
    fn a_table_too_wide_is_cut_in_its_first_column() {
        let mut table = Table::new(&["name", "steps"]);
        table.row(["a-rather-long-name", "1 000"]);
        assert_eq!(table.to_string().lines().map(str::len).max(), Some(27));
        let text = table.within(24).to_string();
        assert_eq!(text, "  name             steps\n  a-rather-long-…  1 000");
        let mut table = Table::new(&["name", "steps"]);
        table.row(["a-rather-long-name", "1 000"]);
        assert!(table.within(3).to_string().contains("a-rathe…  1 000"));
    }
}
