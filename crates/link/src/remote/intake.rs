//! A container on its way in, checked against what was agreed on before a block of it is read.

use smidgen_tensor::Device;

use crate::Error;
use crate::message::{Arriving, Received};
use crate::net::{Code, Reject, Sink};
use crate::wire::{Expected, Header, Limits};

/// Reads each container block by block as it arrives.
pub(super) struct Intake {
    device: Device,
    expected: Expected,
    coming: Option<Arriving>,
    /// The one that ended last.
    pub(super) received: Option<Received>,
    /// Why the last one was refused.
    pub(super) fault: Option<Error>,
}

impl Intake {
    pub(super) fn new(device: Device, expected: Expected) -> Intake {
        Intake { device, expected, coming: None, received: None, fault: None }
    }

    fn start(&self, total_bytes: u64, header: &[u8]) -> Result<Arriving, Error> {
        let parsed = Header::parse(header, &Limits::default())?;
        parsed.check(&self.expected)?;
        let (start, total) = (parsed.header_bytes(), parsed.total_bytes);
        if (start, total) != (header.len(), total_bytes) {
            let expected = format!("{start} of {total} bytes");
            let got = format!("{} of {total_bytes}", header.len());
            return Err(Error::value("BEGIN", expected, got));
        }
        Arriving::new(&self.device, parsed, self.expected.shape, self.expected.seq_len)
    }

    /// Keeps an error for this side, and makes words of it for the peer.
    fn told<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Reject> {
        outcome.map_err(|error| {
            let reject = Reject::new(Code::Container, "container", "a valid one", &error);
            self.fault = Some(error);
            reject
        })
    }
}

impl Sink for Intake {
    fn begin(&mut self, total_bytes: u64, header: &[u8]) -> Result<(), Reject> {
        let started = self.start(total_bytes, header);
        self.coming = Some(self.told(started)?);
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        let pushed = self.coming.as_mut().map_or(Ok(()), |coming| coming.push(bytes));
        self.told(pushed)
    }

    fn end(&mut self, _: u32) -> Result<(), Reject> {
        let finished = self.coming.take().map(Arriving::finish).transpose();
        self.received = self.told(finished)?;
        Ok(())
    }

    fn discard(&mut self) {
        self.coming = None;
    }
}
