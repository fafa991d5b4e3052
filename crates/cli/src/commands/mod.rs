//! One file or folder per verb.

pub(crate) mod bench;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod lr_find;
mod model;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod runs;
mod stop;
pub(crate) mod train;
