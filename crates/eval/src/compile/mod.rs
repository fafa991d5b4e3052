//! Compile rate: the share of a model's completions of Rust functions that type-check.
//!
//! A prompt is the header of a held-out function up to its opening brace ([`CompileTask::prompts`]).
//! A completion becomes a program by [`wrap`]: prompt and completion, cut behind the brace that
//! closes the function. `rustc` then reads it twice in a [sandbox](crate::sandbox): once under
//! `#![cfg(any())]`, which drops everything after parsing, and once to check types
//! (`--edition 2021 --crate-type lib --emit metadata`). Nothing is ever run.

mod braces;
mod prompts;
mod rustc;
mod wilson;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use wilson::wilson;

use crate::Error;
use crate::sandbox::SandboxPolicy;
use rustc::{Rustc, Verdict};

/// Headers that are asked of the compiler for each one that is wanted; most of a crate's functions
/// use its own types.
const TRIES: usize = 16;

/// A set of prompts and a compiler to judge their completions.
#[derive(Clone, Debug)]
pub struct CompileTask {
    prompts: Vec<String>,
    rustc: Rustc,
}

/// What the compiler said of a set of programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompileReport {
    /// Programs that were judged.
    pub samples: usize,
    /// Those that parse.
    pub parsed: usize,
    /// Those that type-check, too.
    pub compiled: usize,
    /// `compiled / samples`; 0 for no samples.
    pub rate: f64,
    /// Lower end of the 95 % Wilson interval of `rate`.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Programs by the first error: a code such as `E0308`, the name of a lint, or `unfinished` (the
    /// function is never closed), `syntax`, `other`, `time`, `crash` (of the
    /// compiler, memory that ran out included).
    pub failures: BTreeMap<String, usize>,
    /// The version line of the compiler: another one may judge otherwise.
    pub rustc: String,
    /// Whether programs were compiled in isolation.
    pub isolated: bool,
}

impl CompileTask {
    /// Chooses at most `samples` prompts from held-out texts by `seed`, and tries the sandbox.
    /// Fewer come out where the texts have fewer functions that stand for themselves.
    ///
    /// # Errors
    /// `Unavailable` where the system refuses a part of the sandbox, `NoRustc`, `NoPrompts`.
    pub fn new<'a>(
        val_texts: impl Iterator<Item = &'a str>,
        samples: usize,
        seed: u64,
        policy: &SandboxPolicy,
    ) -> Result<CompileTask, Error> {
        let rustc = Rustc::find(policy)?;
        let candidates = prompts::candidates(val_texts, seed);
        let functions = candidates.len();
        let mut prompts = Vec::new();
        for header in candidates.into_iter().take(samples.saturating_mul(TRIES)) {
            if prompts.len() == samples {
                break;
            }
            if rustc.judge(&format!("{header} loop {{}} }}"))? == Verdict::Compiled {
                prompts.push(header);
            }
        }
        if prompts.is_empty() {
            return Err(Error::NoPrompts { functions });
        }
        Ok(CompileTask { prompts, rustc })
    }

    /// The prompts; a completion is what a model writes behind one of them.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }

    /// Judges one completion for each prompt, in their order.
    ///
    /// # Errors
    /// `Completions` for another number of them; `Sandbox` where the compiler cannot be started.
    pub fn score(&self, completions: &[String]) -> Result<CompileReport, Error> {
        if completions.len() != self.prompts.len() {
            return Err(Error::Completions {
                expected: self.prompts.len(),
                got: completions.len(),
            });
        }
        let pairs = self.prompts.iter().zip(completions);
        let verdicts = pairs.map(|(prompt, completion)| match wrap(prompt, completion) {
            Some(program) => self.rustc.judge(&program),
            None => Ok(Verdict::Unparsed("unfinished".to_owned())),
        });
        let report = report(&verdicts.collect::<Result<Vec<_>, _>>()?);
        let (rustc, isolated) = (self.rustc.version().to_owned(), self.rustc.isolated());
        Ok(CompileReport { rustc, isolated, ..report })
    }
}

/// The program of a completion: the function of the prompt, cut behind its closing brace; none where
/// it is never closed. Braces in strings, characters and comments do not count.
pub fn wrap(prompt: &str, completion: &str) -> Option<String> {
    let mut program = format!("{prompt}{completion}");
    program.truncate(braces::block_end(&program, prompt.len())?);
    program.push('\n');
    Some(program)
}

fn report(verdicts: &[Verdict]) -> CompileReport {
    let samples = verdicts.len();
    let mut failures = BTreeMap::new();
    let (mut parsed, mut compiled) = (0, 0);
    for verdict in verdicts {
        match verdict {
            Verdict::Compiled => compiled += 1,
            Verdict::Unparsed(class) | Verdict::Refused(class) => {
                *failures.entry(class.clone()).or_default() += 1;
            }
        }
        parsed += usize::from(!matches!(verdict, Verdict::Unparsed(_)));
    }
    let rate = if samples == 0 { 0.0 } else { compiled as f64 / samples as f64 };
    let (low, high) = wilson(compiled, samples);
    CompileReport { samples, parsed, compiled, rate, low, high, failures, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_with_its_function() {
        let program = wrap("fn f() {", " if true { } }\nfn g() { }").unwrap();
        assert_eq!(program, "fn f() { if true { } }\n");
        assert_eq!(wrap("fn f() {", " \"}\" // }"), None);
        assert_eq!(wrap("fn f() {", ""), None);
    }

    #[test]
    fn a_report_counts_by_the_first_error() {
        let verdicts = [
            Verdict::Compiled,
            Verdict::Unparsed("syntax".into()),
            Verdict::Refused("E0308".into()),
            Verdict::Refused("E0308".into()),
        ];
        let report = report(&verdicts);
        assert_eq!((report.samples, report.parsed, report.compiled), (4, 3, 1));
        assert_eq!(report.rate, 0.25);
        assert_eq!(report.failures, [("E0308".into(), 2), ("syntax".into(), 1)].into());
        assert_eq!((report.low, report.high), wilson(1, 4));
        assert_eq!(super::report(&[]).rate, 0.0);
    }
}
