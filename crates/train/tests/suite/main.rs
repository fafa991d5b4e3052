//! Whole runs on small text: resuming, failing disks, options, other objectives.

mod apart;
mod common;
mod compiling;
mod configs;
mod effects;
mod exchange;
mod extend;
mod faults;
mod init;
mod lr_find;
mod objective;
mod paging;
mod phase;
mod pressure;
mod reference;
mod resume;
mod samples;
mod watching;
mod weights;
