//! Whole runs on small text: resuming, failing disks, options, other objectives.

mod common;
mod configs;
mod effects;
mod faults;
mod objective;
mod resume;
