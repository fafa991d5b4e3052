//! What the program does, line by line on standard error, for people and for other programs.

use std::io::IsTerminal;

use clap::{ArgAction, ValueEnum};
use tracing::Level;

use crate::out;

/// How much is logged, and in which form.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Say more on standard error; twice and three times for even more
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 900)]
    verbose: u8,
    /// Log this level and those above it to standard error [default: warn, or by -v]
    #[arg(long, global = true, value_name = "LEVEL", display_order = 901)]
    log_level: Option<LogLevel>,
    /// One line of text, or one JSON object, for everything on standard error
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", display_order = 902)]
    log_format: LogFormat,
}

/// A level by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Args {
    fn level(&self) -> Level {
        match (self.log_level, self.verbose) {
            (Some(LogLevel::Error), _) => Level::ERROR,
            (Some(LogLevel::Warn), _) | (None, 0) => Level::WARN,
            (Some(LogLevel::Info), _) | (None, 1) => Level::INFO,
            (Some(LogLevel::Debug), _) | (None, 2) => Level::DEBUG,
            (Some(LogLevel::Trace), _) | (None, _) => Level::TRACE,
        }
    }

    /// Sends what the libraries log to standard error, from now on.
    pub(crate) fn begin(&self) {
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
        let log = log.with_ansi(std::io::stderr().is_terminal());
        let log = log.with_max_level(self.level());
        match self.log_format {
            LogFormat::Text => log.with_target(false).without_time().init(),
            LogFormat::Json => {
                out::notes_as_json();
                log.json().flatten_event(true).init();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_named_stands_above_the_letters() {
        let level =
            |log_level, verbose| Args { verbose, log_level, log_format: LogFormat::Text }.level();
        assert_eq!(
            [0, 1, 2, 3, 9].map(|n| level(None, n)),
            [Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE, Level::TRACE]
        );
        assert_eq!(level(Some(LogLevel::Error), 3), Level::ERROR);
    }
}
