//! Several runs beside each other: what they were told, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use smidgen_store::config::flat;

use super::chart::{Ink, Unit, shown};
use super::figures;
use super::page::{Figure, figure};
use super::subject::{Standing, Subject};
use super::tables::{clock, decimal};
use crate::out::count;

/// Several runs.
#[derive(Serialize)]
pub(super) struct Compare {
    headings: Vec<&'static str>,
    rows: Vec<Row>,
    figures: Vec<Figure>,
    names: Vec<String>,
    /// Keys that are not the same in every run, with the value of each.
    config: Vec<(String, Vec<String>)>,
}

/// One run.
#[derive(Serialize)]
struct Row {
    name: String,
    /// Its colour in the charts.
    colour: String,
    standing: Standing,
    cells: Vec<Cell>,
}

/// One figure of one run.
#[derive(Clone, Serialize)]
struct Cell {
    text: String,
    /// Whether no other run has a better one.
    best: bool,
}

/// A column: its heading, the figure of a run, how it reads, and whether less is better.
struct Column {
    heading: &'static str,
    value: fn(&Subject) -> Option<f64>,
    text: fn(f64) -> String,
    better: Better,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Less,
    More,
    Neither,
}

const COLUMNS: [Column; 8] = [
    Column {
        heading: "steps",
        value: |subject| Some(subject.steps() as f64),
        text: |value| count(value as u64),
        better: Better::Neither,
    },
    Column {
        heading: "tokens",
        value: |subject| subject.history.tokens.map(|tokens| tokens as f64),
        text: |value| shown(Unit::Count, value),
        better: Better::Neither,
    },
    Column {
        heading: "time",
        value: |subject| subject.seconds(),
        text: clock,
        better: Better::Neither,
    },
    Column {
        heading: "best bits per byte",
        value: |subject| subject.history.val_bpb.min(),
        text: |value| decimal(value, 3),
        better: Better::Less,
    },
    Column {
        heading: "best validation loss",
        value: |subject| subject.history.val_loss.min(),
        text: |value| decimal(value, 3),
        better: Better::Less,
    },
    Column {
        heading: "compile rate",
        value: |subject| subject.history.compile.last.map(|compiled| compiled.rate),
        text: |value| shown(Unit::Share, value),
        better: Better::More,
    },
    Column {
        heading: "tokens/s",
        value: |subject| subject.tokens_per_s(),
        text: |value| count(value as u64),
        better: Better::More,
    },
    Column {
        heading: "peak memory",
        value: |subject| subject.peak_bytes(),
        text: |value| shown(Unit::Bytes, value),
        better: Better::Less,
    },
];

/// The comparison of these runs.
pub(super) fn compare(subjects: &[Subject]) -> Compare {
    // A column in which no run has a figure says nothing.
    let columns =
        COLUMNS.iter().filter(|column| subjects.iter().any(|s| (column.value)(s).is_some()));
    let columns: Vec<(&Column, Vec<Cell>)> =
        columns.map(|column| (column, cells(column, subjects))).collect();
    let rows = subjects.iter().enumerate().map(|(n, subject)| Row {
        name: subject.name.clone(),
        colour: Ink::Series(n).hex(),
        standing: subject.standing,
        cells: columns.iter().map(|(_, cells)| cells[n].clone()).collect(),
    });
    Compare {
        headings: columns.iter().map(|(column, _)| column.heading).collect(),
        rows: rows.collect(),
        figures: figures::of_runs(subjects).iter().map(figure).collect(),
        names: subjects.iter().map(|subject| subject.name.clone()).collect(),
        config: differences(subjects),
    }
}

fn cells(column: &Column, subjects: &[Subject]) -> Vec<Cell> {
    let values: Vec<Option<f64>> = subjects.iter().map(column.value).collect();
    let known = || values.iter().flatten().copied();
    let best = match column.better {
        Better::Less => known().reduce(f64::min),
        Better::More => known().reduce(f64::max),
        Better::Neither => None,
    };
    let cell = |value: &Option<f64>| Cell {
        text: value.map_or("–".into(), column.text),
        best: best.is_some() && *value == best,
    };
    values.iter().map(cell).collect()
}

/// Keys whose values differ between the runs.
fn differences(subjects: &[Subject]) -> Vec<(String, Vec<String>)> {
    let all: Vec<BTreeMap<String, String>> = subjects.iter().map(|s| flat(&s.config)).collect();
    let keys: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let row = |key: &String| {
        let value =
            |config: &BTreeMap<_, String>| config.get(key).map_or("–".into(), String::clone);
        (key.clone(), all.iter().map(value).collect::<Vec<String>>())
    };
    let rows = keys.into_iter().map(row);
    rows.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}
