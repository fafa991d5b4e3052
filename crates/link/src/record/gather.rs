//! Parts of a record that the measured rows say.

use std::collections::BTreeMap;

use super::{BudgetRecord, ByteBreakdown, PrecisionRecord, Spread};
use crate::Error;
use crate::methods::{Column, PayloadKind, Row, Stage};

impl BudgetRecord {
    /// Caps and bytes of a column.
    ///
    /// # Errors
    /// [`Error::Length`] for no rows.
    pub fn of(column: &Column) -> Result<BudgetRecord, Error> {
        let capped: Vec<(u64, u64)> =
            column.rows.iter().filter_map(|row| Some((row.cap_bytes?, row.bytes))).collect();
        let spread = |value: fn(&(u64, u64)) -> u64| match capped.is_empty() {
            true => Ok(None),
            false => Spread::of(&capped.iter().map(|row| value(row) as f64).collect::<Vec<_>>())
                .map(Some),
        };
        let is_empty = |row: &&Row| row.kind == PayloadKind::Empty;
        Ok(BudgetRecord {
            budget: column.budget,
            cap_bytes: spread(|(cap, _)| *cap)?,
            actual_bytes: Spread::of(&column.bytes())?,
            slack_bytes: spread(|(cap, bytes)| cap - bytes)?,
            empty_items: column.rows.iter().filter(is_empty).count() as u64,
        })
    }
}

impl PrecisionRecord {
    /// Tokens and bits of what travelled in a column.
    pub fn of(column: &Column, allocator: Option<&str>) -> PrecisionRecord {
        let mut tokens: BTreeMap<String, u64> = BTreeMap::new();
        let (mut bytes, mut values) = (0, 0);
        for contents in column.rows.iter().map(|row| &row.contents) {
            for (name, count) in &contents.precisions {
                *tokens.entry(name.clone()).or_default() += count;
            }
            *tokens.entry("drop".into()).or_default() += contents.left_tokens;
            bytes += contents.bytes.payload_k + contents.bytes.payload_v;
            values += contents.values;
        }
        let effective_bits = 8.0 * bytes as f64 / values.max(1) as f64;
        PrecisionRecord { tokens, effective_bits, allocator: allocator.map(Into::into) }
    }
}

impl Column {
    /// What travelled, by what it was, all rows.
    pub fn breakdown(&self) -> ByteBreakdown {
        let mut sum = ByteBreakdown::default();
        for row in &self.rows {
            sum += ByteBreakdown { request: row.request_bytes, ..row.contents.bytes };
        }
        sum
    }

    /// How often each answer was given.
    pub fn answer_histogram(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for row in &self.rows {
            *counts.entry(row.answer.clone()).or_default() += 1;
        }
        counts
    }

    /// Milliseconds of every stage; none for one that no row went through.
    pub fn timings_ms(&self) -> BTreeMap<Stage, Option<Spread>> {
        let of = |stage| {
            let rows = self.rows.iter().filter_map(|row| row.timings_ms.get(&stage).copied());
            // The only error is that there are no values.
            (stage, Spread::of(&rows.collect::<Vec<_>>()).ok())
        };
        Stage::ALL.map(of).into()
    }
}
