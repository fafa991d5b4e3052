//! `metrics.jsonl`: one JSON object on one line per record, appended as it happens.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{METRICS_JSONL, RunDir};
use crate::{Error, Files, Sink, write_atomic};

/// The metrics file of a run, open for appending.
pub struct Metrics {
    files: Arc<dyn Files>,
    path: PathBuf,
    sink: Box<dyn Sink>,
    /// Length up to the last whole line.
    len: u64,
    torn: bool,
}

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    step: u64,
    #[serde(flatten)]
    record: &'a T,
}

impl Metrics {
    /// Opens the run's metrics to go on after step `resumed`: later lines and torn ones are cut.
    /// With `None` the run begins anew and every line goes.
    pub fn open(run: &RunDir, resumed: Option<u64>) -> Result<Self, Error> {
        let (files, path) = (run.files_handle(), run.file(METRICS_JSONL));
        let kept = |line: &[u8]| step_of(line).is_some_and(|step| Some(step) <= resumed);
        let mut all = true;
        each_line(&path, |line| {
            all &= kept(line);
            Ok(())
        })?;
        if !all {
            write_atomic(&*files, &path, |out| {
                visit(&path, |line| if kept(line) { out.write_all(line) } else { Ok(()) })
            })?;
        }
        let sink = files.append(&path).map_err(Error::at("open", &path))?;
        let len = path.metadata().map_err(Error::at("read", &path))?.len();
        Ok(Metrics { files, path, sink, len, torn: false })
    }

    /// Appends `{"step": step, ...record}`; `record` is a struct or map. Numbers that JSON does
    /// not know (not finite) become `null`.
    ///
    /// Fails with [`Error::Serialise`] or [`Error::Io`]; what a failed write left is cut before
    /// the next one.
    pub fn append(&mut self, step: u64, record: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&Line { step, record })
            .map_err(|e| Error::Serialise { path: self.path.clone(), message: e.to_string() })?;
        line.push(b'\n');
        if self.torn {
            self.files.truncate(&self.path, self.len).map_err(Error::at("cut", &self.path))?;
        }
        self.torn = true;
        self.sink.write_all(&line).map_err(Error::at("append to", &self.path))?;
        self.torn = false;
        self.len += line.len() as u64;
        Ok(())
    }

    /// Forces what was appended to the device; before a checkpoint, so that the lines of its past
    /// survive wherever it does.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.sink.sync().map_err(Error::at("sync", &self.path))
    }
}

/// The records of a file, without torn lines.
pub(super) fn records(path: &Path) -> Result<Vec<Value>, Error> {
    let mut records = Vec::new();
    each_line(path, |line| {
        records.extend(parse(line));
        Ok(())
    })?;
    Ok(records)
}

fn each_line(path: &Path, each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Error> {
    visit(path, each).map_err(Error::at("read", path))
}

/// Calls `each` with every line and its end; a missing file has none.
fn visit(path: &Path, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        each(&line)?;
        line.clear();
    }
    Ok(())
}

/// A whole line's record.
pub(super) fn parse(line: &[u8]) -> Option<Value> {
    let text = line.strip_suffix(b"\n")?;
    serde_json::from_slice(text).ok().filter(Value::is_object)
}

fn step_of(line: &[u8]) -> Option<u64> {
    parse(line)?.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, Fault, Faulty};

    #[derive(Serialize)]
    struct Loss {
        loss: f32,
    }

    fn run(files: Arc<dyn Files>, dir: &Path) -> RunDir {
        if dir.join("a").exists() {
            return RunDir::open(files, &dir.join("a")).unwrap();
        }
        RunDir::create(files, &dir.join("a"), "").unwrap()
    }

    fn steps(run: &RunDir) -> Vec<u64> {
        run.metrics().unwrap().iter().map(|record| record["step"].as_u64().unwrap()).collect()
    }

    #[test]
    fn lines_hold_step_and_record() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(Arc::new(Disk), dir.path());
        let mut metrics = Metrics::open(&run, None).unwrap();
        metrics.append(1, &Loss { loss: 2.5 }).unwrap();
        metrics.append(2, &Loss { loss: f32::NAN }).unwrap();
        metrics.sync().unwrap();
        let text = run.read_text(METRICS_JSONL).unwrap();
        assert_eq!(text, "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":null}\n");
    }

    #[test]
    fn resuming_cuts_later_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let run = run(Arc::new(Disk), dir.path());
        for (resumed, rest, kept) in [
            (Some(2), "{\"step\":4,\"lo", vec![1, 2]),
            (Some(9), "", vec![1, 2, 3]),
            (Some(9), "not json\n{\"step\":3}", vec![1, 2, 3]),
            (Some(9), "\0\0\0\0\n[1]\n{\"stop\":1}\n", vec![1, 2, 3]),
            (None, "", vec![]),
        ] {
            let text: String = (1..=3).map(|s| format!("{{\"step\":{s}}}\n")).collect();
            std::fs::write(run.file(METRICS_JSONL), text + rest).unwrap();
            let mut metrics = Metrics::open(&run, resumed).unwrap();
            assert_eq!(steps(&run), kept, "{rest:?}");
            metrics.append(7, &Loss { loss: 1.0 }).unwrap();
            assert_eq!(steps(&run), [&kept[..], &[7]].concat(), "{rest:?}");
        }
    }

    #[test]
    fn a_failed_append_leaves_no_torn_line_in_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        for fault in Fault::ALL {
            // Emptied first: rewriting is no part of the count.
            drop(Metrics::open(&run(Arc::new(Disk), dir.path()), None).unwrap());
            let counting = Faulty::counting();
            drop(Metrics::open(&run(Arc::new(counting.clone()), dir.path()), None).unwrap());
            // The next operation is the first append.
            let files = Faulty::once(counting.operations(), fault);
            let run = run(Arc::new(files), dir.path());
            let mut metrics = Metrics::open(&run, None).unwrap();
            let error = metrics.append(1, &Loss { loss: 1.0 }).unwrap_err().to_string();
            assert!(error.contains(METRICS_JSONL), "{error}");
            metrics.append(2, &Loss { loss: 1.0 }).unwrap();
            metrics.append(3, &Loss { loss: 1.0 }).unwrap();
            assert_eq!(steps(&run), [2, 3]);
            let text = run.read_text(METRICS_JSONL).unwrap();
            assert!(text.starts_with("{\"step\":2"), "{text}");
        }
    }
}
