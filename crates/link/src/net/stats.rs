//! `STATS`: what the receiver counted and how long its stages took, so that both sides know.
//!
//! Body: eight u64 of bytes received, eight u64 of bytes sent (before this frame), u64 messages and
//! u64 container bytes discarded, u16 stages, then per stage u64 nanoseconds and its name.

use std::time::Duration;

use super::body::{Fields, put_text};
use super::bytes::{LinkBytes, Traffic};
use super::error::{FrameError, NetError};
use super::frame::Frame;

/// Most stages of one answer.
pub const MAX_STAGES: usize = 64;
/// Longest name of a stage.
pub const MAX_STAGE_BYTES: usize = 32;

/// One stage of the receiver's work.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stage {
    /// `verify`, `fuse`, `first_token` ...: at most 32 bytes.
    pub name: String,
    /// How long it took.
    pub nanos: u64,
}

impl Stage {
    /// A stage that took `time`.
    pub fn new(name: impl Into<String>, time: Duration) -> Stage {
        Stage { name: name.into(), nanos: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) }
    }
}

/// Messages that began and were thrown away, whole or in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Discarded {
    /// How many.
    pub messages: u64,
    /// Their bytes that came, already in [`LinkBytes::container`].
    pub container_bytes: u64,
}

/// The receiver's answer to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Bytes of the session so far, as the receiver saw them.
    pub traffic: Traffic,
    /// What was thrown away.
    pub discarded: Discarded,
    /// At most [`MAX_STAGES`], in the order of the work.
    pub stages: Vec<Stage>,
}

impl Stats {
    pub(super) fn body(&self) -> Result<Vec<u8>, NetError> {
        let unsayable = |field, expected: String, got: usize| {
            Err(NetError::Unsayable { field, expected, got: got.to_string() })
        };
        if self.stages.len() > MAX_STAGES {
            return unsayable("stages", format!("at most {MAX_STAGES}"), self.stages.len());
        }
        let longest = self.stages.iter().map(|stage| stage.name.len()).max().unwrap_or_default();
        if longest > MAX_STAGE_BYTES {
            return unsayable("stage", format!("at most {MAX_STAGE_BYTES} bytes"), longest);
        }
        let mut out = Vec::new();
        let counts = [self.discarded.messages, self.discarded.container_bytes];
        let [received, sent] = [self.traffic.received.fields(), self.traffic.sent.fields()];
        for number in received.iter().chain(&sent).chain(&counts) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.stages.len() as u16).to_le_bytes());
        for stage in &self.stages {
            out.extend_from_slice(&stage.nanos.to_le_bytes());
            put_text(&mut out, &stage.name);
        }
        Ok(out)
    }

    pub(super) fn read(frame: &Frame<'_>) -> Result<Stats, FrameError> {
        let mut fields = Fields::of(frame);
        let [received, sent] = [read_bytes(&mut fields)?, read_bytes(&mut fields)?];
        let discarded = Discarded {
            messages: fields.u64("discarded messages")?,
            container_bytes: fields.u64("discarded bytes")?,
        };
        let count = usize::from(fields.u16("stages")?);
        if count > MAX_STAGES {
            return Err(fields.wrong("stages", 2, format!("at most {MAX_STAGES}"), count));
        }
        let mut stages = Vec::new();
        for _ in 0..count {
            let nanos = fields.u64("stage time")?;
            let name = fields.text("stage name", MAX_STAGE_BYTES)?.to_owned();
            stages.push(Stage { name, nanos });
        }
        fields.end()?;
        Ok(Stats { traffic: Traffic { sent, received }, discarded, stages })
    }
}

fn read_bytes(fields: &mut Fields<'_>) -> Result<LinkBytes, FrameError> {
    let mut numbers = [0; 8];
    for number in &mut numbers {
        *number = fields.u64("byte count")?;
    }
    Ok(LinkBytes::from_fields(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::Kind;

    #[test]
    fn statistics_come_back_and_too_many_are_refused() {
        let received = LinkBytes { container: 7, framing: 32, ..LinkBytes::default() };
        let mut stats = Stats {
            traffic: Traffic { received, sent: LinkBytes { control: 3, ..received } },
            discarded: Discarded { messages: 1, container_bytes: 5 },
            stages: vec![
                Stage::new("fuse", Duration::from_micros(3)),
                Stage::new("", Duration::MAX),
            ],
        };
        let read =
            |body: &[u8]| Stats::read(&Frame { kind: Kind::Stats, seq: 0, body_offset: 0, body });
        let body = stats.body().unwrap();
        assert_eq!(body.len(), 18 * 8 + 2 + 2 * 10 + 4);
        assert_eq!(read(&body).unwrap(), stats);
        for len in 0..body.len() {
            assert!(read(&body[..len]).is_err());
        }
        stats.stages[0].name = "n".repeat(33);
        assert!(matches!(stats.body(), Err(NetError::Unsayable { field: "stage", .. })));
        stats.stages = vec![Stage::new("n", Duration::ZERO); 65];
        assert!(matches!(stats.body(), Err(NetError::Unsayable { field: "stages", .. })));
    }
}
