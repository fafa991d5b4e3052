//! How long each part of an exchange took.

use std::time::Instant;

use crate::net::Stage;

/// Stages in the order of the work.
#[derive(Debug, Default)]
pub(super) struct Stages(pub(super) Vec<Stage>);

impl Stages {
    /// Does something on the clock.
    pub(super) fn time<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.0.push(Stage::new(name, started.elapsed()));
        done
    }
}
