//! The heap, counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what this thread holds on the heap.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator with the same arguments; the counters are plain
// numbers of the thread, without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + layout.size());
        PEAK.set(PEAK.get().max(HELD.get()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Does something with `input_bytes` of a file, and holds what it takes against the promise of every
/// reader: 8 times the input and 1 MiB.
#[track_caller]
pub(crate) fn within<T>(input_bytes: usize, read: impl FnOnce() -> T) -> T {
    at_most(8 * input_bytes + (1 << 20), read)
}

/// Does something that may take so many bytes.
#[track_caller]
pub(crate) fn at_most<T>(most_bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    PEAK.set(before);
    let value = work();
    let taken = PEAK.get() - before;
    assert!(taken <= most_bytes, "{taken} bytes taken, at most {most_bytes} allowed");
    value
}
