//! The loop that measures: every method answers every question, so all comparisons are paired.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Answer, Contents, Method, Pair, PayloadKind, Question, Stage};
use crate::Error;
use crate::plan::{Budget, SelectionStats};
use crate::record::config_hash;

/// A method under a budget: a column of results.
pub struct Entry<'a, P> {
    /// How to answer.
    pub method: &'a dyn Method<P>,
    /// What a payload may weigh, of each question's own cache.
    pub budget: Budget,
}

/// Results of all entries over the same questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Ids of the questions, in their order.
    pub ids: Vec<String>,
    /// What each question is resampled with.
    pub clusters: Vec<u64>,
    /// One per entry.
    pub columns: Vec<Column>,
}

/// Results of one entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Name of the method.
    pub method: String,
    /// Whether it knew what it could not know over a real link.
    pub is_upper_bound: bool,
    /// The budget as it was asked for.
    pub budget: Budget,
    /// One per question.
    pub rows: Vec<Row>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What travelled.
    pub kind: PayloadKind,
    /// Its bytes, those of a request included.
    pub bytes: u64,
    /// Those of the request.
    pub request_bytes: u64,
    /// The cap of this question.
    pub cap_bytes: Option<u64>,
    /// What its container held.
    pub contents: Contents,
    /// How tokens were selected, where a proportion of them was.
    pub selection: Option<SelectionStats>,
    /// The answer.
    pub answer: String,
    /// Tokens of the answer.
    pub answer_tokens: u64,
    /// Whether it is right.
    pub is_right: bool,
    /// What took how long.
    pub timings_ms: BTreeMap<Stage, f64>,
}

/// Asks every question in every way. `done` is called after each question, for progress.
///
/// # Errors
/// Those of the pair; [`Error::OverCap`] for a payload above its cap and [`Error::Record`] for a
/// cache that was sent as nothing, both naming method and question; [`Error::Value`] for two
/// questions of one id, or two entries of one name and budget.
pub fn measure<P: Pair>(
    pair: &mut P,
    entries: &[Entry<'_, P>],
    questions: &[P::Question],
    mut done: impl FnMut(usize),
) -> Result<Measured, Error> {
    refuse_twice("question", questions.iter().map(|question| question.id().to_owned()))?;
    refuse_twice("method", entries.iter().map(|e| format!("{} at {}", e.method.name(), e.budget)))?;
    let column = |entry: &Entry<'_, P>| Column {
        method: entry.method.name(),
        is_upper_bound: entry.method.is_upper_bound(),
        budget: entry.budget,
        rows: Vec::with_capacity(questions.len()),
    };
    let mut columns: Vec<Column> = entries.iter().map(column).collect();
    for (number, question) in questions.iter().enumerate() {
        let full_bytes = pair.full_bytes(question)?;
        for (entry, column) in entries.iter().zip(&mut columns) {
            let cap_bytes = entry.budget.cap_bytes(full_bytes);
            let answer = entry.method.answer(pair, question, cap_bytes)?;
            let what = || format!("`{}` on `{}`", entry.method.name(), question.id());
            column.rows.push(row(answer, cap_bytes, what)?);
        }
        done(number + 1);
    }
    let ids = questions.iter().map(|question| question.id().to_owned()).collect();
    let clusters = questions.iter().map(Question::cluster).collect();
    Ok(Measured { ids, clusters, columns })
}

fn row(answer: Answer, cap_bytes: Option<u64>, what: impl Fn() -> String) -> Result<Row, Error> {
    let Answer { reply, payload, selection, timings_ms } = answer;
    let (bytes, selected_tokens) = (payload.bytes(), payload.contents.selected_tokens);
    if let Some(cap_bytes) = cap_bytes.filter(|cap| bytes > *cap) {
        return Err(Error::OverCap { what: what(), cap_bytes, got_bytes: bytes });
    }
    if selected_tokens > 0 && payload.body().is_empty() {
        let expected = format!("the bytes of {selected_tokens} selected tokens");
        return Err(Error::record(what(), expected, 0));
    }
    Ok(Row {
        kind: payload.kind(),
        bytes,
        request_bytes: payload.request_bytes,
        cap_bytes,
        contents: payload.contents,
        selection,
        answer: reply.text,
        answer_tokens: reply.tokens,
        is_right: reply.is_right,
        timings_ms,
    })
}

impl Row {
    /// What was answered where nothing was sent.
    pub(crate) fn unsent(answer: String, answer_tokens: u64, is_right: bool) -> Row {
        Row {
            kind: PayloadKind::Empty,
            bytes: 0,
            request_bytes: 0,
            cap_bytes: None,
            contents: Contents::default(),
            selection: None,
            answer,
            answer_tokens,
            is_right,
            timings_ms: BTreeMap::new(),
        }
    }
}

fn refuse_twice(what: &'static str, names: impl Iterator<Item = String>) -> Result<(), Error> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::value(what, "each once", format!("`{}` twice", pair[0]))),
        None => Ok(()),
    }
}

impl Measured {
    /// SHA-256 over the ids in their order, so that two results can be seen to be of the same
    /// questions.
    ///
    /// # Errors
    /// As [`config_hash`].
    pub fn ids_sha256(&self) -> Result<String, Error> {
        config_hash(&self.ids)
    }
}

impl Column {
    /// Name and budget, and that it is an upper bound, for people.
    pub fn title(&self) -> String {
        let budget = match self.budget {
            Budget::Unlimited => String::new(),
            budget => format!(" {budget}"),
        };
        let bound = if self.is_upper_bound { " (upper bound)" } else { "" };
        format!("{}{budget}{bound}", self.method)
    }

    /// 1 for a right answer, 0 for a wrong one.
    pub fn right(&self) -> Vec<f64> {
        self.rows.iter().map(|row| f64::from(u8::from(row.is_right))).collect()
    }

    /// Bytes of each payload.
    pub fn bytes(&self) -> Vec<f64> {
        self.rows.iter().map(|row| row.bytes as f64).collect()
    }
}
