//! Reading event files: ours and those of other writers. Nothing is trusted and nothing is copied:
//! events borrow from the file's bytes, so a reader needs no more memory than the file.

use std::path::{Path, PathBuf};

use super::proto::{Fields, Wire};
use super::record::unframed;
use crate::Error;

/// An event file in memory.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event<'a> {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// The step it is about.
    pub step: u64,
    /// What it says.
    pub content: Content<'a>,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Content<'a> {
    /// The first record: the version of the format.
    Version(&'a str),
    /// A session starts: what was said of this step and later ones is taken back.
    Start,
    /// Values, walked over with [`Event::values`].
    Summary(&'a [u8]),
    /// Anything else that writers put into events.
    Other,
}

/// One value of a summary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SummaryValue<'a> {
    /// Its name.
    pub tag: &'a str,
    /// What it shows.
    pub shown: Shown<'a>,
}

/// What a value shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shown<'a> {
    /// A number of a curve.
    Scalar(f32),
    /// A text.
    Text(&'a str),
    /// A picture, a histogram, or another kind that nobody here reads.
    Other,
}

impl EventFile {
    /// Reads a file. Fails with [`Error::Missing`] or [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self::from_bytes(path, bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::Missing { what: "an event file", path: path.into() })
            }
            Err(e) => Err(Error::at("read", path)(e)),
        }
    }

    /// The same over bytes in memory; `path` is for messages.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        EventFile { path: path.to_path_buf(), bytes }
    }

    /// The events in the order of the file. A damaged or torn record ends them with
    /// [`Error::Corrupt`], which names its place; what stands before it is given.
    pub fn events(&self) -> impl Iterator<Item = Result<Event<'_>, Error>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let at = self.bytes.len() - rest.len();
            let read = unframed(rest).and_then(|(payload, after)| {
                let event = event(payload).ok_or(("an event", "other bytes".to_string()))?;
                Ok((event, after))
            });
            let (event, after) = match read {
                Ok((event, after)) => (Ok(event), after),
                Err((expected, got)) => {
                    let expected = format!("{expected} at byte {at}");
                    (Err(Error::corrupt(&self.path, expected, got)), &[][..])
                }
            };
            rest = after;
            Some(event)
        })
    }
}

impl<'a> Event<'a> {
    /// The values of a summary; any other event has none.
    pub fn values(&self) -> impl Iterator<Item = SummaryValue<'a>> {
        let summary = if let Content::Summary(bytes) = self.content { bytes } else { &[] };
        // The event was walked over when it was read: what is no value is not there.
        Fields(summary).filter_map(|field| match field? {
            (1, Wire::Bytes(bytes)) => value(bytes),
            _ => None,
        })
    }
}

fn event(payload: &[u8]) -> Option<Event<'_>> {
    let mut event = Event { wall_time: 0.0, step: 0, content: Content::Other };
    for field in Fields(payload) {
        match field? {
            (1, Wire::Fixed64(time)) => event.wall_time = f64::from_le_bytes(time),
            (2, Wire::Varint(step)) => event.step = step,
            (3, Wire::Bytes(text)) => {
                event.content = Content::Version(std::str::from_utf8(text).ok()?);
            }
            (5, Wire::Bytes(summary)) => {
                check_summary(summary)?;
                event.content = Content::Summary(summary);
            }
            (7, Wire::Bytes(session)) if starts(session)? => event.content = Content::Start,
            _ => {}
        }
    }
    Some(event)
}

fn starts(session: &[u8]) -> Option<bool> {
    let mut found = false;
    for field in Fields(session) {
        found |= field? == (1, Wire::Varint(1));
    }
    Some(found)
}

/// Every value must have its form, so that walking over them later cannot fail.
fn check_summary(summary: &[u8]) -> Option<()> {
    for field in Fields(summary) {
        if let (1, Wire::Bytes(bytes)) = field? {
            value(bytes)?;
        }
    }
    Some(())
}

fn value(bytes: &[u8]) -> Option<SummaryValue<'_>> {
    let mut value = SummaryValue { tag: "", shown: Shown::Other };
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(tag)) => value.tag = std::str::from_utf8(tag).ok()?,
            (2, Wire::Fixed32(number)) => value.shown = Shown::Scalar(f32::from_le_bytes(number)),
            (8, Wire::Bytes(tensor)) => {
                if let Some(text) = text(tensor)? {
                    value.shown = Shown::Text(text);
                }
            }
            _ => {}
        }
    }
    Some(value)
}

/// The first string of a tensor; `Some(None)` for a tensor of numbers.
fn text(tensor: &[u8]) -> Option<Option<&str>> {
    let mut found = None;
    for field in Fields(tensor) {
        if let (8, Wire::Bytes(text)) = field? {
            // Others write any bytes as strings; those are no text.
            found = found.or(std::str::from_utf8(text).ok());
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `scripts/golden_events.py`, with the real package.
    const GOLDEN: &[u8] = include_bytes!("../../../../testdata/golden/events.out.tfevents");

    fn golden(bytes: &[u8]) -> EventFile {
        EventFile::from_bytes(Path::new("golden"), bytes.to_vec())
    }

    #[test]
    fn the_real_packages_file_is_read() {
        let file = golden(GOLDEN);
        let events: Vec<Event<'_>> = file.events().map(Result::unwrap).collect();
        assert_eq!(events[0].content, Content::Version(super::super::FILE_VERSION));
        assert_eq!(events[1].content, Content::Start);
        let steps: Vec<u64> = events.iter().map(|event| event.step).collect();
        assert_eq!(steps, [0, 0, 1, 2, 3, 3]);
        assert_eq!(events[5].wall_time, 1_700_000_004.5);
        let values: Vec<_> = events[3].values().collect();
        assert_eq!(values[0], SummaryValue { tag: "train/loss", shown: Shown::Scalar(2.0) });
        assert_eq!(values[1], SummaryValue { tag: "lr/rest", shown: Shown::Scalar(2e-3) });
        let text: Vec<_> = events[5].values().collect();
        let shown = Shown::Text("    Once upon a time, é\n");
        assert_eq!(text, [SummaryValue { tag: "samples/1", shown }]);
    }

    #[test]
    fn damage_is_named_with_its_place_and_what_stands_before_is_given() {
        for (bytes, whole, message) in [
            (&GOLDEN[..GOLDEN.len() - 1], 5, "expected a whole record at byte 309, got 86 bytes"),
            (&GOLDEN[..3], 0, "expected a whole record at byte 0, got 3 bytes"),
            (&b"not an event file"[..], 0, "expected a length with its checksum at byte 0"),
        ] {
            let file = golden(bytes);
            let events: Vec<_> = file.events().collect();
            assert_eq!(events.len(), whole + 1);
            assert!(events[..whole].iter().all(Result::is_ok));
            let error = events[whole].as_ref().unwrap_err().to_string();
            assert!(error.contains(message) && error.ends_with("in golden"), "{error}");
        }
        assert_eq!(golden(b"").events().count(), 0);
    }

    #[test]
    fn a_right_checksum_over_other_bytes_is_no_event() {
        for payload in [&b"\x2a\x02\x0a\x05"[..], b"\x1a\x01\xff", b"\xff", b"\x3a\x01\x08"] {
            let file = golden(&super::super::record::framed(payload));
            let error = file.events().next().unwrap().unwrap_err().to_string();
            assert!(error.contains("expected an event at byte 0"), "{error}");
        }
    }
}
