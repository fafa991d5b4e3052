//! What methods were worth, side by side: one row per method and budget, all on the same questions.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::{Interval, Spread};
use crate::Error;
use crate::methods::{Column, Measured};

/// A table of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The task.
    pub task: String,
    /// The method that differences are to.
    pub baseline: String,
    /// Questions.
    pub n: u64,
    /// SHA-256 of their ids.
    pub example_ids_hash: String,
    /// In the order of measuring.
    pub rows: Vec<TableRow>,
    /// What a reader should doubt.
    pub warnings: Vec<String>,
}

/// One method under one budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRow {
    /// Its name.
    pub method: String,
    /// The budget as asked for.
    pub budget: String,
    /// Whether it knew what it could not know over a real link.
    pub is_upper_bound: bool,
    /// Bytes of a payload.
    pub bytes: Spread,
    /// Share of right answers.
    pub accuracy: Interval,
    /// Accuracy less that of the baseline on the same questions; none for the baseline itself.
    pub difference: Option<Interval>,
}

/// Mean and interval of some values that are resampled by cluster.
type Estimate<'a> = &'a dyn Fn(&[f64], &[u64]) -> Result<Interval, Error>;

impl Table {
    /// The table of what was measured. `estimate` gives mean and interval of values `[n]` whose
    /// clusters are `[n]`; differences are taken question by question and resampled as such.
    ///
    /// # Errors
    /// [`Error::UnknownName`] for a baseline that was not measured, those of `estimate`.
    pub fn of(
        task: &str,
        measured: &Measured,
        baseline: &str,
        estimate: Estimate<'_>,
    ) -> Result<Table, Error> {
        let methods = measured.columns.iter().map(|column| column.method.as_str());
        let unknown = || Error::unknown("method", baseline, methods);
        let base = measured.column(baseline, None).ok_or_else(unknown)?;
        let row = |column: &Column| -> Result<TableRow, Error> {
            let (right, of_base) = (column.right(), base.right());
            let apart: Vec<f64> = right.iter().zip(&of_base).map(|(a, b)| a - b).collect();
            let is_base = std::ptr::eq(column, base);
            let difference =
                (!is_base).then(|| estimate(&apart, &measured.clusters)).transpose()?;
            Ok(TableRow {
                method: column.method.clone(),
                budget: column.budget.to_string(),
                is_upper_bound: column.is_upper_bound,
                bytes: Spread::of(&column.bytes())?,
                accuracy: estimate(&right, &measured.clusters)?,
                difference,
            })
        };
        let name = |i: usize| {
            let column = &measured.columns[i];
            format!("`{}` at {}", column.method, column.budget)
        };
        let alike = measured.alike().into_iter();
        Ok(Table {
            task: task.into(),
            baseline: baseline.into(),
            n: measured.ids.len() as u64,
            example_ids_hash: measured.ids_sha256()?,
            rows: measured.columns.iter().map(row).collect::<Result<_, _>>()?,
            warnings: alike
                .map(|(i, j)| format!("{} and {} gave the same answers", name(i), name(j)))
                .collect(),
        })
    }

    /// Comma-separated values, one header line; `bool`s as 0 and 1, nothing for what is not there.
    pub fn to_csv(&self) -> String {
        let mut text = String::from(
            "task,method,budget,upper_bound,n,bytes_mean,bytes_p50,bytes_p95,\
             accuracy,accuracy_low,accuracy_high,difference,difference_low,difference_high\n",
        );
        for row in &self.rows {
            let TableRow { bytes, accuracy, difference, .. } = row;
            let difference = difference.map_or(",,".into(), |d| plain(&[d.mean, d.low, d.high]));
            let cells = [
                quoted(&self.task),
                quoted(&row.method),
                quoted(&row.budget),
                u8::from(row.is_upper_bound).to_string(),
                self.n.to_string(),
                plain(&[bytes.mean, bytes.p50, bytes.p95]),
                plain(&[accuracy.mean, accuracy.low, accuracy.high]),
                difference,
            ];
            text += &cells.join(",");
            text.push('\n');
        }
        text
    }

    /// Markdown for people: percentages, intervals in brackets, upper bounds marked.
    pub fn to_markdown(&self) -> String {
        let mut text =
            format!("{}: {} questions, differences to `{}`\n\n", self.task, self.n, self.baseline);
        text += "| method | budget | bytes mean | p50 | p95 | accuracy % | difference |\n";
        text += "|---|---|---:|---:|---:|---|---|\n";
        for row in &self.rows {
            let mark = if row.is_upper_bound { " (upper bound)" } else { "" };
            let difference = row.difference.map_or(String::from("-"), |d| percent(&d, true));
            let Spread { mean, p50, p95, .. } = row.bytes;
            let (method, accuracy) = (escaped(&row.method), percent(&row.accuracy, false));
            let budget = escaped(&row.budget);
            writeln!(
                text,
                "| {method}{mark} | {budget} | {mean:.0} | {p50:.0} | {p95:.0} | {accuracy} | {difference} |"
            )
            .expect("a string takes every write");
        }
        if !self.warnings.is_empty() {
            text.push('\n');
        }
        for warning in &self.warnings {
            text += &format!("- {warning}\n");
        }
        text
    }
}

fn plain(values: &[f64]) -> String {
    values.iter().map(f64::to_string).collect::<Vec<_>>().join(",")
}

/// `81.2 [79.0, 83.1]`, with a sign where it is a difference.
fn percent(interval: &Interval, signed: bool) -> String {
    let [mean, low, high] = [interval.mean, interval.low, interval.high].map(|x| 100.0 * x);
    match signed {
        true => format!("{mean:+.1} [{low:+.1}, {high:+.1}]"),
        false => format!("{mean:.1} [{low:.1}, {high:.1}]"),
    }
}

/// A cell of comma-separated values, in quotes where it needs them.
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.into(),
    }
}

fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|")
}
