//! The two ends of a link as methods see them: items with the caches that the sharer made of them, and the
//! receiver with what arrived behind one scorer.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::time::Instant;

use smidgen_data::Tokenizer;
use smidgen_model::Session;

use super::known::{Change, Known};
use super::pair::{Model, Prompt};
use crate::fuse::{Arrival, LoadedFuser};
use crate::message::{self, Received};
use crate::methods::{Pair, Payload, PayloadKind, Question, Reply, Stage};
use crate::plan::full_bytes;
use crate::wire::Precision;
use crate::world::{Item, Reader, score_one};
use crate::{Error, KvCache, Receiver};

/// Items with the caches that the sharer made of them.
pub(super) struct Prepared {
    pub(super) prompts: Vec<Prompt>,
    pub(super) caches: Vec<KvCache>,
    clusters: Vec<u64>,
    /// Milliseconds that the sharer took for each.
    pub(super) prefill_ms: Vec<f64>,
    /// What fusing the whole cache in int8 changes, where somebody asked.
    changes: Vec<OnceCell<Change>>,
}

impl Prepared {
    pub(super) fn new(
        items: &[Item],
        sharer: &Model,
        receiver: &Model,
        fuser: &LoadedFuser,
    ) -> Result<Prepared, Error> {
        let space = fuser.fuser.config().k_space;
        let prompts = items.iter().map(|item| Prompt::new(item, sharer, receiver));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let mut prefill_ms = Vec::with_capacity(items.len());
        let caches = prompts.iter().map(|prompt| {
            let started = Instant::now();
            let cache = prompt.cache(&sharer.side, space);
            prefill_ms.push(since(started));
            cache
        });
        let caches = caches.collect::<Result<Vec<_>, _>>()?;
        let clusters = items.iter().map(|item| item.cluster).collect();
        let changes = items.iter().map(|_| OnceCell::new()).collect();
        Ok(Prepared { prompts, caches, clusters, prefill_ms, changes })
    }

    /// The nearest item behind this one that is about something else and as long, or as it comes.
    ///
    /// # Errors
    /// [`Error::Value`] where all items are about one thing: its own cache would be no control.
    pub(super) fn another(&self, place: usize) -> Result<usize, Error> {
        let count = self.caches.len();
        let others = || (1..count).map(|step| (place + step) % count);
        let differs = |other: &usize| self.clusters[*other] != self.clusters[place];
        let as_long = |other: &usize| self.caches[*other].tokens() == self.caches[place].tokens();
        let found = others().filter(differs).find(as_long).or_else(|| others().find(differs));
        found.ok_or_else(|| Error::value("items", "some about something else, to mix up", "none"))
    }

    pub(super) fn change(&self, receiver: &Receiver<'_>, place: usize) -> Result<&Change, Error> {
        if self.changes[place].get().is_none() {
            let (device, cache) = (&receiver.side().device, &self.caches[place]);
            let plan = message::whole(receiver.fuser(), cache.tokens(), Precision::Int8);
            let plan = plan.expect("whoever asks has an open gate");
            let received = Received::through(device, cache.view(), &plan)?;
            let change = Change::of(receiver, &self.prompts[place], &received)?;
            let _ = self.changes[place].set(change);
        }
        Ok(self.changes[place].get().expect("it was just put there"))
    }
}

/// An item among those that were prepared.
pub(super) struct Asked<'a> {
    pub(super) item: &'a Item,
    pub(super) place: usize,
}

impl Question for Asked<'_> {
    fn id(&self) -> &str {
        &self.item.id
    }

    fn cluster(&self) -> u64 {
        self.item.cluster
    }
}

/// The two ends of a link and the items that they are asked.
pub(super) struct Ends<'a> {
    pub(super) receiver: &'a Receiver<'a>,
    session: Session<'a>,
    tokenizer: &'a Tokenizer,
    pub(super) prepared: &'a Prepared,
    pub(super) known: Option<&'a Known>,
    /// The precision in which the receiver keeps its own cache; none for the one of the model.
    pub(super) kept: Option<Precision>,
}

impl<'a> Ends<'a> {
    pub(super) fn new(
        receiver: &'a Receiver<'a>,
        tokenizer: &'a Tokenizer,
        prepared: &'a Prepared,
        known: Option<&'a Known>,
        capacity: usize,
    ) -> Result<Ends<'a>, Error> {
        let session = receiver.session(capacity)?;
        Ok(Ends { receiver, session, tokenizer, prepared, known, kept: None })
    }

    pub(super) fn fuser(&self) -> &'a LoadedFuser {
        self.receiver.fuser()
    }
}

impl<'a> Pair for Ends<'a> {
    type Question = Asked<'a>;

    fn full_bytes(&self, asked: &Asked<'a>) -> Result<u64, Error> {
        let cache = &self.prepared.caches[asked.place];
        Ok(full_bytes(cache.shape(), cache.tokens()))
    }

    fn apply(&mut self, asked: &Asked<'a>, payload: &Payload) -> Result<Reply, Error> {
        let prepared = self.prepared;
        let (prompt, cache) = (&prepared.prompts[asked.place], &prepared.caches[asked.place]);
        let mut timings_ms = BTreeMap::new();
        let received = match payload.kind() {
            PayloadKind::Empty => None,
            PayloadKind::Kv => {
                let (device, started) = (&self.receiver.side().device, Instant::now());
                let shape = cache.shape();
                let received = Received::decode(device, payload.body(), shape, cache.tokens())?;
                timings_ms.insert(Stage::Decode, since(started));
                Some(received)
            }
            PayloadKind::Text => return Err(Error::value("payload", "a cache", "words")),
        };
        let arrival = received.as_ref().map(|received| received.arrival(&prompt.alignment));
        let mut told = Told { ends: self, prompt: &prompt.receiver, arrival, timings_ms };
        let scored = score_one(&mut told, asked.item)?;
        let timings_ms = told.timings_ms;
        let (text, tokens, is_right) = (scored.answer, scored.tokens, scored.correct);
        Ok(Reply { text, tokens, is_right, timings_ms })
    }
}

/// The receiver with what arrived, to one scorer like any other reader.
struct Told<'t, 'a> {
    ends: &'t mut Ends<'a>,
    prompt: &'t [u32],
    arrival: Option<Arrival<'t>>,
    timings_ms: BTreeMap<Stage, f64>,
}

impl Reader for Told<'_, '_> {
    fn tokenizer(&self) -> &Tokenizer {
        self.ends.tokenizer
    }

    fn read(&mut self, _: &Item) -> Result<Vec<f32>, Error> {
        let Ends { receiver, session, kept, .. } = &mut *self.ends;
        let started = Instant::now();
        receiver.enter(session, self.prompt)?;
        if let Some(precision) = *kept {
            receiver.keep_in(session, precision)?;
        }
        self.timings_ms.insert(Stage::PrefillReceiver, since(started));
        let started = Instant::now();
        let logits = receiver.join(session, self.prompt, self.arrival.as_ref())?;
        if self.arrival.is_some() {
            // One operation projects what arrived and fuses it.
            self.timings_ms.insert(Stage::Fuse, since(started));
        }
        Ok(logits)
    }

    fn follow(&mut self, token: u32) -> Result<Vec<f32>, Error> {
        Ok(self.ends.session.feed(&[token])?)
    }
}

/// Milliseconds from then on.
pub(super) fn since(started: Instant) -> f64 {
    1e3 * started.elapsed().as_secs_f64()
}
