//! Where a container goes as it arrives.

use super::reject::{Code, Reject};

/// Takes a container piece by piece, and may work on each before the next is there.
///
/// What it makes of them counts only after [`Sink::end`]: until then a checksum, a code or the peer
/// may still fail, and [`Sink::discard`] takes all back to where it was before [`Sink::begin`].
pub trait Sink {
    /// A container begins: its whole length, and its header, which is the first part of it.
    ///
    /// # Errors
    /// A refusal that the peer is told.
    fn begin(&mut self, total_bytes: u64, header: &[u8]) -> Result<(), Reject>;

    /// The next bytes after the header; never empty, borders mean nothing.
    ///
    /// # Errors
    /// A refusal that the peer is told.
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reject>;

    /// All came, with this CRC32C, and with the right code where there is a key.
    ///
    /// # Errors
    /// A refusal that the peer is told.
    fn end(&mut self, crc: u32) -> Result<(), Reject>;

    /// The container that began will not end. Called once, also after an error of this sink.
    fn discard(&mut self);

    /// Fields that later compact containers leave out, under a number of the sharer's.
    ///
    /// # Errors
    /// A refusal that the peer is told; all of them unless a sink knows better.
    fn schema(&mut self, id: u32, _fields: &[u8]) -> Result<(), Reject> {
        Err(Reject::new(Code::Unsupported, "schema", "whole containers", format!("schema {id}")))
    }
}

/// Gathers each container whole.
#[derive(Debug, Default)]
pub struct Collect {
    coming: Vec<u8>,
    whole: Option<Vec<u8>>,
}

impl Collect {
    /// The container that ended last, once.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.whole.take()
    }
}

impl Sink for Collect {
    fn begin(&mut self, _: u64, header: &[u8]) -> Result<(), Reject> {
        // Room is taken as bytes come: the announced length alone costs nothing.
        self.coming = header.to_vec();
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        self.coming.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, _: u32) -> Result<(), Reject> {
        self.whole = Some(std::mem::take(&mut self.coming));
        Ok(())
    }

    fn discard(&mut self) {
        self.coming = Vec::new();
    }
}
