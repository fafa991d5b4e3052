//! A container on its way in, checked against what was agreed on before a block of it is read.

use std::time::Duration;

use smidgen_tensor::Device;

use crate::Error;
use crate::message::{Arriving, Received};
use crate::net::{Code, Reject, Sink};
use crate::wire::{Expected, Fault, Header, Limits, WireError};

/// Reads each container block by block as it arrives.
pub struct Intake {
    device: Device,
    expected: Expected,
    /// What came of one that has not ended.
    pub(super) coming: Option<Arriving>,
    /// What checking the blocks of the last one took.
    pub(super) verified: Duration,
    received: Option<Received>,
    /// Why the last one was refused.
    pub(super) fault: Option<Error>,
}

impl Intake {
    /// For containers that are as `expected`, whose rows go on the ledger of `device`.
    pub fn new(device: Device, expected: Expected) -> Intake {
        let (verified, received) = (Duration::ZERO, None);
        Intake { device, expected, coming: None, verified, received, fault: None }
    }

    /// The one that ended last, once.
    pub fn take(&mut self) -> Option<Received> {
        self.received.take()
    }

    fn start(&self, total_bytes: u64, header: &[u8]) -> Result<Arriving, Error> {
        let parsed = Header::parse(header, &Limits::default())?;
        parsed.check(&self.expected)?;
        // Where the header says them.
        for (field, offset, expected, got) in [
            ("header bytes", 12, parsed.header_bytes() as u64, header.len() as u64),
            ("container bytes", 16, parsed.total_bytes, total_bytes),
        ] {
            if expected != got {
                let fault = Fault::Number { field, expected, got };
                return Err(WireError { offset, fault }.into());
            }
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
        let Some(coming) = self.coming.take() else { return Ok(()) };
        self.verified = coming.verified();
        self.received = Some(self.told(coming.finish())?);
        Ok(())
    }

    fn discard(&mut self) {
        self.coming = None;
    }
}

#[cfg(test)]
mod tests {
    use smidgen_codec::Ledger;

    use super::*;
    use crate::wire::{Group, Pair, Plan, Precision, encode, reference};

    /// A container, where its header ends, and an intake for it.
    fn sample(ledger: Ledger) -> (Vec<u8>, usize, Intake) {
        let cache = reference(1, 2, 1, 8, 10);
        let group = Group::new(vec![1, 4], Pair::both(Precision::Int8));
        let container =
            encode(&Device::cpu(Ledger::new(), 1), cache.view(), &Plan::new(2, vec![group]));
        let container = container.unwrap();
        let header = Header::parse(&container, &Limits::default()).unwrap();
        let (shape, about) = (header.shape(), header.about);
        let expected = Expected { shape, seq_len: 10, batch: 1, about };
        let start = header.header_bytes();
        (container, start, Intake::new(Device::cpu(ledger, 1), expected))
    }

    /// What the intake says to a `BEGIN`, and what the peer is told.
    fn refused(intake: &mut Intake, total_bytes: u64, header: &[u8]) -> Error {
        let reject = intake.begin(total_bytes, header).unwrap_err();
        assert_eq!((reject.code, &*reject.field), (Code::Container, "container"));
        intake.fault.take().unwrap()
    }

    #[test]
    fn a_container_is_taken_in_pieces() {
        let (container, start, mut intake) = sample(Ledger::new());
        intake.begin(container.len() as u64, &container[..start]).unwrap();
        container[start..].chunks(7).for_each(|piece| intake.chunk(piece).unwrap());
        intake.end(0).unwrap();
        assert_eq!(intake.take().unwrap().wire_bytes, container.len() as u64);
        assert!(intake.take().is_none());
    }

    /// Once it was said to be a setting of this side, and left the program with the code for those.
    #[test]
    fn a_begin_that_contradicts_its_header_is_a_wrong_container() {
        let (container, start, mut intake) = sample(Ledger::new());
        let total = container.len() as u64;
        for (total, header, words) in [
            (total + 1, &container[..start], "`container bytes`: expected "),
            (total, &container[..start + 1], "`header bytes`: expected "),
        ] {
            let error = refused(&mut intake, total, header);
            assert!(matches!(error, Error::Wire(_)) && error.to_string().starts_with(words));
        }
    }

    #[test]
    fn a_cache_without_room_is_refused_before_it_is_made() {
        let room = 2 * 2 * 10 * 8 * 4;
        let (container, start, mut intake) = sample(Ledger::limited(room - 1));
        let error = refused(&mut intake, container.len() as u64, &container[..start]);
        assert!(matches!(error, Error::Refused(_)), "{error}");
        let (container, start, mut intake) = sample(Ledger::limited(room));
        intake.begin(container.len() as u64, &container[..start]).unwrap();
    }
}
