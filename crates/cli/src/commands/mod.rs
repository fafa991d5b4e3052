//! One file or folder per verb.

pub(crate) mod bench;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod fire;
pub(crate) mod generate;
mod late;
pub(crate) mod link;
pub(crate) mod lr_find;
mod model;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod runs;
mod stop;
pub(crate) mod train;
