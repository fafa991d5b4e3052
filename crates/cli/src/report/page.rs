//! The page: figures, charts and tables of runs as one HTML file that needs nothing else.
//!
//! The template escapes whatever it is given; the only texts it takes as they are come from here
//! (charts and style), and a policy in the page's head forbids loading or running anything.

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::Serialize;

use super::chart::{Chart, Size, dark_rules, svg};
use super::compare::{Compare, compare};
use super::subject::{Standing, Subject};
use super::{figures, tables};

const PAGE: &str = include_str!("page.html");
const MAIN: &str = include_str!("main.html");
const STYLE: &str = include_str!("style.css");
/// Of more runs than this the charts of each one are left out: a page stays under two megabytes.
const WITH_CHARTS: usize = 4;

/// What a chart is on a page: drawn for a desk and for a telephone, one of which shows.
#[derive(Serialize)]
pub(super) struct Figure {
    name: &'static str,
    title: &'static str,
    note: String,
    wide: bool,
    large: String,
    small: String,
}

/// One run.
#[derive(Serialize)]
struct Section {
    name: String,
    path: String,
    standing: Standing,
    summary: String,
    cards: Vec<tables::Card>,
    figures: Vec<Figure>,
    /// Whether nothing was measured yet.
    empty: bool,
    /// Whether there are charts that are not shown.
    left_out: bool,
    happened: Vec<tables::Event>,
    more_events: usize,
    samples: Vec<tables::SampleSet>,
    ledger: tables::Bytes,
    environment: Vec<(String, String)>,
    changed: Vec<tables::Changed>,
    config: String,
}

/// Everything below the head of the page.
#[derive(Serialize)]
struct Main {
    title: String,
    compare: Option<Compare>,
    runs: Vec<Section>,
    version: &'static str,
}

/// The whole page; a live one asks for its inside again and again.
///
/// # Errors
/// Only where the template is wrong.
pub(crate) fn page(subjects: &[Subject], live: bool) -> Result<String> {
    let main = Value::from(Serde(main_of(subjects)));
    let style = STYLE.replace("/* charts in the dark */", &dark_rules());
    render("page.html", context! { main, live, style })
}

/// The inside of the page alone.
///
/// # Errors
/// As for [`page`].
pub(crate) fn inside(subjects: &[Subject]) -> Result<String> {
    render("main.html", context! { main => Value::from(Serde(main_of(subjects))) })
}

fn render(name: &str, values: Value) -> Result<String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.context("the page's template")?);
    // A misspelt name in the template is a failure and not an empty place.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    for (name, text) in [("page.html", PAGE), ("main.html", MAIN)] {
        environment.add_template(name, text).context("the page's template")?;
    }
    let template = environment.get_template(name).context("the page's template")?;
    template.render(values).context("cannot write the page")
}

fn main_of(subjects: &[Subject]) -> Main {
    let title = match subjects {
        [one] => one.name.clone(),
        many => format!("{} runs", many.len()),
    };
    let compare = (subjects.len() > 1).then(|| compare(subjects));
    let runs =
        subjects.iter().map(|subject| section(subject, subjects.len() <= WITH_CHARTS)).collect();
    Main { title, compare, runs, version: env!("CARGO_PKG_VERSION") }
}

fn section(subject: &Subject, with_charts: bool) -> Section {
    let history = &subject.history;
    let charts = if with_charts { figures::of_run(subject) } else { Vec::new() };
    Section {
        name: subject.name.clone(),
        path: subject.path().display().to_string(),
        standing: subject.standing,
        summary: tables::summary(subject),
        cards: tables::cards(subject),
        figures: charts.iter().map(figure).collect(),
        empty: history.is_empty(),
        left_out: !with_charts && !history.is_empty(),
        happened: tables::events(history),
        more_events: history.more_events,
        samples: tables::samples(history),
        ledger: tables::bytes(subject),
        environment: tables::environment(&subject.env),
        changed: tables::changed(&subject.config),
        config: subject.config_text.clone(),
    }
}

/// A chart at both sizes of a page.
pub(super) fn figure(chart: &Chart) -> Figure {
    let large = if chart.wide { Size::Wide } else { Size::Half };
    Figure {
        name: chart.name,
        title: chart.title,
        note: chart.note.clone(),
        wide: chart.wide,
        large: svg(chart, large),
        small: svg(chart, Size::Narrow),
    }
}
