//! A stream in a file: written by a sharer now, read by a receiver later. Nobody answers.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smidgen_store::{Files, write_atomic};

use super::{Transport, one_way};

/// Gathers a stream and writes it as one file at its end, all or nothing: a sharer that fails in the
/// middle leaves no file.
pub struct FileWriter {
    files: Arc<dyn Files>,
    path: PathBuf,
    stream: Vec<u8>,
}

impl FileWriter {
    /// A stream that will be the file at `path`.
    pub fn new(files: Arc<dyn Files>, path: PathBuf) -> FileWriter {
        FileWriter { files, path, stream: Vec::new() }
    }
}

impl Read for FileWriter {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(one_way("written"))
    }
}

impl Write for FileWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for FileWriter {
    fn set_wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn duplex(&self) -> bool {
        false
    }

    fn close(&mut self) -> io::Result<()> {
        let written = write_atomic(&*self.files, &self.path, |out| out.write_all(&self.stream));
        written.map_err(io::Error::other)
    }

    fn abort(&mut self) {}

    fn another(&self) -> io::Result<Box<dyn Transport>> {
        Err(one_way("written"))
    }
}

/// A stream that was written before, read to its end.
#[derive(Debug)]
pub struct Reading<R>(pub R);

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R> Write for Reading<R> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(one_way("read"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Read + Send> Transport for Reading<R> {
    fn set_wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn duplex(&self) -> bool {
        false
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn abort(&mut self) {}

    fn another(&self) -> io::Result<Box<dyn Transport>> {
        Err(one_way("read"))
    }
}
