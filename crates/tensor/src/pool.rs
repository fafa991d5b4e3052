//! Pooled memory under the ledger.
//!
//! One range of addresses per pool, opened in steps of 2 MiB as buffers need it; the lowest free place
//! that fits is used first, so that little more is open than is live. A limit on the ledger is a limit on
//! the open bytes too: it bounds the memory that the system counts, not only the sum of the buffers.

#![allow(unsafe_code)]

mod arena;
mod pages;
mod ranges;

use std::sync::{Arc, Mutex, MutexGuard};

use smidgen_codec::{Entry, Ledger, PagedEntry, Refused, Tag};

use self::arena::{Arena, Denied};
pub use self::pages::Pages;
use crate::Error;

const ALIGN: usize = 128;

/// Where tensors, gradients and state live. Clones share one pool.
#[derive(Clone)]
pub struct Pool {
    arena: Arc<Mutex<Arena>>,
    ledger: Ledger,
    pages: Option<Arc<Pages>>,
}

impl Pool {
    /// An empty pool that reports to `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        let arena = Arena::new(ledger.limit().unwrap_or(usize::MAX));
        Pool { arena: Arc::new(Mutex::new(arena)), ledger, pages: None }
    }

    /// The same pool, with a file for [`Pool::paged`].
    pub fn with_pages(self, pages: Pages) -> Self {
        Pool { pages: Some(Arc::new(pages)), ..self }
    }

    /// The ledger this pool reports to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A buffer of `len` bytes, 128-byte aligned, holding whatever was there before.
    ///
    /// # Errors
    /// [`Error::OverBudget`] past the limit of the ledger, [`Error::OutOfMemory`] when the system gives
    /// no more.
    pub fn bytes(&self, tag: Tag, len: usize) -> Result<Buffer, Error> {
        let entry = self.ledger.try_book(tag, len).map_err(over_budget)?;
        let place = len.max(1).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        let mut arena = self.arena();
        let offset = match arena.allocate(place) {
            Ok(offset) => offset,
            Err(denied) => {
                let open = arena.open_bytes();
                drop((arena, entry));
                return Err(self.denied(denied, tag, len, open));
            }
        };
        // SAFETY: the place lies inside the reservation.
        let start = unsafe { arena.base().add(offset) };
        drop(arena);
        let home = Home::Arena { offset, place, entry };
        Ok(Buffer { start, len, home, pool: self.clone() })
    }

    /// A buffer of `len` zeros in the file of this pool. The ledger counts it apart.
    ///
    /// # Errors
    /// [`Error::NoPages`] where the pool has no file, [`Error::OverBudget`] past the end of it.
    pub fn paged(&self, tag: Tag, len: usize) -> Result<Buffer, Error> {
        let pages = self.pages.clone().ok_or(Error::NoPages { tag: tag.name() })?;
        let offset = pages.take(tag.name(), len)?;
        let start = pages.start(offset);
        let entry = self.ledger.book_paged(len);
        let home = Home::File { pages, offset, tag, _entry: entry };
        let mut buffer = Buffer { start, len, home, pool: self.clone() };
        // The file may have been another run's.
        buffer.as_mut().fill(0);
        buffer.let_go();
        Ok(buffer)
    }

    fn denied(&self, denied: Denied, tag: Tag, bytes: usize, open: usize) -> Error {
        match (denied, self.ledger.limit()) {
            (Denied::Limit, Some(limit)) => over_budget(Refused { tag, bytes, live: open, limit }),
            _ => {
                Error::OutOfMemory { tag: tag.name(), bytes, live: self.ledger.total_live_bytes() }
            }
        }
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// As [`Pool::bytes`], filled with zeros.
    ///
    /// # Errors
    /// As for [`Pool::bytes`].
    pub fn zeroed(&self, tag: Tag, len: usize) -> Result<Buffer, Error> {
        let mut buffer = self.bytes(tag, len)?;
        buffer.as_mut().fill(0);
        Ok(buffer)
    }

    /// Bytes the pool has from the system: at most this much of its memory can be resident.
    pub fn reserved_bytes(&self) -> usize {
        self.arena().open_bytes()
    }
}

fn over_budget(refused: Refused) -> Error {
    let Refused { tag, bytes, live, limit } = refused;
    Error::OverBudget { tag: tag.name(), bytes, live, limit }
}

/// Bytes from a [`Pool`]; given back on drop, and counted by the ledger until then.
pub struct Buffer {
    start: *mut u8,
    len: usize,
    home: Home,
    pool: Pool,
}

/// Where the bytes of a buffer lie.
enum Home {
    Arena { offset: usize, place: usize, entry: Entry },
    File { pages: Arc<Pages>, offset: usize, tag: Tag, _entry: PagedEntry },
}

// SAFETY: a buffer owns its place in the pool as a `Vec` owns its heap block.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// What the bytes are booked under.
    pub fn tag(&self) -> Tag {
        match &self.home {
            Home::Arena { entry, .. } => entry.tag(),
            Home::File { tag, .. } => *tag,
        }
    }

    /// Has the bytes ready soon, where they lie in a file.
    pub fn fetch(&self) {
        if let Home::File { pages, offset, .. } = &self.home {
            pages.fetch(*offset, self.len);
        }
    }

    /// Takes the bytes out of the process until they are touched again, where they lie in a file.
    pub fn let_go(&self) {
        if let Home::File { pages, offset, .. } = &self.home {
            pages.let_go(*offset, self.len);
        }
    }

    /// Books the bytes under another tag: an activation that becomes a gradient, say.
    pub fn retag(&mut self, tag: Tag) {
        match &mut self.home {
            Home::Arena { entry, .. } => entry.retag(tag),
            Home::File { tag: old, .. } => *old = tag,
        }
    }

    /// The pool the bytes came from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the place is mapped, in the arena or in a file that nobody else has, at least `len` long,
        // and nobody else writes it.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Home::Arena { offset, place, .. } = self.home {
            self.pool.arena().release(offset, place);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes, {})", self.len, self.tag().name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_places_are_joined_and_used_again() {
        let pool = Pool::new(Ledger::new());
        let buffers: Vec<Buffer> =
            (0..8).map(|_| pool.bytes(Tag::Workspace, 300_000).unwrap()).collect();
        let reserved = pool.reserved_bytes();
        assert_eq!(pool.ledger().live_bytes(Tag::Workspace), 8 * 300_000);
        drop(buffers);
        let whole = pool.zeroed(Tag::Grads, 2_300_000).unwrap();
        assert_eq!(pool.reserved_bytes(), reserved);
        assert!(whole.as_ref().iter().all(|byte| *byte == 0));
        assert_eq!(pool.ledger().live_bytes(Tag::Workspace), 0);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let pool = Pool::new(Ledger::new());
        assert!(matches!(pool.bytes(Tag::State, 1 << 60), Err(Error::OutOfMemory { .. })));
        assert!(pool.bytes(Tag::State, 10).is_ok());
    }

    #[test]
    fn the_limit_of_the_ledger_is_a_limit_on_memory() {
        let pool = Pool::new(Ledger::limited(3 << 20));
        let first = pool.zeroed(Tag::Weights, 2 << 20).unwrap();
        let error = pool.bytes(Tag::Grads, (1 << 20) + 1).unwrap_err();
        assert!(
            matches!(error, Error::OverBudget { tag: "grads", live: 0x20_0000, .. }),
            "{error}"
        );
        assert!(pool.zeroed(Tag::Grads, 1 << 20).is_ok() && pool.reserved_bytes() <= 3 << 20);
        drop(first);
        assert!(pool.zeroed(Tag::State, 3 << 20).is_ok() && pool.reserved_bytes() <= 3 << 20);
    }

    #[test]
    fn pages_keep_what_was_written_and_are_counted_apart() {
        let file = tempfile::tempfile().unwrap();
        let lens = [100_000, 70_000];
        file.set_len(Pages::file_bytes(lens) as u64).unwrap();
        let pool = Pool::new(Ledger::limited(1 << 20));
        assert!(matches!(pool.paged(Tag::State, 8), Err(Error::NoPages { tag: "state" })));
        let pool = pool.with_pages(Pages::map(&file).unwrap());
        let mut buffers = lens.map(|len| pool.paged(Tag::State, len).unwrap());
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.as_ref().iter().all(|byte| *byte == 0));
            buffer.as_mut().fill(i as u8 + 1);
            buffer.let_go();
            buffer.fetch();
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.as_ref().iter().all(|byte| *byte == i as u8 + 1));
            assert_eq!((buffer.tag(), buffer.as_ref().len()), (Tag::State, lens[i]));
        }
        let ledger = pool.ledger();
        assert_eq!((ledger.paged_bytes(), ledger.total_live_bytes()), (170_000, 0));
        let past = pool.paged(Tag::State, 1);
        assert!(matches!(past, Err(Error::OverBudget { tag: "state", bytes: 1, .. })));
        drop((buffers, past));
        assert_eq!((ledger.paged_bytes(), ledger.peak_paged_bytes()), (0, 170_000));
    }

    #[test]
    fn retagging_moves_the_bytes() {
        let pool = Pool::new(Ledger::new());
        let mut buffer = pool.bytes(Tag::Activations, 64).unwrap();
        buffer.retag(Tag::Grads);
        assert_eq!(pool.ledger().live_bytes(Tag::Activations), 0);
        assert_eq!(pool.ledger().live_bytes(Tag::Grads), 64);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

        /// Whatever is taken and given back in whatever order: no two buffers share a byte, the ledger counts
        /// what is live, and in the end one free place is left.
        #[test]
        fn buffers_never_overlap(
            steps in proptest::collection::vec((0usize..3, 0usize..100_000), 1..60),
            limit in proptest::option::of(100_000usize..1_000_000),
        ) {
            let pool = Pool::new(limit.map_or_else(Ledger::new, Ledger::limited));
            let mut buffers: Vec<(u8, Buffer)> = Vec::new();
            for (i, (kind, size)) in steps.into_iter().enumerate() {
                if kind == 0 && !buffers.is_empty() {
                    buffers.swap_remove(size % buffers.len());
                } else {
                    let buffer = pool.bytes(Tag::Workspace, size);
                    let Ok(mut buffer) = buffer else {
                        let live = pool.ledger().total_live_bytes();
                        // Each buffer may share a page at either end with a free place.
                        let waste = (buffers.len() + 1) * 8192;
                        assert!(limit.is_some_and(|limit| live + size + waste > limit));
                        continue;
                    };
                    assert_eq!(buffer.as_ref().as_ptr() as usize % ALIGN, 0);
                    buffer.as_mut().fill(i as u8);
                    buffers.push((i as u8, buffer));
                }
                let bytes: usize = buffers.iter().map(|(_, b)| b.as_ref().len()).sum();
                assert_eq!(pool.ledger().live_bytes(Tag::Workspace), bytes);
                assert!(buffers.iter().all(|(id, b)| b.as_ref().iter().all(|byte| byte == id)));
            }
            assert!(limit.is_none_or(|limit| pool.reserved_bytes() <= limit));
            drop(buffers);
            assert_eq!(pool.arena().free_places(), 1);
        }
    }
}
