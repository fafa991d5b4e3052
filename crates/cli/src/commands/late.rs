//! A progress line that only comes when work takes longer than a person waits without wondering.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes less time is done before a person wonders.
const QUIET: Duration = Duration::from_secs(2);

/// A line on standard error, if that is a terminal; gone when it is dropped.
pub(crate) struct LateBar {
    bar: ProgressBar,
    started: Instant,
}

impl LateBar {
    /// Shows `template`, in the language of `indicatif`, with `len` as the end where it is known.
    pub(crate) fn new(template: &str, len: Option<u64>) -> LateBar {
        let style = ProgressStyle::with_template(template).expect("the template is legal");
        let bar =
            ProgressBar::with_draw_target(len, ProgressDrawTarget::hidden()).with_style(style);
        LateBar { bar, started: Instant::now() }
    }

    /// So much is done.
    pub(crate) fn at(&self, position: u64) {
        if self.bar.is_hidden() && self.started.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        self.bar.set_position(position);
    }
}

impl Drop for LateBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
