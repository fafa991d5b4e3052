//! A container on its way in, checked against what was agreed on before a block of it is read. A compact
//! message is made the container that it stands for, and read as that.

use std::time::Duration;

use smidgen_tensor::Device;

use crate::Error;
use crate::message::{Arriving, Received};
use crate::net::{Code, Reject, Sink};
use crate::wire::{Expected, Fault, Header, Limits, Schema, WireError, from_compact, is_compact};

/// Reads each container block by block as it arrives.
pub struct Intake {
    device: Device,
    expected: Expected,
    /// Of compact messages; the sharer's last one.
    schema: Option<Schema>,
    /// A compact message that has not ended: its checksum is at its end.
    compact: Option<Vec<u8>>,
    /// What came of a container that has not ended.
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
        Intake {
            device,
            expected,
            schema: None,
            compact: None,
            coming: None,
            verified: Duration::ZERO,
            received: None,
            fault: None,
        }
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

    /// Makes a compact message that is there the container that it stands for.
    pub(super) fn unfold(&mut self) -> Result<(), Reject> {
        let Some((message, schema)) = self.compact.take().zip(self.schema.as_ref()) else {
            return Ok(());
        };
        let unfolded = self.unfolded(schema, &message);
        self.coming = Some(self.told("container", unfolded)?);
        Ok(())
    }

    fn unfolded(&self, schema: &Schema, message: &[u8]) -> Result<Arriving, Error> {
        let container = from_compact(schema, message, &Limits::default())?;
        let head_bytes = Header::parse(&container, &Limits::default())?.header_bytes();
        let (header, rest) = container.split_at(head_bytes);
        let mut arriving = self.start(container.len() as u64, header)?;
        arriving.push(rest)?;
        Ok(arriving)
    }

    fn read_schema(&self, id: u32, fields: &[u8]) -> Result<Schema, Error> {
        let schema = Schema::from_bytes(fields, &Limits::default())?;
        schema.check(&self.expected)?;
        let expected = schema.id();
        let fault = Fault::Schema { expected, got: id };
        if id == expected { Ok(schema) } else { Err(WireError { offset: 0, fault }.into()) }
    }

    /// Keeps an error for this side, and makes words of it for the peer.
    fn told<T>(&mut self, what: &str, outcome: Result<T, Error>) -> Result<T, Reject> {
        outcome.map_err(|error| {
            let reject = Reject::new(Code::Container, what, "a valid one", &error);
            self.fault = Some(error);
            reject
        })
    }
}

impl Sink for Intake {
    fn begin(&mut self, total_bytes: u64, header: &[u8]) -> Result<(), Reject> {
        if !is_compact(header) {
            let started = self.start(total_bytes, header);
            self.coming = Some(self.told("container", started)?);
        } else if self.schema.is_some() {
            // Room is taken as bytes come.
            self.compact = Some(header.to_vec());
        } else {
            let wanted = "one before a compact message";
            return Err(Reject::new(Code::Protocol, "SCHEMA", wanted, "none"));
        }
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        if let Some(message) = &mut self.compact {
            message.extend_from_slice(bytes);
            return Ok(());
        }
        let pushed = self.coming.as_mut().map_or(Ok(()), |coming| coming.push(bytes));
        self.told("container", pushed)
    }

    fn end(&mut self, _: u32) -> Result<(), Reject> {
        self.unfold()?;
        let Some(coming) = self.coming.take() else { return Ok(()) };
        self.verified = coming.verified();
        self.received = Some(self.told("container", coming.finish())?);
        Ok(())
    }

    fn schema(&mut self, id: u32, fields: &[u8]) -> Result<(), Reject> {
        let read = self.read_schema(id, fields);
        self.schema = Some(self.told("schema", read)?);
        Ok(())
    }

    fn discard(&mut self) {
        (self.compact, self.coming) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use smidgen_codec::Ledger;
    use smidgen_model::KeySpace;

    use super::*;
    use crate::message;
    use crate::remote::compact::Message;
    use crate::wire::{self, About, Group, Pair, Plan, Precision, TokenSpace, encode, reference};

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

    fn device() -> Device {
        Device::cpu(Ledger::new(), 1)
    }

    fn expected(cache: &wire::Reference) -> Expected {
        let about = About {
            sharer: [7; 8],
            tokens: TokenSpace::Sharer,
            keys: KeySpace::PreRope.into(),
            prompt: [9; 8],
            ..About::default()
        };
        Expected { shape: cache.view().shape, seq_len: cache.view().tokens, batch: 1, about }
    }

    fn plan(sharer: u8) -> Plan {
        let groups = [(vec![2, 5, 6], [Precision::Int8; 2]), (vec![9], [Precision::Int4; 2])];
        let mut plan = message::plan(&[[true; 2]; 3], &groups, KeySpace::PreRope).unwrap();
        (plan.about.sharer, plan.about.prompt) = ([sharer; 8], [9; 8]);
        plan
    }

    fn take(intake: &mut Intake, message: &Message) -> Result<Received, Reject> {
        if let Some(schema) = &message.schema {
            intake.schema(schema.id(), &schema.to_bytes())?;
        }
        let (head, rest) = message.bytes.split_at(message.head_bytes);
        intake.begin(message.bytes.len() as u64, head)?;
        rest.chunks(7).try_for_each(|bytes| intake.chunk(bytes))?;
        intake.end(0)?;
        Ok(intake.take().expect("it ended"))
    }

    #[test]
    fn a_compact_message_is_the_same_cache_in_fewer_bytes() {
        let cache = wire::reference(1, 3, 2, 16, 10);
        let (device, view) = (device(), cache.view());
        let whole = Message::whole(&device, view, &plan(7)).unwrap();
        let compact = Message::compact(&device, view, plan(7)).unwrap();
        assert!(compact.bytes.len() + 200 < whole.bytes.len());
        let mut intake = Intake::new(device, expected(&cache));
        let [one, other] = [&whole, &compact].map(|message| take(&mut intake, message).unwrap());
        assert_eq!(one.cache.view().keys, other.cache.view().keys);
        assert_eq!(one.cache.view().values, other.cache.view().values);
        assert_eq!(one.present, other.present);
    }

    /// Whatever a schema or its message is made of, what is wrong is refused in words, and what was
    /// agreed on before stays.
    #[test]
    fn a_schema_that_is_wrong_is_refused_and_changes_nothing() {
        let cache = wire::reference(1, 3, 2, 16, 10);
        let view = cache.view();
        let message = Message::compact(&device(), view, plan(7)).unwrap();
        let schema = message.schema.as_ref().unwrap();
        let (id, fields) = (schema.id(), schema.to_bytes());
        let mut intake = Intake::new(device(), expected(&cache));
        let head = &message.bytes[..message.head_bytes];
        let none = intake.begin(message.bytes.len() as u64, head).unwrap_err();
        assert_eq!((none.code, &none.field[..]), (Code::Protocol, "SCHEMA"));
        take(&mut intake, &message).unwrap();
        let mut refused = |id: u32, fields: &[u8], got: &str| {
            let reject = intake.schema(id, fields).unwrap_err();
            assert_eq!((reject.code, &reject.field[..]), (Code::Container, "schema"));
            assert!(reject.got.contains(got), "{reject}");
            assert!(intake.fault.take().is_some());
            assert_eq!(intake.schema.as_ref(), Some(schema));
        };
        for bit in 0..8 * fields.len() {
            let mut wrong = fields.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            refused(id, &wrong, "");
        }
        (0..fields.len()).for_each(|len| refused(id, &fields[..len], ""));
        refused(id ^ 1, &fields, "schema");
        // Right in itself, and of another sharer or another cache.
        let published = |cache: &wire::Reference, plan| {
            let schema = Message::compact(&device(), cache.view(), plan).unwrap().schema.unwrap();
            (schema.id(), schema.to_bytes())
        };
        let (id, fields) = published(&cache, plan(8));
        refused(id, &fields, "`sharer`");
        let (id, fields) = published(&wire::reference(1, 3, 4, 16, 10), plan(7));
        refused(id, &fields, "`kv heads`");

        // A message that is wrong leaves nothing behind.
        for at in 0..message.bytes.len() {
            let mut bytes = message.bytes.clone();
            bytes[at] ^= 0x40;
            let (head_bytes, blocks) = (message.head_bytes, message.blocks.clone());
            let wrong = Message { schema: None, bytes, head_bytes, blocks };
            take(&mut intake, &wrong).unwrap_err();
            intake.discard();
            assert!(intake.received.is_none() && intake.coming.is_none());
        }
        take(&mut intake, &message).unwrap();
    }
}
