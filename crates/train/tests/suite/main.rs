//! Whole runs on small text: resuming, killing, failing disks, options, other objectives.

mod common;
mod configs;
mod effects;
mod faults;
mod kill;
mod objective;
mod resume;
