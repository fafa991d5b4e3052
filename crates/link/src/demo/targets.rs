//! What was predicted of the preset `small`, beside what was measured.
//!
//! A share that is to be at chance has to have chance in its 95 % interval. A bound is *met* where the
//! interval lies on its right side, *missed* where it lies on the wrong one, and *open* where the interval
//! holds it. Where two models were measured alone, the better one is what the link is held against.

use serde::{Deserialize, Serialize};

use super::lines::{DELTA, DELTA_KV, LINKED, SHARER, SHUFFLED, TUNED, ZEROS};
use super::table::{RECEIVER, TaskTable};
use crate::stats::Interval;

/// A prediction and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// Id of the task.
    pub task: String,
    /// The line, or the line and what it is held against.
    pub what: String,
    /// The share, or the difference, that was predicted.
    pub asked: f64,
    /// How the measured one has to lie to it.
    pub bound: Bound,
    /// What was measured.
    pub measured: Interval,
    /// What follows.
    pub verdict: Verdict,
}

/// How a figure has to lie to a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Equal.
    Is,
    /// Not below.
    AtLeast,
    /// Above.
    Above,
}

/// What an interval says of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is so.
    Met,
    /// The interval holds the bound: it may be so.
    Open,
    /// It is not so.
    Missed,
}

impl Verdict {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Open => "open",
            Verdict::Missed => "missed",
        }
    }
}

impl Bound {
    /// What an interval says of a prediction.
    pub fn judge(self, asked: f64, measured: &Interval) -> Verdict {
        match self {
            Bound::Is if measured.holds(asked) => Verdict::Met,
            Bound::Is => Verdict::Missed,
            Bound::Above if measured.low > asked => Verdict::Met,
            Bound::AtLeast if measured.low >= asked => Verdict::Met,
            _ if measured.high < asked => Verdict::Missed,
            _ => Verdict::Open,
        }
    }
}

/// Lines whose share of right answers was predicted; none for chance.
const SHARES: &[(&str, &str, Option<f64>)] = &[
    ("t1", RECEIVER, None),
    ("t1", SHARER, Some(0.95)),
    ("t1", LINKED, Some(0.80)),
    ("t1", TUNED, None),
    ("t1", SHUFFLED, None),
    ("t1", ZEROS, None),
    ("t8", LINKED, None),
];

/// Differences of two lines, item by item, that were predicted.
const DIFFERENCES: &[(&str, [&str; 2], Bound, f64)] = &[
    ("t1", [LINKED, SHUFFLED], Bound::Above, 0.0),
    ("t1", ["c2c int8", LINKED], Bound::AtLeast, -0.01),
    ("t1", ["c2c int4", LINKED], Bound::AtLeast, -0.03),
    ("t2", [LINKED, SHUFFLED], Bound::Above, 0.0),
    ("t3", [LINKED, SHUFFLED], Bound::Above, 0.0),
    ("t3", [DELTA, "back p=0.25 int8"], Bound::Above, 0.0),
    ("t3", [DELTA, "random p=0.25 int8"], Bound::Above, 0.0),
    ("t3", [DELTA_KV, "back p=0.25 int8"], Bound::Above, 0.0),
    ("t3", [DELTA_KV, "random p=0.25 int8"], Bound::Above, 0.0),
    ("t4", [LINKED, SHUFFLED], Bound::Above, 0.0),
];

/// By how much two models together have to be better than either alone, and on which task.
const TOGETHER: (&str, f64) = ("t4", 0.30);

/// The allocator that is not to be worse than the second one at equal bytes, on any task.
const ALLOCATORS: [&str; 2] = ["rd_hull", "rd_greedy_v0"];

/// Every prediction that these tables can be held against.
pub(super) fn judge(tables: &[TaskTable]) -> Vec<Judged> {
    let mut all = Vec::new();
    for table in tables {
        let mut add = |what: String, bound: Bound, asked, measured: Interval| {
            let (task, verdict) = (table.task.clone(), bound.judge(asked, &measured));
            all.push(Judged { task, what, asked, bound, measured, verdict });
        };
        let share = |name: &str| {
            let line = table.lines.iter().find(|line| line.name == name);
            line.expect("a line of every table")
        };
        let difference = |pair: [&str; 2]| {
            let is_it = |c: &&super::Comparison| [&*c.line, &*c.against] == pair;
            table.compared.iter().find(is_it).expect("lines that are compared").gain
        };
        for (_, name, asked) in SHARES.iter().filter(|(task, ..)| *task == table.task) {
            let bound = if asked.is_some() { Bound::AtLeast } else { Bound::Is };
            add(name.to_string(), bound, asked.unwrap_or(table.chance), share(name).accuracy);
        }
        for (_, pair, bound, asked) in DIFFERENCES.iter().filter(|(task, ..)| *task == table.task) {
            add(pair.join(" less "), *bound, *asked, difference(*pair));
        }
        if table.task == TOGETHER.0 {
            let [receiver, sharer] = [RECEIVER, SHARER].map(|name| share(name).accuracy.mean);
            let (better, gain) = match receiver >= sharer {
                true => (RECEIVER, share(LINKED).gain),
                false => (SHARER, difference([LINKED, SHARER])),
            };
            add(format!("{LINKED} less {better}"), Bound::AtLeast, TOGETHER.1, gain);
        }
        for comparison in &table.compared {
            let names = [&comparison.line, &comparison.against];
            let are_both = names.iter().zip(ALLOCATORS).all(|(name, it)| name.starts_with(it));
            if are_both {
                add(
                    format!("{} less {}", names[0], names[1]),
                    Bound::AtLeast,
                    0.0,
                    comparison.gain,
                );
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_meets_misses_or_leaves_open() {
        let interval = |low, high| Interval { mean: (low + high) / 2.0, low, high };
        for (bound, low, high, verdict) in [
            (Bound::Is, 0.2, 0.3, Verdict::Met),
            (Bound::Is, 0.26, 0.3, Verdict::Missed),
            (Bound::AtLeast, 0.25, 0.3, Verdict::Met),
            (Bound::Above, 0.25, 0.3, Verdict::Open),
            (Bound::Above, 0.26, 0.3, Verdict::Met),
            (Bound::AtLeast, 0.1, 0.25, Verdict::Open),
            (Bound::AtLeast, 0.1, 0.24, Verdict::Missed),
        ] {
            assert_eq!(bound.judge(0.25, &interval(low, high)), verdict, "{bound:?} {low} {high}");
        }
    }
}
