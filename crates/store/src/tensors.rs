//! safetensors files: written as a stream, read in place.
//!
//! Layout: 8 bytes little-endian header length, a JSON header padded with spaces to 8 bytes, then
//! the data without gaps. The header is known before the first byte of data, so tensors are
//! written one after another from wherever they live, and no second copy of a model exists.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
pub use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::Error;

/// Alignment of the data section.
const ALIGN: usize = 8;

/// The largest header read, as in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The key that holds free text about the file.
const METADATA: &str = "__metadata__";

/// What the header says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Element type: `F32`, `BF16`, `U8` (packed codes) ...
    pub dtype: Dtype,
    /// Row-major shape; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Describes a tensor.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        TensorInfo { name: name.into(), dtype, shape: shape.into() }
    }

    /// Bytes of its data; `None` where that is no whole number or does not fit.
    pub fn bytes(&self) -> Option<usize> {
        let bits = self.dtype.bitsize();
        let bits = self.shape.iter().try_fold(bits, |product, dim| product.checked_mul(*dim))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

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

/// Writes a whole safetensors file to `out`.
///
/// `data(index, out)` is called once per tensor and writes exactly its bytes, little-endian.
/// Wide elements come first, so that every tensor is aligned for reading in place; among equals
/// the order of `infos` holds. The bytes depend on the arguments alone.
/// `file` is only named in errors.
///
/// Fails with [`Error::Tensor`] for a name used twice, an impossible size or a wrong number of
/// bytes, and with [`Error::Io`].
///
/// ```
/// use smidgen_store::{Dtype, TensorInfo, write_tensors};
/// let mut file = Vec::new();
/// let infos = [TensorInfo::new("bias", Dtype::F32, [2])];
/// let bias = [1.0_f32, 2.0];
/// write_tensors(&mut file, "bias.safetensors".as_ref(), &infos, &[], |_, out| {
///     bias.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
/// })?;
/// assert_eq!(file.len() % 8, 0);
/// # Ok::<(), smidgen_store::Error>(())
/// ```
pub fn write_tensors(
    out: &mut dyn Write,
    file: &Path,
    infos: &[TensorInfo],
    metadata: &[(&str, &str)],
    mut data: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let places = places(file, infos)?;
    let header = header(infos, metadata, &places);
    let length = (header.len() as u64).to_le_bytes();
    out.write_all(&length)
        .and_then(|()| out.write_all(&header))
        .map_err(Error::at("write", file))?;
    for place in &places {
        let mut counted = Counted { inner: &mut *out, bytes: 0 };
        data(place.index, &mut counted).map_err(Error::at("write", file))?;
        if counted.bytes != place.end - place.start {
            let expected = format!("{} bytes", place.end - place.start);
            let got = format!("{} bytes", counted.bytes);
            return Err(wrong(file, &infos[place.index], expected, got));
        }
    }
    Ok(())
}

/// Where a tensor's bytes lie in the data section.
struct Place {
    index: usize,
    start: usize,
    end: usize,
}

fn places(file: &Path, infos: &[TensorInfo]) -> Result<Vec<Place>, Error> {
    let mut names = HashSet::new();
    let mut order: Vec<usize> = (0..infos.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(infos[index].dtype.bitsize()));
    let mut start = 0_usize;
    let mut places = Vec::with_capacity(infos.len());
    for index in order {
        let info = &infos[index];
        if info.name == METADATA || !names.insert(&info.name) {
            return Err(wrong(file, info, "a name of its own".into(), "one in use".into()));
        }
        let end = info.bytes().and_then(|bytes| start.checked_add(bytes)).ok_or_else(|| {
            let got = format!("{:?} {:?}", info.dtype, info.shape);
            wrong(file, info, "a size in whole bytes that fits".into(), got)
        })?;
        places.push(Place { index, start, end });
        start = end;
    }
    Ok(places)
}

fn header(infos: &[TensorInfo], metadata: &[(&str, &str)], places: &[Place]) -> Vec<u8> {
    let header = Header { infos, metadata, places };
    let mut text = serde_json::to_vec(&header).expect("strings and numbers have a JSON form");
    text.resize(text.len().next_multiple_of(ALIGN), b' ');
    text
}

fn wrong(file: &Path, info: &TensorInfo, expected: String, got: String) -> Error {
    Error::Tensor { file: file.to_path_buf(), tensor: info.name.clone(), expected, got }
}

struct Header<'a> {
    infos: &'a [TensorInfo],
    metadata: &'a [(&'a str, &'a str)],
    places: &'a [Place],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            let pairs: std::collections::BTreeMap<_, _> = self.metadata.iter().copied().collect();
            map.serialize_entry(METADATA, &pairs)?;
        }
        for place in self.places {
            let info = &self.infos[place.index];
            let entry = safetensors::tensor::TensorInfo {
                dtype: info.dtype,
                shape: info.shape.clone(),
                data_offsets: (place.start, place.end),
            };
            map.serialize_entry(&info.name, &entry)?;
        }
        map.end()
    }
}

struct Counted<'a> {
    inner: &'a mut dyn Write,
    bytes: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.bytes += n;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A safetensors file, mapped into memory and checked: header sound, data without gaps or rest.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl TensorFile {
    /// Opens and checks a file; the data itself is not read.
    /// Fails with [`Error::Corrupt`] for anything that is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::at("open", path))?;
        let map = map(&file).map_err(Error::at("map", path))?;
        let not_whole = |got: String| Error::corrupt(path, "a whole safetensors file", got);
        let (metadata, data_start) = parse(&map).map_err(not_whole)?;
        Ok(TensorFile { path: path.to_path_buf(), map, metadata, data_start })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor's name, in the order of the data.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The free text of the header.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A tensor, in place. Fails with [`Error::Tensor`] where there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        let info = self.info(name)?;
        let (start, end) = info.data_offsets;
        let data = &self.map[self.data_start + start..self.data_start + end];
        Ok(TensorView { dtype: info.dtype, shape: &info.shape, data })
    }

    /// Reads a tensor's bytes into `out` past the map, so that a large file read once does not
    /// count as resident memory. Fails with [`Error::Tensor`] unless `out` has its exact length.
    pub fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let (start, end) = self.info(name)?.data_offsets;
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

    fn info(&self, name: &str) -> Result<&safetensors::tensor::TensorInfo, Error> {
        let missing = || self.wrong(name, "a tensor of that name".into(), "none".into());
        self.metadata.info(name).ok_or_else(missing)
    }

    fn wrong(&self, name: &str, expected: String, got: String) -> Error {
        Error::Tensor { file: self.path.clone(), tensor: name.to_string(), expected, got }
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read. Files of this project are never changed in place: writers
    // make a new file and rename it. Another program that cuts the file while it is mapped ends
    // the process with a bus error, as with every mapped file.
    unsafe { Mmap::map(file) }
}

/// The header, and where the data begins.
///
/// The library's own reader adds offsets without a check; here the sum is checked first.
fn parse(bytes: &[u8]) -> Result<(Metadata, usize), String> {
    let (length, rest) =
        bytes.split_first_chunk::<8>().ok_or_else(|| format!("{} bytes", bytes.len()))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(format!("a header of {length} bytes in a file of {} bytes", bytes.len()));
    }
    let (header, data) = rest.split_at(length as usize);
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|e| format!("a header with {e}"))?;
    if metadata.data_len() != data.len() {
        return Err(format!("{} data bytes instead of {}", data.len(), metadata.data_len()));
    }
    Ok((metadata, 8 + length as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "m.safetensors";

    fn sample() -> (Vec<TensorInfo>, Vec<Vec<u8>>) {
        let infos = vec![
            TensorInfo::new("codes", Dtype::U8, [3]),
            TensorInfo::new("weight", Dtype::F32, [2, 2]),
            TensorInfo::new("half", Dtype::BF16, [3]),
            TensorInfo::new("empty", Dtype::F32, [0, 4]),
            TensorInfo::new("scalar", Dtype::F32, []),
        ];
        let data = infos.iter().enumerate();
        let data = data.map(|(i, info)| vec![i as u8 + 1; info.bytes().unwrap()]).collect();
        (infos, data)
    }

    fn encode(infos: &[TensorInfo], data: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        write_tensors(&mut out, Path::new(NAME), infos, &[("k", "v")], |i, out| {
            out.write_all(&data[i])
        })?;
        Ok(out)
    }

    fn open(bytes: &[u8]) -> Result<TensorFile, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, bytes).unwrap();
        TensorFile::open(&path)
    }

    #[test]
    fn written_files_read_back_aligned() {
        let (infos, data) = sample();
        let bytes = encode(&infos, &data).unwrap();
        let file = open(&bytes).unwrap();
        for (info, data) in infos.iter().zip(&data) {
            let view = file.tensor(&info.name).unwrap();
            assert_eq!((view.dtype, view.shape), (info.dtype, &info.shape[..]));
            assert_eq!(view.data, data);
            let width = info.dtype.bitsize() / 8;
            assert_eq!(view.data.as_ptr().align_offset(width), 0, "{}", info.name);
        }
        assert_eq!(file.metadata("k"), Some("v"));
        assert_eq!(file.names().len(), infos.len());
        assert_eq!(file.names().last().unwrap(), "codes");
    }

    #[test]
    fn the_reference_implementation_reads_it() {
        let (infos, data) = sample();
        let bytes = encode(&infos, &data).unwrap();
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(parsed.tensor("weight").unwrap().data(), &data[1][..]);
        assert_eq!(parsed.len(), infos.len());
    }

    #[test]
    fn reading_past_the_map_gives_the_same_bytes() {
        let (infos, data) = sample();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, encode(&infos, &data).unwrap()).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let mut out = vec![0; 16];
        file.read_into("weight", &mut out).unwrap();
        assert_eq!(out, data[1]);
        let error = file.read_into("weight", &mut out[1..]).unwrap_err().to_string();
        assert!(error.contains("expected 15 bytes, got 16 bytes"), "{error}");
        assert!(file.tensor("wieght").unwrap_err().to_string().contains("`wieght`"));
    }

    #[test]
    fn contradictions_are_refused() {
        let (infos, data) = sample();
        let mut twice = infos.clone();
        twice[1].name = "codes".into();
        let mut reserved = infos.clone();
        reserved[1].name = METADATA.into();
        let mut huge = infos.clone();
        huge[1].shape = vec![usize::MAX, 2];
        for infos in [twice, reserved, huge] {
            assert!(matches!(encode(&infos, &data), Err(Error::Tensor { .. })));
        }
        let mut short = data.clone();
        short[1].pop();
        let error = encode(&infos, &short).unwrap_err().to_string();
        assert_eq!(error, "`weight` in m.safetensors: expected 16 bytes, got 15 bytes");
    }

    #[test]
    fn every_cut_and_extension_is_refused() {
        let (infos, data) = sample();
        let bytes = encode(&infos, &data).unwrap();
        for len in 0..bytes.len() {
            assert!(matches!(open(&bytes[..len]), Err(Error::Corrupt { .. })), "{len}");
        }
        assert!(open(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn offsets_near_the_end_of_the_number_line_are_refused() {
        let size = 1_usize << 60;
        let entries: Vec<String> = (0..15)
            .map(|i| {
                let (start, end) = (i * size, (i + 1) * size);
                format!(
                    r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#
                )
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        assert!(matches!(open(&bytes), Err(Error::Corrupt { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).is_err() || bytes.len() >= 10);
        }

        #[test]
        fn no_header_panics(text in "[\\[\\]{}\",:0-9a-zA-Z_]{0,60}") {
            let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
            let _ = parse(&bytes);
        }

        #[test]
        fn no_damage_panics(at in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let (infos, data) = sample();
            let mut bytes = encode(&infos, &data).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let _ = parse(&bytes);
        }
    }
}
