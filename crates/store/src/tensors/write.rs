//! Writing: the header is known before the first byte of data, so tensors are written one after
//! another from wherever they live, and no second copy of a model exists.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::TensorInfo;
use crate::Error;

/// Alignment of the data section.
const ALIGN: usize = 8;

/// The key that holds free text about the file.
pub(super) const METADATA: &str = "__metadata__";

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
        let mut counted = Counted::new(&mut *out);
        data(place.index, &mut counted).map_err(Error::at("write", file))?;
        if counted.bytes() != place.end - place.start {
            let expected = format!("{} bytes", place.end - place.start);
            let got = format!("{} bytes", counted.bytes());
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
            let pairs: BTreeMap<_, _> = self.metadata.iter().copied().collect();
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

/// A writer that counts what went through.
pub(crate) struct Counted<'a> {
    inner: &'a mut dyn Write,
    bytes: usize,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(inner: &'a mut dyn Write) -> Self {
        Counted { inner, bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
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
