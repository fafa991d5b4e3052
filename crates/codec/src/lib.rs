//! Number formats and the byte ledger. No I/O, no threads.

mod ledger;

pub use ledger::{Entry, Ledger, Tag};
