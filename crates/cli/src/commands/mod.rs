//! One file or folder per verb.

pub(crate) mod bench;
pub(crate) mod export;
pub(crate) mod generate;
mod model;
pub(crate) mod runs;
mod stop;
pub(crate) mod train;
