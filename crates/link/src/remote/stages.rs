//! How long each part of an exchange took.

use std::time::{Duration, Instant};

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

    /// Gives the first part of the last stage a name of its own.
    pub(super) fn split(&mut self, name: &str, time: Duration) {
        let Some(mut last) = self.0.pop() else { return };
        let first = Stage::new(name, time);
        last.nanos = last.nanos.saturating_sub(first.nanos);
        self.0.extend([first, last]);
    }
}
