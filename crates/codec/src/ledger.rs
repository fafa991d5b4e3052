//! The byte ledger: who owns how many bytes, now and at most.
//!
//! Every long-lived buffer of a run holds an [`Entry`]; dropping the buffer gives the bytes back.
//! A memory figure in any report is read here or from the operating system, never from a formula.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

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

/// A booking that would pass the limit of a [`Ledger`]; nothing was booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes for `{}` do not fit: {live} of {limit} bytes are in use", tag.name())]
pub struct Refused {
    /// What the bytes were for.
    pub tag: Tag,
    /// How many were asked for.
    pub bytes: usize,
    /// How many were booked under all tags.
    pub live: usize,
    /// The most there may be.
    pub limit: usize,
}

/// Counts live and peak bytes per [`Tag`] and in total, up to a limit. Clones share one count.
#[derive(Clone, Default, Debug)]
pub struct Ledger(Arc<Counts>);

#[derive(Default, Debug)]
struct Counts {
    tags: [Counter; Tag::ALL.len()],
    total: Counter,
    limit: Option<usize>,
    /// Bytes in files that stand in for memory.
    paged: Counter,
    refusals: AtomicU64,
    /// Bookings until one is refused for a test; 0 for never.
    refuse_in: AtomicU64,
}

impl Ledger {
    /// An empty ledger without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty ledger that refuses what would make its total pass `bytes`.
    pub fn limited(bytes: usize) -> Self {
        Self(Arc::new(Counts { limit: Some(bytes), ..Counts::default() }))
    }

    /// The most bytes there may be under all tags.
    pub fn limit(&self) -> Option<usize> {
        self.0.limit
    }

    /// Books `bytes` under `tag` until the entry is dropped.
    ///
    /// # Errors
    /// [`Refused`] when the total would pass the limit.
    pub fn try_book(&self, tag: Tag, bytes: usize) -> Result<Entry, Refused> {
        let counts = &*self.0;
        let limit = counts.limit.unwrap_or(usize::MAX);
        let grow = |live: usize| live.checked_add(bytes).filter(|sum| *sum <= limit);
        let booked = match self.is_refused_for_a_test() {
            true => Err(self.total_live_bytes()),
            false => counts.total.live.fetch_update(Relaxed, Relaxed, grow),
        };
        match booked {
            Ok(before) => {
                counts.total.peak.fetch_max(before + bytes, Relaxed);
                counts.tags[tag as usize].add(bytes);
                Ok(Entry { ledger: self.clone(), tag, bytes })
            }
            Err(live) => {
                counts.refusals.fetch_add(1, Relaxed);
                Err(Refused { tag, bytes, live, limit })
            }
        }
    }

    /// Books `bytes` of a file that stands in for memory, until the entry is dropped: under no tag and no
    /// limit, since the system may take their pages back at any time.
    pub fn book_paged(&self, bytes: usize) -> PagedEntry {
        self.0.paged.add(bytes);
        PagedEntry { ledger: self.clone(), bytes }
    }

    /// Bytes booked now in files.
    pub fn paged_bytes(&self) -> usize {
        self.0.paged.live.load(Relaxed)
    }

    /// The most bytes ever booked at once in files.
    pub fn peak_paged_bytes(&self) -> usize {
        self.0.paged.peak.load(Relaxed)
    }

    /// How many bookings were refused so far.
    pub fn refusals(&self) -> u64 {
        self.0.refusals.load(Relaxed)
    }

    /// For tests of what a refusal does: the `n`-th booking from now on, counted from 0, is refused
    /// whatever the limit; the ones after it are not.
    pub fn refuse_nth(&self, n: u64) {
        self.0.refuse_in.store(n + 1, Relaxed);
    }

    fn is_refused_for_a_test(&self) -> bool {
        let count_down = |left: u64| left.checked_sub(1);
        self.0.refuse_in.fetch_update(Relaxed, Relaxed, count_down) == Ok(1)
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

/// Bytes of a file on the ledger; given back on drop.
#[derive(Debug)]
pub struct PagedEntry {
    ledger: Ledger,
    bytes: usize,
}

impl Drop for PagedEntry {
    fn drop(&mut self) {
        self.ledger.0.paged.live.fetch_sub(self.bytes, Relaxed);
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
        let a = ledger.try_book(Tag::Grads, 100).unwrap();
        let b = ledger.try_book(Tag::State, 50).unwrap();
        drop(a);
        let _c = ledger.try_book(Tag::Grads, 60).unwrap();
        assert_eq!(ledger.live_bytes(Tag::Grads), 60);
        assert_eq!(ledger.peak_bytes(Tag::Grads), 100);
        assert_eq!(ledger.total_live_bytes(), 110);
        assert_eq!(ledger.total_peak_bytes(), 150);
        drop(b);
        ledger.reset_peaks();
        assert_eq!(ledger.total_peak_bytes(), 60);
    }

    #[test]
    fn the_total_never_passes_the_limit() {
        let ledger = Ledger::limited(100);
        let kept = ledger.try_book(Tag::Weights, 60).unwrap();
        let refused = ledger.try_book(Tag::Grads, 41).unwrap_err();
        assert_eq!(refused, Refused { tag: Tag::Grads, bytes: 41, live: 60, limit: 100 });
        assert!(refused.to_string().contains("41 bytes for `grads`"));
        assert_eq!((ledger.refusals(), ledger.peak_bytes(Tag::Grads)), (1, 0));
        let rest = ledger.try_book(Tag::Grads, 40).unwrap();
        drop((kept, rest));
        assert!(ledger.try_book(Tag::State, 100).is_ok());
        assert!(Ledger::new().try_book(Tag::State, usize::MAX).is_ok());
    }

    #[test]
    fn a_test_can_have_any_booking_refused() {
        let ledger = Ledger::new();
        ledger.refuse_nth(1);
        let fates = [(); 4].map(|()| ledger.try_book(Tag::Kv, 8).is_ok());
        assert_eq!(fates, [true, false, true, true]);
        assert_eq!((ledger.refusals(), ledger.total_peak_bytes()), (1, 8));
    }
}
