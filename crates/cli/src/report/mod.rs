//! What runs were, for people: one page that needs nothing else, and each of its charts as a file.
//!
//! [`subject`] reads a run, [`figures`] and [`tables`] say what of it is shown, [`chart`] draws,
//! [`page`] puts it together, and [`follow`] serves it while the run goes on.

pub(crate) mod chart;
mod compare;
pub(crate) mod figures;
pub(crate) mod follow;
mod history;
mod http;
pub(crate) mod page;
pub(crate) mod subject;
mod tables;
mod trace;
