//! Every byte of a direction, by what it was for.

use super::frame::{HEAD_BYTES, Kind};

/// Bytes that passed in one direction of a link. Their sum is what the transport carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkBytes {
    /// Containers: the header in `BEGIN`, and every `CHUNK`.
    pub container: u64,
    /// 16 bytes before each body, and the numbers of `BEGIN` and `END`.
    pub framing: u64,
    /// Authentication codes of containers and requests.
    pub mac: u64,
    /// Requests for more.
    pub request: u64,
    /// Fields that compact containers leave out.
    pub schema: u64,
    /// `HELLO`, `ACCEPT` and `REJECT`.
    pub handshake: u64,
    /// Credit, statistics, questions for the time, withdrawals, `BYE`.
    pub control: u64,
    /// Pieces that were never a whole, valid frame.
    pub broken: u64,
}

impl LinkBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.fields().iter().sum()
    }

    /// In the order in which `STATS` carries them.
    pub(super) fn fields(&self) -> [u64; 8] {
        [
            self.container,
            self.framing,
            self.mac,
            self.request,
            self.schema,
            self.handshake,
            self.control,
            self.broken,
        ]
    }

    pub(super) fn from_fields(fields: [u64; 8]) -> LinkBytes {
        let [container, framing, mac, request, schema, handshake, control, broken] = fields;
        LinkBytes { container, framing, mac, request, schema, handshake, control, broken }
    }

    /// Books a whole frame.
    pub(super) fn book(&mut self, kind: Kind, body_bytes: usize) {
        let body = body_bytes as u64;
        self.framing += HEAD_BYTES as u64;
        match kind {
            Kind::Begin => {
                // A body that is too short for its number was no container either.
                let number = body.min(8);
                self.framing += number;
                self.container += body - number;
            }
            Kind::Chunk => self.container += body,
            Kind::End => self.framing += body,
            Kind::Mac => self.mac += body,
            Kind::Request => self.request += body,
            Kind::Schema => self.schema += body,
            Kind::Hello | Kind::Accept | Kind::Reject => self.handshake += body,
            Kind::Credit | Kind::Cancel | Kind::Stats | Kind::Bye | Kind::Ping | Kind::Pong => {
                self.control += body;
            }
        }
    }
}

/// Bytes of both directions, as one side saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Traffic {
    /// What this side sent.
    pub sent: LinkBytes,
    /// What this side received.
    pub received: LinkBytes,
}

impl Traffic {
    /// Both directions.
    pub fn total(&self) -> u64 {
        self.sent.total() + self.received.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_booked_whole() {
        for kind in Kind::ALL {
            for body in [0, 5, 1000] {
                let mut bytes = LinkBytes::default();
                bytes.book(kind, body);
                assert_eq!(bytes.total(), (HEAD_BYTES + body) as u64, "{kind}");
                assert_eq!(LinkBytes::from_fields(bytes.fields()), bytes);
            }
        }
    }
}
