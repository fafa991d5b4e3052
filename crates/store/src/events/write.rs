//! Appending events to a file of a run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::proto::Message;
use super::record::framed;
use super::{FILE_VERSION, PREFIX};
use crate::run::names;
use crate::{Error, Files, RunDir, Sink};

/// `SessionLog.status`: a session starts.
const START: u64 = 1;
/// `TensorProto.dtype` and `SummaryMetadata.data_class` of texts.
const DT_STRING: u64 = 7;
const DATA_CLASS_TENSOR: u64 = 2;

/// An event file of a run, open for appending. Every process begins its own: what a killed one
/// left torn at the end of its file stays there and harms nobody. Nothing is forced to the device: a
/// killed process loses nothing, a power cut the last seconds.
pub struct EventWriter {
    files: Arc<dyn Files>,
    path: PathBuf,
    sink: Box<dyn Sink>,
    /// Length up to the last whole record.
    len: u64,
    torn: bool,
}

impl EventWriter {
    /// Begins a file in `RUN/events/`; the run is about to do step `next_step` (counted from 1), and
    /// what earlier files say of that step and later ones is taken back.
    ///
    /// Fails with [`Error::Io`], so that a folder that cannot be written is known before anything
    /// is spent.
    pub fn create(run: &RunDir, next_step: u64) -> Result<Self, Error> {
        let (files, folder) = (run.files_handle(), run.events_folder());
        files.create_dir_all(&folder).map_err(Error::at("create", &folder))?;
        let path = folder.join(fresh_name(&folder)?);
        let sink = files.create(&path).map_err(Error::at("create", &path))?;
        let mut writer = EventWriter { files, path, sink, len: 0, torn: false };
        writer.append(0, |event| event.bytes(3, FILE_VERSION.as_bytes()))?;
        writer.restart(next_step)?;
        writer.files.sync_dir(&folder).map_err(Error::at("sync", &folder))?;
        Ok(writer)
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes back what was said of `next_step` and later steps: the run went back.
    pub fn restart(&mut self, next_step: u64) -> Result<(), Error> {
        let session = Message::default().varint(1, START);
        self.append(next_step, |event| event.message(7, session))
    }

    /// Scalars of one step, by tag; an empty list writes nothing.
    ///
    /// Fails with [`Error::Io`]; what a failed write left is cut before the next one.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f32)]) -> Result<(), Error> {
        if scalars.is_empty() {
            return Ok(());
        }
        self.append(step, |event| event.message(5, scalar_summary(scalars)))
    }

    /// A text of one step, shown under the text tab as Markdown. Fails as [`Self::scalars`] does.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<(), Error> {
        self.append(step, |event| event.message(5, text_summary(tag, text)))
    }

    fn append(&mut self, step: u64, fill: impl FnOnce(Message) -> Message) -> Result<(), Error> {
        let record = framed(&fill(event(unix_seconds(), step)).finish());
        if self.torn {
            self.files.truncate(&self.path, self.len).map_err(Error::at("cut", &self.path))?;
        }
        self.torn = true;
        self.sink.write_all(&record).map_err(Error::at("append to", &self.path))?;
        self.torn = false;
        self.len += record.len() as u64;
        Ok(())
    }
}

/// The beginning of an event; as everywhere in the format, a zero is not written.
fn event(wall_time: f64, step: u64) -> Message {
    let event = Message::default().double(1, wall_time);
    if step == 0 { event } else { event.varint(2, step) }
}

fn scalar_summary(scalars: &[(String, f32)]) -> Message {
    scalars.iter().fold(Message::default(), |summary, (tag, value)| {
        summary.message(1, Message::default().bytes(1, tag.as_bytes()).float(2, *value))
    })
}

/// A tensor of no dimensions that holds one string, for the plugin named `text`.
fn text_summary(tag: &str, text: &str) -> Message {
    let tensor = Message::default()
        .varint(1, DT_STRING)
        .message(2, Message::default())
        .bytes(8, text.as_bytes());
    let plugin = Message::default().bytes(1, b"text");
    let metadata = Message::default().message(1, plugin).varint(4, DATA_CLASS_TENSOR);
    let value = Message::default().bytes(1, tag.as_bytes()).message(8, tensor);
    Message::default().message(1, value.message(9, metadata))
}

/// Readers take files in the order of their names, so a new one is later than all there are, even
/// in the same second or after the clock was set back.
fn fresh_name(folder: &Path) -> Result<String, Error> {
    let earlier = names(folder)?;
    let times = earlier
        .iter()
        .filter_map(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok());
    let time = times.max().map_or(0, |last| last.saturating_add(1)).max(unix_seconds() as u64);
    Ok(format!("{PREFIX}{time:010}.{}", host()))
}

/// The machine's name, as far as a file's name can hold it.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let safe = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
    let name: String = name.chars().filter(safe).take(64).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::record::unframed;

    /// By `scripts/golden_events.py`, with the real package.
    const GOLDEN: &[u8] = include_bytes!("../../../../testdata/golden/events.out.tfevents");

    #[test]
    fn events_are_the_bytes_of_the_real_package() {
        let mut rest = GOLDEN;
        // The first record names its writer.
        (_, rest) = unframed(rest).unwrap();
        let scalars = |step: u32| {
            let (loss, lr) = (4.0 / f64::from(step), 1e-3 * f64::from(step));
            let scalars = [("train/loss".into(), loss as f32), ("lr/rest".into(), lr as f32)];
            Message::default().message(5, scalar_summary(&scalars)).finish()
        };
        let text = text_summary("samples/1", "    Once upon a time, é\n");
        let start = Message::default().message(7, Message::default().varint(1, START));
        let expected = [
            (0, start.finish()),
            (1, scalars(1)),
            (2, scalars(2)),
            (3, scalars(3)),
            (3, Message::default().message(5, text).finish()),
        ];
        for (i, (step, content)) in expected.into_iter().enumerate() {
            let mut payload = event(1_700_000_000.5 + i as f64, step).finish();
            payload.extend_from_slice(&content);
            let record = framed(&payload);
            assert_eq!(record, rest[..record.len()], "record {i}");
            rest = &rest[record.len()..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_new_file_comes_after_all_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let first = fresh_name(dir.path()).unwrap();
        assert!(first.strip_prefix(PREFIX).is_some_and(|rest| rest.contains('.')), "{first}");
        std::fs::write(dir.path().join(&first), "").unwrap();
        let second = fresh_name(dir.path()).unwrap();
        assert!(second > first, "{second}");
        std::fs::write(dir.path().join("events.out.tfevents.3000000000.host.1.v2"), "").unwrap();
        std::fs::write(dir.path().join("events.out.tfevents.x"), "").unwrap();
        assert!(fresh_name(dir.path()).unwrap().contains(".3000000001."));
    }
}
