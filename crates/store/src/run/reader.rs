//! Reading the metrics of a run that may still grow.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::Value;

use super::metrics::parse;
use super::{METRICS_JSONL, RunView};
use crate::Error;

/// Gives each record of a run once, however long the run is and however often it is asked; memory
/// is that of one line.
///
/// ```
/// use smidgen_store::{Disk, Metrics, MetricsReader, Past, RunDir};
/// use std::sync::Arc;
/// # let parent = tempfile::tempdir().unwrap();
/// let run = RunDir::create(Arc::new(Disk), &parent.path().join("run"), "")?;
/// let mut reader = MetricsReader::new(&run);
/// Metrics::open(&run, None)?.append(1, &[("loss", 2.5)].into_iter().collect::<std::collections::BTreeMap<_, _>>())?;
/// let mut steps = Vec::new();
/// assert_eq!(reader.read(|record| steps.push(record["step"].as_u64()))?, Past::Kept);
/// assert_eq!(steps, [Some(1)]);
/// # Ok::<(), smidgen_store::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MetricsReader {
    path: PathBuf,
    /// Bytes of the whole lines read so far.
    offset: u64,
    /// The last of them, to see whether the file is still the same.
    last: Vec<u8>,
}

/// What became of the records that were given before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Past {
    /// They are still in the file, and what is new was given.
    Kept,
    /// Some were cut, by a resume or a roll-back. Nothing was given; the next call gives all.
    Cut,
}

impl MetricsReader {
    /// At the beginning of the run's metrics, which need not be there yet.
    pub fn new(run: &RunView) -> MetricsReader {
        MetricsReader { path: run.file(METRICS_JSONL), offset: 0, last: Vec::new() }
    }

    /// Calls `each` with every whole record that was not given yet; torn lines are left out.
    /// Fails with [`Error::Io`].
    pub fn read(&mut self, each: impl FnMut(Value)) -> Result<Past, Error> {
        let past = self.advance(each).map_err(Error::at("read", &self.path))?;
        if past == Past::Cut {
            (self.offset, self.last) = (0, Vec::new());
        }
        Ok(past)
    }

    fn advance(&mut self, mut each: impl FnMut(Value)) -> io::Result<Past> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(if self.offset == 0 { Past::Kept } else { Past::Cut });
            }
            Err(e) => return Err(e),
        };
        if !self.still_ends_there(&mut file)? {
            return Ok(Past::Cut);
        }
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            if let Some(record) = parse(&line) {
                each(record);
            }
            self.offset += line.len() as u64;
            std::mem::swap(&mut self.last, &mut line);
            line.clear();
        }
        Ok(Past::Kept)
    }

    /// Whether the last line read is where it was; leaves the file at its end.
    fn still_ends_there(&self, file: &mut File) -> io::Result<bool> {
        file.seek(SeekFrom::Start(self.offset - self.last.len() as u64))?;
        let mut there = Vec::with_capacity(self.last.len());
        file.by_ref().take(self.last.len() as u64).read_to_end(&mut there)?;
        Ok(there == self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, MetricsReader) {
        let dir = tempfile::tempdir().unwrap();
        let reader = MetricsReader::new(&RunView::unchecked(dir.path()));
        (dir, reader)
    }

    fn steps(reader: &mut MetricsReader) -> (Vec<u64>, Past) {
        let mut steps = Vec::new();
        let past = reader.read(|record| steps.extend(record["step"].as_u64())).unwrap();
        (steps, past)
    }

    fn lines(steps: &[u64]) -> String {
        steps.iter().map(|step| format!("{{\"step\":{step}}}\n")).collect()
    }

    #[test]
    fn each_record_is_given_once() {
        let (dir, mut reader) = fresh();
        let file = dir.path().join(METRICS_JSONL);
        assert_eq!(steps(&mut reader), (vec![], Past::Kept));
        std::fs::write(&file, lines(&[1, 2]) + "{\"step\":3").unwrap();
        assert_eq!(steps(&mut reader), (vec![1, 2], Past::Kept));
        assert_eq!(steps(&mut reader), (vec![], Past::Kept));
        std::fs::write(&file, lines(&[1, 2, 3]) + "no json\n\0\0\n" + &lines(&[4])).unwrap();
        assert_eq!(steps(&mut reader), (vec![3, 4], Past::Kept));
    }

    #[test]
    fn a_cut_past_is_noticed_and_read_again() {
        let (dir, mut reader) = fresh();
        let file = dir.path().join(METRICS_JSONL);
        std::fs::write(&file, lines(&[1, 2, 3])).unwrap();
        assert_eq!(steps(&mut reader).0, [1, 2, 3]);
        for shorter in [lines(&[1, 2]), lines(&[1]) + "{\"step\":2,\"again\":true}\n"] {
            std::fs::write(&file, &shorter).unwrap();
            assert_eq!(steps(&mut reader), (vec![], Past::Cut), "{shorter}");
            assert_eq!(steps(&mut reader).1, Past::Kept);
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(steps(&mut reader), (vec![], Past::Cut));
        assert_eq!(steps(&mut reader), (vec![], Past::Kept));
    }
}
