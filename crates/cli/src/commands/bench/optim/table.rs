//! The table: means over seeds, made from the log alone.

use anyhow::Result;

use super::log::{Line, Run};
use crate::out::{self, Table};

/// The group whose rule, format and projection are compared.
const COVERED: &str = "matrices";

/// One configuration.
#[derive(Debug)]
pub(super) struct Row {
    name: String,
    rule: String,
    state: String,
    projection: String,
    seeds: usize,
    /// Covered values, and bytes of state for each of them.
    covered: usize,
    state_per_value: f64,
    /// Bytes of state of everything else.
    other_state: usize,
    peak_anon_mib: f64,
    step_ms: f64,
    update_ms: f64,
    /// Share of the copy bandwidth that the updates reach, by the bytes they cannot do without.
    bandwidth: f64,
    val_loss: f64,
    /// Largest less smallest validation loss of the seeds.
    spread: f64,
    /// Mean training loss when the fastest configuration had done its steps.
    loss_at_time: f64,
    refused: Option<String>,
}

/// The rows of a log, in its order.
pub(super) fn rows(lines: &[Line]) -> Vec<Row> {
    let mut names: Vec<&str> = Vec::new();
    lines.iter().for_each(|line| {
        if !names.contains(&line.name.as_str()) {
            names.push(&line.name);
        }
    });
    let clock = lines.iter().filter_map(|line| line.run.as_ref().map(seconds));
    let clock = clock.fold(f64::INFINITY, f64::min);
    let of = |name| lines.iter().filter(|line| line.name == name).collect::<Vec<_>>();
    names.into_iter().map(|name| row(&of(name), clock)).collect()
}

fn row(lines: &[&Line], clock: f64) -> Row {
    let first = lines[0];
    let runs: Vec<&Run> = lines.iter().filter_map(|line| line.run.as_ref()).collect();
    let mean =
        |of: &dyn Fn(&Run) -> f64| runs.iter().map(|run| of(run)).sum::<f64>() / runs.len() as f64;
    let losses = || runs.iter().map(|run| run.val_loss);
    let group = |covered: bool| {
        let of = |run: &&&Run| {
            run.groups.clone().into_iter().filter(move |g| (g.group == COVERED) == covered)
        };
        let groups: Vec<_> = runs.first().iter().flat_map(of).collect();
        let values: usize = groups.iter().map(|group| group.values).sum();
        (values, groups.iter().map(|group| group.state_bytes).sum::<usize>())
    };
    let ((covered, state), (others, other_state)) = (group(true), group(false));
    let update_ms = mean(&|run| 1e3 * run.update_seconds / run.steps as f64);
    // Weights and state are read and written, gradients read.
    let traffic = (12 * (covered + others) + 2 * (state + other_state)) as f64;
    Row {
        name: first.name.clone(),
        rule: first.rule.clone(),
        state: match &first.second {
            None => first.state.clone(),
            Some(second) => format!("{} and {second}", first.state),
        },
        projection: first.projection.clone().unwrap_or_else(|| "none".into()),
        seeds: runs.len(),
        covered,
        state_per_value: state as f64 / covered as f64,
        other_state,
        peak_anon_mib: mean(&|run| run.peak_anon_mib),
        step_ms: mean(&|run| 1e3 * seconds(run) / run.steps as f64),
        update_ms,
        bandwidth: traffic / (update_ms * 1e-3) / (first.copy_gb_s * 1e9),
        val_loss: mean(&|run| run.val_loss),
        spread: losses().fold(f64::MIN, f64::max) - losses().fold(f64::MAX, f64::min),
        loss_at_time: mean(&|run| loss_at(run, clock)),
        refused: first.refused.clone(),
    }
}

/// Seconds of all steps.
fn seconds(run: &Run) -> f64 {
    run.tokens as f64 / run.tokens_per_s
}

/// The training loss after so many seconds of steps, which are about equally long.
fn loss_at(run: &Run, clock: f64) -> f64 {
    let points = (clock / seconds(run) * run.curve.len() as f64).round() as usize;
    run.curve.get(points.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

const HEADING: [&str; 15] = [
    "configuration",
    "rule",
    "state",
    "projection",
    "seeds",
    "covered values",
    "state bytes a value",
    "other state bytes",
    "peak MiB",
    "step ms",
    "update ms",
    "of copy bandwidth",
    "validation loss",
    "spread",
    "training loss at equal time",
];

fn cells(row: &Row) -> Vec<String> {
    if let Some(refused) = &row.refused {
        let empty = std::iter::repeat_n(String::new(), HEADING.len() - 5);
        let known = [&row.name, &row.rule, &row.state, &row.projection].map(Clone::clone);
        return known.into_iter().chain([refused.clone()]).chain(empty).collect();
    }
    vec![
        row.name.clone(),
        row.rule.clone(),
        row.state.clone(),
        row.projection.clone(),
        row.seeds.to_string(),
        row.covered.to_string(),
        format!("{:.4}", row.state_per_value),
        row.other_state.to_string(),
        format!("{:.1}", row.peak_anon_mib),
        format!("{:.2}", row.step_ms),
        format!("{:.3}", row.update_ms),
        format!("{:.2}", row.bandwidth),
        format!("{:.4}", row.val_loss),
        format!("{:.4}", row.spread),
        format!("{:.4}", row.loss_at_time),
    ]
}

/// Comma-separated values; a cell with a comma or a quote is quoted.
pub(super) fn csv(rows: &[Row]) -> Result<String> {
    let quoted = |cell: String| match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    };
    let line =
        |cells: Vec<String>| cells.into_iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
    let heading = line(HEADING.map(str::to_string).to_vec());
    Ok(rows.iter().map(cells).map(line).fold(heading, |text, line| text + &line))
}

/// The table for people: what matters most of it.
pub(super) fn show(rows: &[Row]) -> Result<()> {
    let shown = [0, 6, 8, 9, 10, 12, 13, 14];
    let mut table = Table::new(&shown.map(|column| HEADING[column])).fitted();
    for row in rows.iter().filter(|row| row.refused.is_none()) {
        let cells = cells(row);
        table.row(shown.map(|column| cells[column].clone()));
    }
    out::line(table)?;
    for row in rows {
        if let Some(refused) = &row.refused {
            out::line(format!("  {}: {refused}", row.name))?;
        }
    }
    Ok(())
}
