//! What a link over text is worth: every line scores the same continuations of held-out documents.

use std::time::Instant;

use smidgen_model::{KeySpace, Scorer, TokenBatch};
use smidgen_store::sha256_bytes;
use smidgen_train::{Context, Event};

use super::record::{Comparison, FuserSummary, Rates, TextLine, TextModel, TextRecord};
use super::{Model, Parts, TEXT_SCHEMA_VERSION, TextItem, TextJob, records};
use crate::fuse::{Arrival, LoadedFuser, Present};
use crate::message::{self, Received};
use crate::methods::{Column, Contents, PayloadKind, Row, Stage};
use crate::plan::{Budget, SelectionConfig, SelectionStats};
use crate::side::{FILL, padded};
use crate::stats::{Interval, bootstrap, paired};
use crate::wire::{self, Precision};
use crate::{Error, KvCache, Receiver, Side};

/// Items that are scored at once.
const BATCH: usize = 16;
/// Share of the tokens in the line that sends the last of them.
const LAST: f64 = 0.1;

const ALONE: &str = "receiver alone";
const SHARER: &str = "sharer alone";
/// What lines of the fuser that this one began from are called after.
const FIRST: &str = "first fuser, ";

/// What is delivered for each item.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    /// Every token that stands for one of the receiver's.
    Whole(Precision),
    /// The last tenth of those.
    Last(Precision),
    /// The cache of another document, f16.
    Shuffled,
    /// Zeros.
    Zeros,
}

const LINES: [Line; 7] = [
    Line::Whole(Precision::F16),
    Line::Whole(Precision::Int8),
    Line::Whole(Precision::Int4),
    Line::Whole(Precision::Int2),
    Line::Last(Precision::Int4),
    Line::Shuffled,
    Line::Zeros,
];

impl Line {
    fn name(self) -> String {
        match self {
            Line::Whole(precision) => format!("link {}", precision.name()),
            Line::Last(precision) => format!("last p={LAST} {}", precision.name()),
            Line::Shuffled => "shuffled payload".into(),
            Line::Zeros => "zero payload".into(),
        }
    }

    /// How it chooses tokens, where it takes a share of them.
    fn selection(self) -> Option<SelectionConfig> {
        let Line::Last(_) = self else { return None };
        Some(SelectionConfig { proportion: LAST, ..SelectionConfig::default() })
    }
}

/// Of one line, for every item: what travelled, and bits of the continuation.
pub(super) struct Scores<'a> {
    /// Through which caches went.
    pub(super) fuser: Option<&'a LoadedFuser>,
    pub(super) selection: Option<SelectionConfig>,
    /// Nothing is answered: no row is right or wrong.
    pub(super) column: Column,
    bits: Vec<f64>,
}

impl<'a> Scores<'a> {
    fn none(method: String, fuser: Option<&'a LoadedFuser>) -> Scores<'a> {
        let (is_upper_bound, budget) = (false, Budget::Unlimited);
        let column = Column { method, is_upper_bound, budget, rows: Vec::new() };
        Scores { fuser, selection: None, column, bits: Vec::new() }
    }
}

/// Groups of items that are read side by side.
pub(super) fn chunk(items: &[TextItem]) -> std::slice::Chunks<'_, TextItem> {
    items.chunks(BATCH)
}

/// What the sharer makes of contexts, as far as anything stands for the receiver's tokens.
pub(super) fn caches(items: &[TextItem], sharer: &Side) -> Result<Vec<KvCache>, Error> {
    let read = |it: &TextItem| it.item.alignment.needed().max(1);
    let prompts: Vec<&[u32]> = items.iter().map(|it| &it.item.sharer[..read(it)]).collect();
    sharer.read(&prompts, KeySpace::PreRope)
}

/// Measures a fuser, and the one that it began from, on the documents held out for the test, and writes
/// a record for each line.
pub(super) fn record(
    job: &TextJob,
    (sharer, receiver): (&Model, &Model),
    fuser: &LoadedFuser,
    from: Option<&LoadedFuser>,
    parts: &Parts,
    cx: &mut Context<'_>,
) -> Result<TextRecord, Error> {
    let items = &parts.test;
    cx.progress.event(Event::Notice(&format!("scoring {} items", items.len())));
    let mut scored = vec![
        alone(ALONE, receiver, items, |it| (&it.item.receiver, &it.item.response))?,
        alone(SHARER, sharer, items, |it| (&it.item.sharer, &it.sharer_response))?,
    ];
    for (prefix, fuser) in [("", Some(fuser)), (FIRST, from)] {
        let Some(fuser) = fuser else { continue };
        let linked = Receiver::new(&receiver.side, fuser)?;
        for (line, scores) in LINES.into_iter().zip(score(prefix, &linked, &sharer.side, items)?) {
            if line != Line::Zeros {
                message::check_sent(&line.name(), fuser, &scores.column.bytes())?;
            }
            scored.push(scores);
        }
    }
    let name = |scores: &Scores<'_>| scores.column.method.clone();
    let by_document: Vec<(String, Vec<f64>)> =
        scored.iter().map(|it| (name(it), per_document(items, &it.bits))).collect();
    let seed = job.config.seed;
    let lines = scored.iter().zip(&by_document).map(|(scores, (name, bpb))| {
        Ok(TextLine {
            name: name.clone(),
            wire_bytes: mean(scores.column.bytes().into_iter()),
            bpb: bootstrap(bpb, None, seed)?,
            gain: paired(&by_document[0].1, bpb, None, seed)?,
        })
    });
    let lines = lines.collect::<Result<Vec<_>, Error>>()?;
    let alignments = || items.iter().map(|it| &it.item.alignment);
    let record = TextRecord {
        schema_version: TEXT_SCHEMA_VERSION,
        sharer: about(sharer),
        receiver: about(receiver),
        fuser: summary(fuser),
        from: from.map(LoadedFuser::fingerprint),
        config: job.config.clone(),
        text_sha256: sha256_bytes(job.text.as_bytes()),
        documents: parts.counts,
        items: items.len(),
        scored_bytes: items.iter().map(|it| it.item.response_bytes).sum(),
        alignment: Rates {
            one_to_one: mean(alignments().map(|alignment| alignment.one_to_one_rate())),
            unmapped: mean(alignments().map(|alignment| alignment.unmapped_rate())),
        },
        lines,
        comparisons: comparisons(&by_document, from.is_some(), seed)?,
    };
    records::write(job, (sharer, receiver), items, &scored, &record, cx)?;
    Ok(record)
}

/// The pairs that say what a gain is due to.
fn comparisons(
    lines: &[(String, Vec<f64>)],
    has_first: bool,
    seed: u64,
) -> Result<Vec<Comparison>, Error> {
    let f16 = Line::Whole(Precision::F16).name();
    let mut pairs = vec![
        (f16.clone(), Line::Shuffled.name()),
        (f16.clone(), Line::Zeros.name()),
        (Line::Whole(Precision::Int8).name(), f16.clone()),
        (Line::Whole(Precision::Int4).name(), f16),
    ];
    if has_first {
        let own = LINES.iter().filter(|line| matches!(line, Line::Whole(_) | Line::Last(_)));
        pairs.extend(own.map(|line| (line.name(), format!("{FIRST}{}", line.name()))));
    }
    let of = |name: &str| {
        let found = lines.iter().find(|(line, _)| *line == name);
        &found.expect("every line was scored above").1
    };
    let compare = |(line, over): (String, String)| {
        let gain: Interval = paired(of(&over), of(&line), None, seed)?;
        Ok(Comparison { line, over, gain })
    };
    pairs.into_iter().map(compare).collect()
}

/// A model by itself.
fn alone<'a>(
    name: &str,
    model: &Model,
    items: &'a [TextItem],
    of: impl Fn(&'a TextItem) -> (&'a Vec<u32>, &'a Vec<u32>),
) -> Result<Scores<'static>, Error> {
    let Side { device, compute, decoder, params } = &model.side;
    let scorer = Scorer::new(device, *compute, decoder, params)?;
    let mut scores = Scores::none(name.into(), None);
    for items in chunk(items) {
        let read = |it: &'a TextItem| -> (Vec<u32>, usize, usize) {
            let (prompt, response) = of(it);
            ([&prompt[..], response].concat(), prompt.len(), response.len())
        };
        let rows: Vec<_> = items.iter().map(read).collect();
        let length = rows.iter().map(|(tokens, ..)| tokens.len() - 1).max().unwrap_or(0);
        let inputs: Vec<&[u32]> = rows.iter().map(|row| &row.0[..row.0.len() - 1]).collect();
        let targets: Vec<&[u32]> = rows.iter().map(|row| &row.0[1..]).collect();
        let batch = TokenBatch::whole(rows.len(), padded(&inputs, length, FILL))?;
        let nll = scorer.nll(&batch, &padded(&targets, length, FILL))?;
        for (nll, (_, prompt, response)) in nll.chunks_exact(length).zip(&rows) {
            let nats: f64 = nll[prompt - 1..][..*response].iter().sum();
            scores.bits.push(nats / std::f64::consts::LN_2);
            scores.column.rows.push(nothing());
        }
    }
    Ok(scores)
}

/// The receiver with what each line delivers for each item.
fn score<'a>(
    prefix: &str,
    linked: &Receiver<'a>,
    sharer: &Side,
    all: &[TextItem],
) -> Result<Vec<Scores<'a>>, Error> {
    let of_line = |line: Line| Scores {
        selection: line.selection(),
        ..Scores::none(format!("{prefix}{}", line.name()), Some(linked.fuser()))
    };
    let mut scores = LINES.map(of_line);
    for (number, items) in chunk(all).enumerate() {
        let prompts: Vec<&[u32]> = items.iter().map(|it| &*it.item.receiver).collect();
        let responses: Vec<&[u32]> = items.iter().map(|it| &*it.item.response).collect();
        let (read, own) = (linked.read(&prompts)?, caches(items, sharer)?);
        let others: Vec<TextItem> = (number * BATCH..number * BATCH + items.len())
            .map(|place| all[another(all, place)].clone())
            .collect();
        let others = caches(&others, sharer)?.into_iter().zip(items);
        let others = others.map(|(cache, it)| refitted(&cache, it, sharer));
        let others = others.collect::<Result<Vec<_>, _>>()?;
        for (line, scores) in LINES.into_iter().zip(&mut scores) {
            let sent = if line == Line::Shuffled { &others } else { &own };
            let each = sent.iter().zip(items);
            let delivered =
                each.map(|(cache, it)| deliver(line, linked.fuser(), sharer, cache, it));
            let (received, rows): (Vec<_>, Vec<_>) =
                delivered.collect::<Result<Vec<_>, Error>>()?.into_iter().unzip();
            // Where no gate is open nothing travels, and nothing would be fused.
            let arrivals: Option<Vec<Arrival<'_>>> = received
                .iter()
                .zip(items)
                .map(|(received, it)| Some(received.as_ref()?.arrival(&it.item.alignment)))
                .collect();
            let nll = linked.nll(&read, arrivals.as_deref(), &responses)?;
            scores.bits.extend(nll.into_iter().map(|nats| nats / std::f64::consts::LN_2));
            scores.column.rows.extend(rows);
        }
    }
    Ok(scores.into())
}

/// What arrives of a cache, and what that took; nothing where no gate is open.
fn deliver(
    line: Line,
    fuser: &LoadedFuser,
    sharer: &Side,
    cache: &KvCache,
    item: &TextItem,
) -> Result<(Option<Received>, Row), Error> {
    let (device, shape) = (&sharer.device, cache.shape());
    let precision = match line {
        Line::Whole(precision) | Line::Last(precision) => precision,
        Line::Shuffled => Precision::F16,
        Line::Zeros => {
            let cache = KvCache::zeroed(device.ledger(), shape, cache.tokens())?;
            let received = Received { cache, present: Present::All, wire_bytes: 0 };
            return Ok((Some(received), nothing()));
        }
    };
    let mut tokens = item.sent();
    let selection = line.selection().map(|_| keep_last(&mut tokens, cache.tokens()));
    let (needed, space) = (fuser.fuser.needed(&fuser.params), fuser.fuser.config().k_space);
    let plan = message::plan(&needed, &[(tokens.clone(), [precision; 2])], space);
    let Some(plan) = plan.filter(|_| !tokens.is_empty()) else { return Ok((None, nothing())) };
    let planned = wire::wire_bytes(shape, cache.tokens(), &plan)?;
    let started = Instant::now();
    let container = wire::encode(device, cache.view(), &plan)?;
    let encode = (Stage::Encode, since(started));
    let started = Instant::now();
    let received = Received::decode(device, &container, shape, cache.tokens())?;
    let row = Row {
        kind: PayloadKind::Kv,
        bytes: received.wire_bytes,
        contents: Contents::of(&container, planned)?,
        selection,
        timings_ms: [encode, (Stage::Decode, since(started))].into(),
        ..nothing()
    };
    Ok((Some(received), row))
}

/// Leaves the last tokens of those that may be sent, at least one.
fn keep_last(sent: &mut Vec<u32>, tokens: usize) -> SelectionStats {
    let scope_tokens = sent.len();
    let wanted = (scope_tokens as f64 * LAST).round() as usize;
    sent.drain(..scope_tokens.saturating_sub(wanted.max(1)));
    SelectionStats {
        tokens,
        scope_tokens,
        selected_tokens: sent.len(),
        fraction: sent.len() as f64 / scope_tokens.max(1) as f64,
        min_tokens_bound: sent.len() > wanted,
        score: None,
    }
}

/// An item for which nothing was sent. Continuations are scored: there is no answer.
fn nothing() -> Row {
    Row::unsent(String::new(), 0, false)
}

/// Milliseconds from then on.
fn since(started: Instant) -> f64 {
    1e3 * started.elapsed().as_secs_f64()
}

/// The item of another document whose cache is nearest in length; of equal ones the next behind.
fn another(items: &[TextItem], place: usize) -> usize {
    let needed = |at: usize| items[at].item.alignment.needed();
    let others = (1..items.len()).map(|step| (place + step) % items.len());
    let others = others.filter(|at| items[*at].document != items[place].document);
    let nearest = others.min_by_key(|at| needed(*at).abs_diff(needed(place)));
    nearest.expect("a test of one document was refused when it was read")
}

/// A cache with as many tokens as an item needs: cut off, or begun again.
fn refitted(cache: &KvCache, item: &TextItem, sharer: &Side) -> Result<KvCache, Error> {
    let tokens = item.item.alignment.needed().max(1);
    let mut moved = KvCache::zeroed(sharer.device.ledger(), cache.shape(), tokens)?;
    let from = cache.view();
    for layer in 0..cache.shape().layers {
        for token in 0..tokens {
            let other = token % cache.tokens();
            moved.key_mut(layer, token).copy_from_slice(from.key(layer, other));
            moved.value_mut(layer, token).copy_from_slice(from.value(layer, other));
        }
    }
    Ok(moved)
}

/// Bits per byte of each document.
fn per_document(items: &[TextItem], bits: &[f64]) -> Vec<f64> {
    let mut place = 0;
    let of = |items: &[TextItem]| {
        let sum: f64 = bits[place..][..items.len()].iter().sum();
        place += items.len();
        sum / items.iter().map(|it| it.item.response_bytes).sum::<usize>() as f64
    };
    items.chunk_by(|a, b| a.document == b.document).map(of).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

fn about(model: &Model) -> TextModel {
    TextModel {
        fingerprint: model.side.fingerprint(),
        kv: model.side.kv_shape(),
        vocab: model.side.decoder.spec().vocab,
    }
}

fn summary(fuser: &LoadedFuser) -> FuserSummary {
    FuserSummary {
        fingerprint: fuser.fingerprint(),
        params: fuser.param_count(),
        layers: fuser.layers(),
        open_gates: fuser.open_gates(),
    }
}
