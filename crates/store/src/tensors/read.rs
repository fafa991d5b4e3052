//! Reading: the file is mapped, its header checked, and tensors are slices of the map.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::Dtype;
use super::header::{Entry, Header};
use crate::Error;

/// The largest header read, as in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor of a file, read in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: &'a [usize],
    /// Little-endian elements. In files written here aligned to the element size.
    pub data: &'a [u8],
}

/// A safetensors file, mapped into memory and checked: header sound, data without gaps or rest.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
    data_start: usize,
}

impl TensorFile {
    /// Opens and checks a file; the data itself is not read.
    /// Fails with [`Error::Corrupt`] for anything that is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::at("open", path))?;
        let map = map(&file).map_err(Error::at("map", path))?;
        let not_whole = |got: String| Error::corrupt(path, "a whole safetensors file", got);
        let (header, data_start) = parse(&map).map_err(not_whole)?;
        Ok(TensorFile { path: path.to_path_buf(), map, header, data_start })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor's name, in the order of the data.
    pub fn names(&self) -> Vec<String> {
        self.header.tensors.iter().map(|tensor| tensor.name.to_string()).collect()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.find(name).is_some()
    }

    /// The free text of the header.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// A tensor, in place. Fails with [`Error::Tensor`] where there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        let entry = self.entry(name)?;
        let data = &self.map[self.data_start + entry.start..self.data_start + entry.end];
        Ok(TensorView { dtype: entry.dtype, shape: &entry.shape, data })
    }

    /// Reads a tensor's bytes into `out` past the map, so that a large file read once does not
    /// count as resident memory. Fails with [`Error::Tensor`] unless `out` has its exact length.
    pub fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let Entry { start, end, .. } = *self.entry(name)?;
        if out.len() != end - start {
            let (expected, got) = (format!("{} bytes", out.len()), end - start);
            return Err(self.wrong(name, expected, format!("{got} bytes")));
        }
        let read = |mut file: File| {
            file.seek(SeekFrom::Start((self.data_start + start) as u64))?;
            file.read_exact(out)
        };
        File::open(&self.path).and_then(read).map_err(Error::at("read", &self.path))
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        let missing = || self.wrong(name, "a tensor of that name".into(), "none".into());
        self.header.find(name).ok_or_else(missing)
    }

    fn wrong(&self, name: &str, expected: String, got: String) -> Error {
        Error::Tensor { file: self.path.clone(), tensor: name.to_string(), expected, got }
    }
}

#[allow(unsafe_code)]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read. Files of this project are never changed in place: writers
    // make a new file and rename it. Another program that cuts the file while it is mapped ends
    // the process with a bus error, as with every mapped file.
    unsafe { Mmap::map(file) }
}

/// The header, and where the data begins.
pub(super) fn parse(bytes: &[u8]) -> Result<(Header, usize), String> {
    let (length, rest) =
        bytes.split_first_chunk::<8>().ok_or_else(|| format!("{} bytes", bytes.len()))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(format!("a header of {length} bytes in a file of {} bytes", bytes.len()));
    }
    let (header, data) = rest.split_at(length as usize);
    Ok((Header::parse(header, data.len())?, 8 + length as usize))
}
