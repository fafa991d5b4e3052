//! What a link over text is worth: every line scores the same continuations of held-out documents.

use smidgen_model::{KeySpace, Scorer, TokenBatch};
use smidgen_store::sha256_bytes;
use smidgen_train::{Context, Event};

use super::record::{Comparison, FuserSummary, Rates, TextLine, TextModel, TextRecord};
use super::{Model, Parts, TEXT_SCHEMA_VERSION, TextItem, TextJob};
use crate::fuse::{Arrival, LoadedFuser, Present};
use crate::message::{self, Received};
use crate::side::{FILL, padded};
use crate::stats::{Interval, bootstrap, paired};
use crate::wire::Precision;
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
}

/// Of one line, for every item: bytes that travelled and bits of the continuation.
#[derive(Clone, Debug, Default)]
struct Scores {
    wire_bytes: Vec<f64>,
    bits: Vec<f64>,
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

/// Measures a fuser, and the one that it began from, on the documents held out for the test.
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
    let mut named = vec![
        (ALONE.to_string(), alone(receiver, items, |it| (&it.item.receiver, &it.item.response))?),
        (SHARER.to_string(), alone(sharer, items, |it| (&it.item.sharer, &it.sharer_response))?),
    ];
    for (prefix, fuser) in [("", Some(fuser)), (FIRST, from)] {
        let Some(fuser) = fuser else { continue };
        let linked = Receiver::new(&receiver.side, fuser)?;
        for (line, scores) in LINES.into_iter().zip(score(&linked, &sharer.side, items)?) {
            if line != Line::Zeros {
                message::check_sent(&line.name(), fuser, &scores.wire_bytes)?;
            }
            named.push((format!("{prefix}{}", line.name()), scores));
        }
    }
    let by_document: Vec<(&str, Vec<f64>)> =
        named.iter().map(|(name, scores)| (&**name, per_document(items, &scores.bits))).collect();
    let seed = job.config.seed;
    let lines = named.iter().zip(&by_document).map(|((name, scores), (_, bpb))| {
        Ok(TextLine {
            name: name.clone(),
            wire_bytes: mean(scores.wire_bytes.iter().copied()),
            bpb: bootstrap(bpb, None, seed)?,
            gain: paired(&by_document[0].1, bpb, None, seed)?,
        })
    });
    let lines = lines.collect::<Result<Vec<_>, Error>>()?;
    let alignments = || items.iter().map(|it| &it.item.alignment);
    Ok(TextRecord {
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
    })
}

/// The pairs that say what a gain is due to.
fn comparisons(
    lines: &[(&str, Vec<f64>)],
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
    model: &Model,
    items: &'a [TextItem],
    of: impl Fn(&'a TextItem) -> (&'a Vec<u32>, &'a Vec<u32>),
) -> Result<Scores, Error> {
    let Side { device, compute, decoder, params } = &model.side;
    let scorer = Scorer::new(device, *compute, decoder, params)?;
    let mut scores = Scores::default();
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
            scores.wire_bytes.push(0.0);
        }
    }
    Ok(scores)
}

/// The receiver with what each line delivers for each item.
fn score(linked: &Receiver<'_>, sharer: &Side, all: &[TextItem]) -> Result<Vec<Scores>, Error> {
    let mut scores = vec![Scores::default(); LINES.len()];
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
            let received = each.map(|(cache, it)| deliver(line, linked.fuser(), sharer, cache, it));
            let received = received.collect::<Result<Vec<Option<Received>>, Error>>()?;
            // Where no gate is open nothing travels, and nothing would be fused.
            let arrivals: Option<Vec<Arrival<'_>>> = received
                .iter()
                .zip(items)
                .map(|(received, it)| Some(received.as_ref()?.arrival(&it.item.alignment)))
                .collect();
            let nll = linked.nll(&read, arrivals.as_deref(), &responses)?;
            scores.bits.extend(nll.into_iter().map(|nats| nats / std::f64::consts::LN_2));
            let bytes = |received: &Option<Received>| {
                received.as_ref().map_or(0.0, |received| received.wire_bytes as f64)
            };
            scores.wire_bytes.extend(received.iter().map(bytes));
        }
    }
    Ok(scores)
}

/// What arrives of a cache; none where no gate is open.
fn deliver(
    line: Line,
    fuser: &LoadedFuser,
    sharer: &Side,
    cache: &KvCache,
    item: &TextItem,
) -> Result<Option<Received>, Error> {
    let (mut tokens, precision) = (
        item.sent(),
        match line {
            Line::Whole(precision) | Line::Last(precision) => precision,
            Line::Shuffled => Precision::F16,
            Line::Zeros => {
                let cache = KvCache::zeroed(sharer.device.ledger(), cache.shape(), cache.tokens())?;
                return Ok(Some(Received { cache, present: Present::All, wire_bytes: 0 }));
            }
        },
    );
    if matches!(line, Line::Last(_)) {
        let kept = ((tokens.len() as f64 * LAST).round() as usize).max(1);
        tokens.drain(..tokens.len().saturating_sub(kept));
    }
    if tokens.is_empty() {
        return Ok(None);
    }
    let (needed, space) = (fuser.fuser.needed(&fuser.params), fuser.fuser.config().k_space);
    let plan = message::plan(&needed, &[(tokens, [precision; 2])], space);
    plan.map(|plan| Received::through(&sharer.device, cache.view(), &plan)).transpose()
}

/// The item of another document whose cache is nearest in length; of equal ones the next behind.
fn another(items: &[TextItem], place: usize) -> usize {
    let needed = |at: usize| items[at].item.alignment.needed();
    let others = (1..items.len()).map(|step| (place + step) % items.len());
    let others = others.filter(|at| items[*at].document != items[place].document);
    others.min_by_key(|at| needed(*at).abs_diff(needed(place))).unwrap_or(place)
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
