//! What an evaluation leaves behind: its record, and whether it was done before.
//!
//! A run is the directory that every program of this project writes; an evaluation of the link adds
//! `request.json` (what was asked for, written first) and `link.json` (the record, written last).
//! So a run without a record is one that did not end, and no list of runs can go stale.
//!
//! Read first: [`LinkRecord`], [`RunKey`].

mod canonical;
mod check;
mod done;
mod figures;
mod gather;
mod key;
mod link;
mod make;
mod schema;

pub use canonical::{canonical_json, config_hash};
pub use done::{Done, LinkRun, find_done};
pub use figures::Spread;
pub use key::RunKey;
pub use link::{
    Alignment, BudgetRecord, ByteBreakdown, Decoding, FuserFacts, Host, LINK_JSON, LinkRecord,
    ModelFacts, PrecisionRecord, SCHEMA_VERSION, SelectionRecord, ShapeSource, Status, TextRecord,
    WireRecord,
};
pub(crate) use make::{Setting, Worth};
pub use schema::{Field, Kind, SCHEMA, check_schema};
