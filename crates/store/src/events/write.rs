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
/// left torn at the end of its file stays there and harms nobody.
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
        let summary = scalars.iter().fold(Message::default(), |summary, (tag, value)| {
            summary.message(1, Message::default().bytes(1, tag.as_bytes()).float(2, *value))
        });
        self.append(step, |event| event.message(5, summary))
    }

    /// A text of one step, shown under the text tab as Markdown. Fails as [`Self::scalars`] does.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<(), Error> {
        // A tensor of no dimensions that holds one string, for the plugin named `text`.
        let tensor = Message::default()
            .varint(1, DT_STRING)
            .message(2, Message::default())
            .bytes(8, text.as_bytes());
        let plugin = Message::default().bytes(1, b"text");
        let metadata = Message::default().message(1, plugin).varint(4, DATA_CLASS_TENSOR);
        let value = Message::default().bytes(1, tag.as_bytes()).message(9, metadata);
        let summary = Message::default().message(1, value.message(8, tensor));
        self.append(step, |event| event.message(5, summary))
    }

    /// Forces what was appended to the device.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.sink.sync().map_err(Error::at("sync", &self.path))
    }

    fn append(&mut self, step: u64, fill: impl FnOnce(Message) -> Message) -> Result<(), Error> {
        let event = Message::default().double(1, unix_seconds()).varint(2, step);
        let record = framed(&fill(event).finish());
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
