//! One range of addresses, opened to writing as it is needed, closed again when there may be no more.
//!
//! Places are found first fit. What was opened stays open, because giving large blocks back to the
//! system costs up to nine times the work done in them; only when the bytes that are open would pass
//! the limit are free places closed again, huge pages first, so that open bytes stay near live ones.

#![allow(unsafe_code)]

use std::ops::Range;

use super::ranges::{Ranges, count};

/// Bytes opened at once: a huge page.
const STEP: usize = 2 << 20;
/// What the system can open and close.
const PAGE: usize = 4 << 10;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It would pass the limit.
    Limit,
    /// The system gives no more.
    System,
}

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

fn reserve(range: usize) -> Option<*mut u8> {
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
    (base != libc::MAP_FAILED).then_some(base.cast())
}

pub(super) struct Arena {
    /// What was reserved.
    reserved: (*mut u8, usize),
    /// The first huge page in it; places count from here.
    base: *mut u8,
    /// Places that nobody has.
    free: Ranges,
    /// Pages that may not be touched; all of them inside free places.
    closed: Ranges,
    open_bytes: usize,
    limit: usize,
}

// SAFETY: the addresses belong to the arena alone; the mutex around it orders all access.
unsafe impl Send for Arena {}

impl Arena {
    /// An arena that never has more than `limit` bytes open.
    pub(super) fn new(limit: usize) -> Arena {
        let mut range = address_range();
        let mut base = reserve(range);
        while base.is_none() && range > STEP {
            range /= 2;
            base = reserve(range);
        }
        let reserved = base.map_or((std::ptr::null_mut(), 0), |base| (base, range));
        let skip = reserved.0.align_offset(STEP).min(reserved.1);
        let mut all = Ranges::default();
        all.insert(0..(reserved.1 - skip) / STEP * STEP);
        let base = reserved.0.wrapping_add(skip);
        Arena { reserved, base, free: all.clone(), closed: all, open_bytes: 0, limit }
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }

    /// Bytes that may be written: what the system counts as this arena's memory at most.
    pub(super) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// How many free places there are.
    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.free.iter().count()
    }

    /// The lowest free place of `len` bytes, open.
    pub(super) fn allocate(&mut self, len: usize) -> Result<usize, Denied> {
        let found = self.free.iter().find(|place| place.len() >= len).ok_or(Denied::System)?;
        let place = found.start..found.start + len;
        self.free.remove(place.clone());
        match self.open(place.clone()) {
            Ok(()) => Ok(place.start),
            Err(denied) => {
                self.free.insert(place);
                Err(denied)
            }
        }
    }

    /// Gives a place back; it stays open.
    pub(super) fn release(&mut self, at: usize, len: usize) {
        self.free.insert(at..at + len);
    }

    /// Opens a place, in whole huge pages where the limit has room for them.
    fn open(&mut self, place: Range<usize>) -> Result<(), Denied> {
        let mut parts = self.closed.within(rounded(&place, STEP));
        if self.open_bytes + count(&parts) > self.limit {
            parts = self.closed.within(rounded(&place, PAGE));
            self.close_free(count(&parts));
        }
        if self.open_bytes + count(&parts) > self.limit {
            return Err(Denied::Limit);
        }
        for part in parts {
            self.protect(&part, true)?;
            self.open_bytes += part.len();
            self.closed.remove(part);
        }
        Ok(())
    }

    /// Closes free places, the highest first, until `more` bytes can be opened.
    fn close_free(&mut self, more: usize) {
        for unit in [STEP, PAGE] {
            let places: Vec<Range<usize>> = self.free.iter().rev().collect();
            for place in places {
                let inside = place.start.next_multiple_of(unit)..place.end / unit * unit;
                for part in self.closed.gaps(inside).into_iter().rev() {
                    if self.open_bytes.saturating_add(more) <= self.limit {
                        return;
                    }
                    if self.protect(&part, false).is_ok() {
                        self.open_bytes -= part.len();
                        self.closed.insert(part);
                    }
                }
            }
        }
    }

    /// Makes pages writable, or gives their memory back and makes them untouchable.
    fn protect(&mut self, part: &Range<usize>, writable: bool) -> Result<(), Denied> {
        let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        // SAFETY: the pages lie inside the reservation and belong to nobody: they are closed now, or
        // inside a free place.
        unsafe {
            let at = self.base.add(part.start).cast();
            if !writable {
                libc::madvise(at, part.len(), libc::MADV_DONTNEED);
            }
            if libc::mprotect(at, part.len(), access) != 0 {
                return Err(Denied::System);
            }
            // Read-modify-write passes gain 40-65 % from 2 MiB pages; a refusal costs only that.
            #[cfg(target_os = "linux")]
            if writable {
                libc::madvise(at, part.len(), libc::MADV_HUGEPAGE);
            }
        }
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let (start, len) = self.reserved;
        if !start.is_null() {
            // SAFETY: every buffer holds the pool alive, so none is left.
            unsafe { libc::munmap(start.cast(), len) };
        }
    }
}

/// The smallest range of whole units around a place.
fn rounded(place: &Range<usize>, unit: usize) -> Range<usize> {
    place.start / unit * unit..place.end.next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_bytes_stay_below_the_limit_and_free_places_make_room() {
        let mut arena = Arena::new(8 * STEP);
        let places: Vec<usize> = (0..8).map(|_| arena.allocate(STEP).unwrap()).collect();
        assert_eq!(arena.allocate(PAGE), Err(Denied::Limit));
        // Two holes that do not fit three steps: a place behind them, the holes closed.
        for i in [1, 2, 5] {
            arena.release(places[i], STEP);
        }
        let behind = arena.allocate(3 * STEP).unwrap();
        assert!(behind > places[7]);
        assert_eq!(arena.open_bytes(), 8 * STEP);
        // SAFETY: the place is open.
        unsafe { arena.base().add(behind).write_bytes(1, 3 * STEP) };
        arena.release(behind, 3 * STEP);
        let again = arena.allocate(2 * STEP).unwrap();
        assert_eq!(again, places[1]);
        // SAFETY: as above; what was closed comes back as zeros.
        assert_eq!(unsafe { arena.base().add(again).read() }, 0);
    }

    #[test]
    fn near_the_limit_single_pages_are_opened() {
        let mut arena = Arena::new(STEP + 3 * PAGE);
        assert!(arena.allocate(STEP).is_ok());
        assert!(arena.allocate(2 * PAGE).is_ok());
        assert_eq!(arena.open_bytes(), STEP + 2 * PAGE);
        assert_eq!(arena.allocate(2 * PAGE), Err(Denied::Limit));
        assert!(arena.allocate(PAGE).is_ok());
    }
}
