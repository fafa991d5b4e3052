//! The byte ledger: who owns how many bytes, now and at most.
//!
//! Every long-lived buffer of a run holds an [`Entry`]; dropping the buffer gives the bytes back.
//! A memory figure in any report is read here or from the operating system, never from a formula.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a buffer is for. This list and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Tag {
    /// Parameters, in whatever format they live in.
    Weights,
    /// Panels made from weights for the matrix products.
    Packed,
    /// Gradients of parameters.
    Grads,
    /// Optimizer state.
    State,
    /// Low-rank projectors.
    Proj,
    /// Error feedback.
    Ef,
    /// Values kept for the backward pass, and their gradients.
    Activations,
    /// Key and value caches.
    Kv,
    /// Buffers of collectives.
    Comm,
    /// Scratch memory inside one operation.
    Workspace,
}

impl Tag {
    /// Every tag, in the order of reports.
    pub const ALL: [Tag; 10] = [
        Tag::Weights,
        Tag::Packed,
        Tag::Grads,
        Tag::State,
        Tag::Proj,
        Tag::Ef,
        Tag::Activations,
        Tag::Kv,
        Tag::Comm,
        Tag::Workspace,
    ];

    /// The name in reports and files.
    pub fn name(self) -> &'static str {
        match self {
            Tag::Weights => "weights",
            Tag::Packed => "packed",
            Tag::Grads => "grads",
            Tag::State => "state",
            Tag::Proj => "proj",
            Tag::Ef => "ef",
            Tag::Activations => "activations",
            Tag::Kv => "kv",
            Tag::Comm => "comm",
            Tag::Workspace => "workspace",
        }
    }
}

#[derive(Default, Debug)]
struct Counter {
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Counter {
    fn add(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(live, Relaxed);
    }
}

/// Counts live and peak bytes per [`Tag`] and in total. Clones share one count.
#[derive(Clone, Default, Debug)]
pub struct Ledger(Arc<Counters>);

#[derive(Default, Debug)]
struct Counters {
    tags: [Counter; Tag::ALL.len()],
    total: Counter,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Books `bytes` under `tag` until the entry is dropped.
    pub fn book(&self, tag: Tag, bytes: usize) -> Entry {
        self.0.tags[tag as usize].add(bytes);
        self.0.total.add(bytes);
        Entry { ledger: self.clone(), tag, bytes }
    }

    /// Bytes booked now under `tag`.
    pub fn live_bytes(&self, tag: Tag) -> usize {
        self.0.tags[tag as usize].live.load(Relaxed)
    }

    /// The most bytes ever booked at once under `tag`.
    pub fn peak_bytes(&self, tag: Tag) -> usize {
        self.0.tags[tag as usize].peak.load(Relaxed)
    }

    /// Bytes booked now under all tags.
    pub fn total_live_bytes(&self) -> usize {
        self.0.total.live.load(Relaxed)
    }

    /// The most bytes ever booked at once under all tags (less than the sum of the tags' peaks).
    pub fn total_peak_bytes(&self) -> usize {
        self.0.total.peak.load(Relaxed)
    }

    /// Forgets the peaks: each becomes what is live now.
    pub fn reset_peaks(&self) {
        for counter in self.0.tags.iter().chain([&self.0.total]) {
            counter.peak.store(counter.live.load(Relaxed), Relaxed);
        }
    }
}

/// Bytes on the ledger; given back on drop.
#[derive(Debug)]
pub struct Entry {
    ledger: Ledger,
    tag: Tag,
    bytes: usize,
}

impl Entry {
    /// How many bytes this entry stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the bytes are for.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// Books the bytes under another tag; the total never counts them twice.
    pub fn retag(&mut self, tag: Tag) {
        self.ledger.0.tags[self.tag as usize].live.fetch_sub(self.bytes, Relaxed);
        self.ledger.0.tags[tag as usize].add(self.bytes);
        self.tag = tag;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.0.tags[self.tag as usize].live.fetch_sub(self.bytes, Relaxed);
        self.ledger.0.total.live.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_live_and_peak_per_tag() {
        let ledger = Ledger::new();
        let a = ledger.book(Tag::Grads, 100);
        let b = ledger.book(Tag::State, 50);
        drop(a);
        let _c = ledger.book(Tag::Grads, 60);
        assert_eq!(ledger.live_bytes(Tag::Grads), 60);
        assert_eq!(ledger.peak_bytes(Tag::Grads), 100);
        assert_eq!(ledger.total_live_bytes(), 110);
        assert_eq!(ledger.total_peak_bytes(), 150);
        drop(b);
        ledger.reset_peaks();
        assert_eq!(ledger.total_peak_bytes(), 60);
    }
}
