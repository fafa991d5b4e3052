//! What both sides keep of a message under way: its length, its checksum, its code.

use super::error::NetError;
use super::key::Running;

/// A container as it passes.
pub(super) struct Tally {
    pub(super) total: u64,
    pub(super) bytes: u64,
    pub(super) crc: u32,
    pub(super) code: Option<Running>,
}

impl Tally {
    pub(super) fn new(total: u64, code: Option<Running>) -> Tally {
        Tally { total, bytes: 0, crc: 0, code }
    }

    /// Takes the next bytes; fails where they are more than was announced.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        let got = self.bytes + bytes.len() as u64;
        if got > self.total {
            return Err(NetError::Length { expected: self.total, got });
        }
        self.bytes = got;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        if let Some(code) = &mut self.code {
            code.update(bytes);
        }
        Ok(())
    }

    /// Fails where something is missing.
    pub(super) fn check_whole(&self) -> Result<(), NetError> {
        if self.bytes == self.total {
            return Ok(());
        }
        Err(NetError::Length { expected: self.total, got: self.bytes })
    }
}
