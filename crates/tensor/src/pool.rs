//! Pooled memory under the ledger.
//!
//! One range of addresses per pool, taken from the system in steps of 2 MiB and never given back:
//! returning large blocks to the kernel costs up to nine times the work done in them. The lowest
//! free place that fits is used first, so the range stays as short as the live bytes allow.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use smidgen_codec::{Entry, Ledger, Tag};

use crate::Error;

const ALIGN: usize = 128;
const STEP: usize = 2 << 20;
/// Addresses to reserve, not memory: twice what the machine has, so that fragments never end it.
fn address_range() -> usize {
    // SAFETY: sysconf reads two numbers and has no other effect.
    let (pages, size) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let memory = usize::try_from(pages)
        .ok()
        .zip(usize::try_from(size).ok())
        .map_or(0, |(pages, size)| pages.saturating_mul(size));
    memory.saturating_mul(2).clamp(1 << 36, 1 << 46)
}

struct Arena {
    base: *mut u8,
    /// Bytes from `base` on that may be written.
    open: usize,
    range: usize,
    /// Free places below `open`: offset -> length, never adjacent.
    free: BTreeMap<usize, usize>,
}

// SAFETY: the addresses belong to the arena alone; the mutex around it orders all access.
unsafe impl Send for Arena {}

impl Arena {
    fn new() -> Arena {
        let mut range = address_range();
        loop {
            // SAFETY: a fresh reservation that touches no existing mapping.
            let base = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    range,
                    libc::PROT_NONE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if base != libc::MAP_FAILED {
                return Arena { base: base.cast(), open: 0, range, free: BTreeMap::new() };
            }
            if range <= STEP {
                return Arena {
                    base: std::ptr::null_mut(),
                    open: 0,
                    range: 0,
                    free: BTreeMap::new(),
                };
            }
            range /= 2;
        }
    }

    fn allocate(&mut self, len: usize) -> Option<usize> {
        let found = self.free.iter().find(|(_, have)| **have >= len).map(|(at, have)| (*at, *have));
        if let Some((at, have)) = found {
            self.free.remove(&at);
            if have > len {
                self.free.insert(at + len, have - len);
            }
            return Some(at);
        }
        // The last free place may reach up to the end: grow it instead of leaving a hole.
        let start = match self.free.last_key_value() {
            Some((at, have)) if at + have == self.open => *at,
            _ => self.open,
        };
        let end = start.checked_add(len)?.checked_next_multiple_of(STEP)?;
        self.grow(end)?;
        self.free.remove(&start);
        if start + len < end {
            self.free.insert(start + len, end - start - len);
        }
        Some(start)
    }

    fn grow(&mut self, end: usize) -> Option<()> {
        if end > self.range {
            return None;
        }
        // SAFETY: the range lies inside the reservation and nobody uses it yet.
        unsafe {
            let at = self.base.add(self.open).cast();
            let len = end - self.open;
            if libc::mprotect(at, len, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                return None;
            }
            // Read-modify-write passes gain 40-65 % from 2 MiB pages; a refusal costs only that.
            #[cfg(target_os = "linux")]
            libc::madvise(at, len, libc::MADV_HUGEPAGE);
        }
        self.open = end;
        Some(())
    }

    fn release(&mut self, mut at: usize, mut len: usize) {
        if let Some((before, have)) = self.free.range(..at).next_back().map(|(a, l)| (*a, *l))
            && before + have == at
        {
            self.free.remove(&before);
            (at, len) = (before, have + len);
        }
        if let Some(have) = self.free.remove(&(at + len)) {
            len += have;
        }
        self.free.insert(at, len);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !self.base.is_null() {
            // SAFETY: every buffer holds the pool alive, so none is left.
            unsafe { libc::munmap(self.base.cast(), self.range) };
        }
    }
}

/// Where tensors, gradients and state live. Clones share one pool.
#[derive(Clone)]
pub struct Pool {
    arena: Arc<Mutex<Arena>>,
    ledger: Ledger,
}

impl Pool {
    /// An empty pool that reports to `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        let mut arena = Arena::new();
        // The range starts on a huge page, whatever address the system chose.
        let skip = arena.base.align_offset(STEP);
        if skip < arena.range {
            arena.open = skip;
        }
        Pool { arena: Arc::new(Mutex::new(arena)), ledger }
    }

    /// The ledger this pool reports to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A buffer of `len` bytes, 128-byte aligned, holding whatever was there before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system gives no more.
    pub fn bytes(&self, tag: Tag, len: usize) -> Result<Buffer, Error> {
        let place = len.max(1).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        let mut arena = self.arena.lock().unwrap_or_else(|e| e.into_inner());
        let Some(offset) = arena.allocate(place) else {
            let live = self.ledger.total_live_bytes();
            return Err(Error::OutOfMemory { tag: tag.name(), bytes: len, live });
        };
        // SAFETY: the place lies inside the open part of the reservation.
        let start = unsafe { arena.base.add(offset) };
        drop(arena);
        Ok(Buffer {
            start,
            len,
            offset,
            place,
            entry: self.ledger.book(tag, len),
            pool: self.clone(),
        })
    }

    /// As [`Pool::bytes`], filled with zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system gives no more.
    pub fn zeroed(&self, tag: Tag, len: usize) -> Result<Buffer, Error> {
        let mut buffer = self.bytes(tag, len)?;
        buffer.as_mut().fill(0);
        Ok(buffer)
    }

    /// Bytes the pool has taken from the system so far.
    pub fn reserved_bytes(&self) -> usize {
        self.arena.lock().unwrap_or_else(|e| e.into_inner()).open
    }
}

/// Bytes from a [`Pool`]; given back on drop, and counted by the ledger until then.
pub struct Buffer {
    start: *mut u8,
    len: usize,
    offset: usize,
    place: usize,
    entry: Entry,
    pool: Pool,
}

// SAFETY: a buffer owns its place in the pool as a `Vec` owns its heap block.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// What the bytes are booked under.
    pub fn tag(&self) -> Tag {
        self.entry.tag()
    }

    /// Books the bytes under another tag: an activation that becomes a gradient, say.
    pub fn retag(&mut self, tag: Tag) {
        self.entry.retag(tag);
    }

    /// The pool the bytes came from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the place is mapped, at least `len` long, and nobody else writes it.
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
        self.pool.arena.lock().unwrap_or_else(|e| e.into_inner()).release(self.offset, self.place);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes, {})", self.len, self.entry.tag().name())
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
        fn buffers_never_overlap(steps in proptest::collection::vec((0usize..3, 0usize..100_000), 1..60)) {
            let pool = Pool::new(Ledger::new());
            let mut live: Vec<(u8, Buffer)> = Vec::new();
            for (i, (kind, size)) in steps.into_iter().enumerate() {
                if kind == 0 && !live.is_empty() {
                    live.swap_remove(size % live.len());
                } else {
                    let mut buffer = pool.bytes(Tag::Workspace, size).unwrap();
                    assert_eq!(buffer.as_ref().as_ptr() as usize % ALIGN, 0);
                    buffer.as_mut().fill(i as u8);
                    live.push((i as u8, buffer));
                }
                let bytes: usize = live.iter().map(|(_, b)| b.as_ref().len()).sum();
                assert_eq!(pool.ledger().live_bytes(Tag::Workspace), bytes);
                assert!(live.iter().all(|(id, b)| b.as_ref().iter().all(|byte| byte == id)));
            }
            drop(live);
            assert!(pool.arena.lock().unwrap().free.len() <= 1);
        }
    }
}
