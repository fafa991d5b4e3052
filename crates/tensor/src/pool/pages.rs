//! Buffers in a file: memory that the system may take back at any time.
//!
//! A file is mapped as a whole and given out from its beginning; what is written to such a buffer lands
//! in the file, sooner or later. Between uses a buffer is let go of, so that it is no part of the
//! process, and before the next use it is asked for ahead of time. The bytes are under no tag and no
//! limit of the ledger, which counts them apart.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use memmap2::MmapRaw;

use crate::Error;

/// Every buffer begins at a page, of whatever size up to this.
const PAGE: usize = 64 << 10;

/// A mapped file that buffers are cut from, in order and once.
pub struct Pages {
    map: MmapRaw,
    used: AtomicUsize,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({} of {} bytes)", self.used.load(Relaxed), self.map.len())
    }
}

impl Pages {
    /// Maps a file that is open for reading and writing, and has its full length on the disk: where a
    /// disk fills up behind a mapping, the process ends.
    ///
    /// # Errors
    /// What the system says.
    pub fn map(file: &File) -> std::io::Result<Pages> {
        Ok(Pages { map: MmapRaw::map_raw(file)?, used: AtomicUsize::new(0) })
    }

    /// Bytes of a file for buffers of these lengths.
    pub fn file_bytes(lens: impl IntoIterator<Item = usize>) -> usize {
        lens.into_iter().map(|len| len.next_multiple_of(PAGE)).sum()
    }

    /// The place of a buffer of `len` bytes, from the start of the file.
    pub(super) fn take(&self, tag: &'static str, len: usize) -> Result<usize, Error> {
        let place = len.next_multiple_of(PAGE);
        let grow = |used: usize| used.checked_add(place).filter(|sum| *sum <= self.map.len());
        self.used.fetch_update(Relaxed, Relaxed, grow).map_err(|live| Error::OverBudget {
            tag,
            bytes: len,
            live,
            limit: self.map.len(),
        })
    }

    pub(super) fn start(&self, offset: usize) -> *mut u8 {
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    /// Asks the system to have these bytes ready soon.
    pub(super) fn fetch(&self, offset: usize, len: usize) {
        #[cfg(unix)]
        // It is advice: whoever ignores it is slower, and no less right.
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, offset, len);
        #[cfg(not(unix))]
        let _ = (offset, len);
    }

    /// Takes these bytes out of the process; what was written stays in the file.
    #[cfg(target_os = "linux")]
    pub(super) fn let_go(&self, offset: usize, len: usize) {
        // SAFETY: pages of a shared mapping are dropped, not their contents: the next access reads the
        // file, with everything that was written.
        unsafe {
            libc::madvise(self.start(offset).cast(), len, libc::MADV_DONTNEED);
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn let_go(&self, _offset: usize, _len: usize) {}
}
