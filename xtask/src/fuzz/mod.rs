//! Hostile input in the process: every reader is fed valid files made wrong, and must neither panic
//! nor ask for more than eight times the input and a megabyte.
//!
//! Some of each reader of the link, and all inputs that ever broke a reader, are kept in
//! `testdata/fuzz/READER/` and replayed by the tests: what is called `valid-` is read as ever, and
//! what is called `wrong-` is refused.

mod heap;
mod link;
mod mutate;
mod targets;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::Context;
use smidgen_codec::Rng;

use self::heap::{Counting, peak_bytes};
use self::mutate::mutated;
use self::targets::{TARGETS, Target};

#[global_allocator]
static HEAP: Counting = Counting;

/// Inputs of a target unless a number is given.
const CASES: u64 = 1_000_000;

/// What an input of `len` bytes may make a reader ask for.
fn allowed_bytes(len: usize) -> usize {
    8 * len + (1 << 20)
}

impl Target {
    /// The input of a case. Where a checksum would keep every change from the parser behind it,
    /// every other input gets new ones.
    fn input(&self, seeds: &[Vec<u8>], rng: &Rng, case: u64) -> Vec<u8> {
        let mut input = mutated(seeds, rng, case);
        if case % 2 == 1 {
            (self.mend)(&mut input);
        }
        input
    }
}

/// Why an input is kept.
#[derive(Debug)]
enum Fault {
    Panic,
    Memory { bytes: usize },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Panic => write!(f, "panicked"),
            Fault::Memory { bytes } => write!(f, "asked for {bytes} bytes"),
        }
    }
}

/// Feeds one input to a reader; whether it was accepted, and the bytes it asked for.
fn try_input(target: &Target, folder: &Path, input: &[u8]) -> Result<(bool, usize), Fault> {
    let read = || catch_unwind(AssertUnwindSafe(|| (target.read)(folder, input)));
    let (read, bytes) = peak_bytes(read);
    let accepted = read.map_err(|_| Fault::Panic)?;
    let is_within = bytes <= allowed_bytes(input.len());
    if is_within { Ok((accepted, bytes)) } else { Err(Fault::Memory { bytes }) }
}

/// `fuzz [--cases N] [READER..]`.
pub(crate) fn fuzz(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    let (cases, names) = match arguments {
        ["--cases", number, names @ ..] => (number.parse().context("`--cases N`")?, names),
        names => (CASES, names),
    };
    let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(name)) {
        anyhow::bail!("unknown reader `{name}`, expected one of: {}", known.join(", "));
    }
    let mut passed = true;
    for target in TARGETS.iter().filter(|t| names.is_empty() || names.contains(&t.name)) {
        passed &= run(target, cases)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(target: &Target, cases: u64) -> anyhow::Result<bool> {
    let seeds = (target.seeds)()?;
    let (started, rng) = (Instant::now(), Rng::named(0, target.name));
    let (next, worst, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = || -> anyhow::Result<()> {
        let folder = tempfile::tempdir_in(fast_folder())?;
        loop {
            let case = next.fetch_add(1, Relaxed);
            if case >= cases {
                return Ok(());
            }
            let input = target.input(&seeds, &rng, case);
            match try_input(target, folder.path(), &input) {
                Ok((_, bytes)) => drop(worst.fetch_max(bytes as u64, Relaxed)),
                Err(fault) => {
                    failed.store(true, Relaxed);
                    let kept = keep(target, case, &input)?;
                    println!("{}: case {case}: {fault}, kept as {}", target.name, kept.display());
                }
            }
        }
    };
    let hook = std::panic::take_hook();
    // Panics are counted; a million of them need not be shown.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let ended: anyhow::Result<()> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().try_for_each(|thread| thread.join().expect("panics are caught inside"))
    });
    std::panic::set_hook(hook);
    ended?;
    let (word, seconds) =
        (if failed.load(Relaxed) { "FAILED" } else { "passed" }, started.elapsed());
    println!(
        "{:<14} {word}: {cases} inputs from {} seeds, at most {} KiB asked for, {:.0} s",
        target.name,
        seeds.len(),
        worst.load(Relaxed) >> 10,
        seconds.as_secs_f64()
    );
    Ok(!failed.load(Relaxed))
}

/// Where a file costs no disk access.
fn fast_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() }
}

fn corpus(target: &Target) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in a workspace");
    root.join("testdata/fuzz").join(target.name)
}

fn keep(target: &Target, case: u64, input: &[u8]) -> anyhow::Result<PathBuf> {
    let folder = corpus(target);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("case-{case}"));
    std::fs::write(&path, input)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for target in TARGETS {
            for seed in (target.seeds)().unwrap() {
                assert!((target.read)(folder.path(), &seed), "a seed of `{}`", target.name);
            }
        }
    }

    #[test]
    fn what_is_kept_is_read_or_refused_as_ever() {
        let folder = tempfile::tempdir().unwrap();
        for target in TARGETS {
            let (mut valid, mut wrong) = (0, 0);
            for entry in std::fs::read_dir(corpus(target)).into_iter().flatten() {
                let path = entry.unwrap().path();
                let input = std::fs::read(&path).unwrap();
                let tried = try_input(target, folder.path(), &input);
                let (accepted, _) =
                    tried.unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
                let name = path.file_name().unwrap().to_string_lossy();
                let (is_valid, is_wrong) = (name.starts_with("valid-"), name.starts_with("wrong-"));
                assert!(!(is_valid && !accepted || is_wrong && accepted), "{}", path.display());
                (valid, wrong) = (valid + u32::from(is_valid), wrong + u32::from(is_wrong));
            }
            let of_link = target.name.starts_with("link-") || target.name.starts_with("kvw");
            assert!(!of_link || valid > 0 && wrong > 0, "nothing is kept of `{}`", target.name);
        }
    }

    /// A bound that is never near says nothing.
    #[test]
    fn large_containers_ask_for_more_than_the_slack() {
        let target = TARGETS.iter().find(|target| target.name == "kvw").unwrap();
        let folder = Path::new("/");
        let asked = |seed: Vec<u8>| try_input(target, folder, &seed).unwrap().1;
        let mut asked: Vec<usize> = (target.seeds)().unwrap().into_iter().map(asked).collect();
        asked.sort_unstable();
        // One that is compressed, one of many sections.
        assert!(asked.iter().rev().take(2).all(|bytes| *bytes > allowed_bytes(0)), "{asked:?}");
    }

    #[test]
    fn a_few_thousand_wrong_inputs_for_every_reader() {
        let folder = tempfile::tempdir_in(fast_folder()).unwrap();
        for target in TARGETS {
            let (seeds, rng) = ((target.seeds)().unwrap(), Rng::named(1, target.name));
            for case in 0..2000 {
                let input = target.input(&seeds, &rng, case);
                if let Err(fault) = try_input(target, folder.path(), &input) {
                    let kept = keep(target, case, &input).unwrap();
                    panic!("{}: {fault}, kept as {}", target.name, kept.display());
                }
            }
        }
    }

    /// Seeds are small; the tables of a large vocabulary are what memory goes into.
    #[test]
    #[allow(clippy::print_stderr)] // A skipped test says so.
    fn published_tokenizers_are_read_within_the_limit() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/tokenizers");
        for (reader, file) in [
            ("tokenizer", "gpt2/tokenizer.json"),
            ("tokenizer", "phi-2/tokenizer.json"),
            ("tokenizer", "phi-3-mini/tokenizer.json"),
            ("sentencepiece", "mistral/tokenizer.model.v1"),
            ("sentencepiece", "mistral/mistral_instruct_tokenizer_240323.model.v3"),
        ] {
            let Ok(input) = std::fs::read(data.join(file)) else {
                eprintln!("skipped: no test data `{file}`");
                continue;
            };
            let target = TARGETS.iter().find(|target| target.name == reader).unwrap();
            let tried = try_input(target, Path::new("/"), &input);
            let (_, bytes) = tried.unwrap_or_else(|fault| panic!("{file}: {fault}"));
            assert!(bytes < 5 * input.len(), "{file}: {bytes} bytes for {}", input.len());
        }
    }

    #[test]
    fn a_reader_that_panics_or_hoards_is_found() {
        let seeds: fn() -> anyhow::Result<Vec<Vec<u8>>> = || Ok(Vec::new());
        let read: fn(&Path, &[u8]) -> bool = |_, input| input[0] == 1;
        let panics = Target { name: "panics", seeds, mend: |_| {}, read };
        let hoards = Target { name: "hoards", read: |_, _| vec![1u8; 3 << 20].len() > 1, ..panics };
        let folder = Path::new("/");
        assert!(matches!(try_input(&panics, folder, &[]), Err(Fault::Panic)));
        assert!(matches!(try_input(&hoards, folder, &[]), Err(Fault::Memory { .. })));
        assert!(try_input(&panics, folder, &[1]).is_ok());
    }
}
