//! Reading: the file is mapped, its header checked whole, and keys and tensors are slices of the map.
//!
//! A count in the header is believed only as far as the file has bytes for it, and what is kept of a
//! key or a tensor is smaller than its bytes in the file: no header can ask for much memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::value::{ARRAY, STRING, size_of};
use super::{ALIGNMENT, GgufArray, GgufType, GgufValue, MAGIC};
use crate::Error;

/// Dimensions of a tensor at most.
const MOST_DIMS: usize = 4;
/// The least bytes of a key with its value, and of a tensor's description, in version 1.
const LEAST_KEY_BYTES: u64 = 10;
const LEAST_TENSOR_BYTES: u64 = 25;

/// One tensor of a file, read in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GgufTensor<'a> {
    /// The number type.
    pub kind: GgufType,
    /// Sizes, the columns of a row first, then the rows; one to four of them.
    pub dims: &'a [u64],
    /// Its blocks.
    pub data: &'a [u8],
}

/// A GGUF file of version 1, 2 or 3, checked: header sound, tensors inside the file, none over
/// another.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: Storage,
    header: Header,
}

#[derive(Debug)]
enum Storage {
    Map(Mmap),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Storage::Map(map) => map,
            Storage::Owned(bytes) => bytes,
        }
    }
}

/// What the file holds, sorted by name.
#[derive(Debug)]
struct Header {
    version: u32,
    keys: Vec<Key>,
    tensors: Vec<Tensor>,
    data_start: usize,
}

/// Where a key lies, and the type of its value, which lies behind it.
#[derive(Debug)]
struct Key {
    at: usize,
    length: u32,
    kind: u32,
}

#[derive(Debug)]
struct Tensor {
    name_at: usize,
    name_length: u32,
    dim_count: u32,
    dims: [u64; MOST_DIMS],
    kind: u32,
    /// From the start of the data.
    offset: u64,
}

impl GgufFile {
    /// Opens and checks a file; the data itself is not read.
    /// Fails with [`Error::Corrupt`] for anything that is not a whole GGUF file, and with
    /// [`Error::Tensor`] for a tensor that cannot be.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::at("open", path))?;
        let map = crate::tensors::map(&file).map_err(Error::at("map", path))?;
        Self::checked(path, Storage::Map(map))
    }

    /// As [`GgufFile::open`], for bytes in memory; `path` serves the errors.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::checked(path, Storage::Owned(bytes))
    }

    fn checked(path: &Path, bytes: Storage) -> Result<Self, Error> {
        let header = Reader::new(path, &bytes)?.header()?;
        Ok(GgufFile { path: path.to_path_buf(), bytes, header })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the container.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Every key, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.keys.iter().map(|key| key.name(&self.bytes))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<GgufValue<'_>> {
        let keys = &self.header.keys;
        let place = keys.binary_search_by(|known| known.name(&self.bytes).cmp(key)).ok()?;
        let (at, kind) = (keys[place].at + keys[place].length as usize + 4, keys[place].kind);
        let mut reader = Reader { at, ..Reader::known(&self.path, &self.bytes, self.version()) };
        reader.value(kind).ok()
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.header.tensors.iter().map(|tensor| tensor.name(&self.bytes))
    }

    /// A tensor, in place. Fails with [`Error::Tensor`] where there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<GgufTensor<'_>, Error> {
        let (tensor, place) = self.place(name)?;
        let data = &self.bytes[place];
        Ok(GgufTensor { kind: tensor.kind(), dims: tensor.dims(), data })
    }

    /// Reads a tensor's bytes into `out` past the map, so that a large file read once does not
    /// count as resident memory. Fails with [`Error::Tensor`] unless `out` has its exact length.
    pub fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let (_, place) = self.place(name)?;
        if out.len() != place.len() {
            let (expected, got) = (out.len(), place.len());
            let (expected, got) = (format!("{expected} bytes"), format!("{got} bytes"));
            return Err(wrong(&self.path, name, expected, got));
        }
        if let Storage::Owned(bytes) = &self.bytes {
            out.copy_from_slice(&bytes[place]);
            return Ok(());
        }
        let read = |mut file: File| {
            file.seek(SeekFrom::Start(place.start as u64))?;
            file.read_exact(out)
        };
        File::open(&self.path).and_then(read).map_err(Error::at("read", &self.path))
    }

    fn place(&self, name: &str) -> Result<(&Tensor, std::ops::Range<usize>), Error> {
        let tensors = &self.header.tensors;
        let found = tensors.binary_search_by(|tensor| tensor.name(&self.bytes).cmp(name));
        let none = |_| wrong(&self.path, name, "a tensor of that name".into(), "none".into());
        let tensor = &tensors[found.map_err(none)?];
        let start = self.header.data_start + tensor.offset as usize;
        Ok((tensor, start..start + tensor.bytes() as usize))
    }
}

const CHECKED: &str = "the header was checked when the file was opened";

impl Key {
    fn name<'a>(&self, bytes: &'a [u8]) -> &'a str {
        std::str::from_utf8(&bytes[self.at..self.at + self.length as usize]).expect(CHECKED)
    }
}

impl Tensor {
    fn name<'a>(&self, bytes: &'a [u8]) -> &'a str {
        let name = &bytes[self.name_at..self.name_at + self.name_length as usize];
        std::str::from_utf8(name).expect(CHECKED)
    }

    fn dims(&self) -> &[u64] {
        &self.dims[..self.dim_count as usize]
    }

    fn kind(&self) -> GgufType {
        GgufType::by_number(self.kind).expect(CHECKED)
    }

    fn bytes(&self) -> u64 {
        self.kind().bytes(self.dims()).expect(CHECKED)
    }
}

fn wrong(path: &Path, tensor: &str, expected: String, got: String) -> Error {
    Error::Tensor { file: path.into(), tensor: short(tensor), expected, got }
}

/// A name for a message: a damaged one may be of any length.
fn short(name: &str) -> String {
    name.chars().take(60).collect()
}

/// Walks over the header.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    version: u32,
}

impl<'a> Reader<'a> {
    /// Behind magic and version.
    fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader { path, bytes, at: 0, version: 3 };
        let magic = reader.take(4, "the magic `GGUF`")?;
        if magic != MAGIC {
            let got = format!("a file that begins with `{}`", magic.escape_ascii());
            return Err(Error::corrupt(path, "a GGUF file", got));
        }
        reader.version = reader.u32("the version")?;
        match reader.version {
            1..=3 => Ok(reader),
            swapped if (1..=3).contains(&swapped.swap_bytes()) => {
                Err(Error::corrupt(path, "a little-endian GGUF file", "a big-endian one"))
            }
            other => Err(Error::corrupt(path, "GGUF version 1, 2 or 3", format!("{other}"))),
        }
    }

    fn known(path: &'a Path, bytes: &'a [u8], version: u32) -> Self {
        Reader { path, bytes, at: 0, version }
    }

    fn header(mut self) -> Result<Header, Error> {
        let tensor_count = self.count("the number of tensors")?;
        let key_count = self.count("the number of keys")?;
        let left = (self.bytes.len() - self.at) as u64;
        let least = key_count
            .checked_mul(LEAST_KEY_BYTES)
            .zip(tensor_count.checked_mul(LEAST_TENSOR_BYTES))
            .and_then(|(keys, tensors)| keys.checked_add(tensors));
        if least.is_none_or(|least| least > left) {
            let got = format!("{key_count} keys and {tensor_count} tensors in {left} bytes");
            return Err(self.corrupt("a header that fits into the file", got));
        }
        let keys = self.keys(key_count as usize)?;
        let mut tensors = Vec::with_capacity(tensor_count as usize);
        for _ in 0..tensor_count {
            tensors.push(self.tensor()?);
        }
        let alignment = self.alignment(&keys)?;
        // Nothing follows a file of keys alone, not even padding.
        let data_start = self.at.next_multiple_of(alignment).min(self.bytes.len());
        self.check_places(&tensors, data_start, alignment as u64)?;
        tensors.sort_unstable_by(|a, b| a.name(self.bytes).cmp(b.name(self.bytes)));
        if let Some(pair) =
            tensors.windows(2).find(|pair| pair[0].name(self.bytes) == pair[1].name(self.bytes))
        {
            let name = pair[0].name(self.bytes);
            return Err(wrong(self.path, name, "a name of its own".into(), "one twice".into()));
        }
        Ok(Header { version: self.version, keys, tensors, data_start })
    }

    fn keys(&mut self, count: usize) -> Result<Vec<Key>, Error> {
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.at + self.length_bytes();
            let name = self.name("a key")?;
            let kind = self.u32("the type of a key")?;
            self.value(kind).map_err(|error| match error {
                Error::Corrupt { file, expected, got } => Error::Corrupt {
                    file,
                    expected,
                    got: format!("{got} in key `{}`", short(name)),
                },
                other => other,
            })?;
            let length = name.len() as u32;
            keys.push(Key { at, length, kind });
        }
        let name = |key: &Key| key.name(self.bytes);
        keys.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        match keys.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            Some(pair) => {
                let got = format!("`{}` twice", short(name(&pair[0])));
                Err(self.corrupt("each key once", got))
            }
            None => Ok(keys),
        }
    }

    fn tensor(&mut self) -> Result<Tensor, Error> {
        let name_at = self.at + self.length_bytes();
        let name = self.name("a tensor's name")?;
        let count = self.u32("a tensor's dimensions")?;
        if !(1..=MOST_DIMS as u32).contains(&count) {
            let (expected, got) = (format!("1 to {MOST_DIMS} dimensions"), count.to_string());
            return Err(wrong(self.path, name, expected, got));
        }
        let mut dims = [0; MOST_DIMS];
        for dim in &mut dims[..count as usize] {
            *dim = self.count("a tensor's dimensions")?;
        }
        let number = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;
        let kind = GgufType::by_number(number).ok_or_else(|| {
            let got = format!("type number {number}");
            wrong(self.path, name, "a type that is known".into(), got)
        })?;
        let dims_given = &dims[..count as usize];
        if kind.bytes(dims_given).is_none() {
            let expected =
                format!("a size that fits, with rows of whole blocks of {}", kind.block_values);
            return Err(wrong(self.path, name, expected, format!("{kind} {dims_given:?}")));
        }
        let (name_length, dim_count) = (name.len() as u32, count);
        Ok(Tensor { name_at, name_length, dim_count, dims, kind: number, offset })
    }

    fn alignment(&self, keys: &[Key]) -> Result<usize, Error> {
        let key = "general.alignment";
        let Ok(place) = keys.binary_search_by(|known| known.name(self.bytes).cmp(key)) else {
            return Ok(ALIGNMENT);
        };
        let at = keys[place].at + key.len() + 4;
        let value = Reader { at, ..*self }.value(keys[place].kind)?;
        let fits = |value: &u64| value.is_power_of_two() && (8..=1 << 20).contains(value);
        let alignment = value.as_u64().filter(fits);
        let got = || format!("{value:?}");
        let expected = "`general.alignment` as a power of two from 8 on";
        alignment.map(|alignment| alignment as usize).ok_or_else(|| self.corrupt(expected, got()))
    }

    /// Every tensor begins where it may, ends inside the file, and none lies over another.
    fn check_places(
        &self,
        tensors: &[Tensor],
        data_start: usize,
        alignment: u64,
    ) -> Result<(), Error> {
        let data_bytes = (self.bytes.len() - data_start) as u64;
        let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
        order.sort_unstable_by_key(|i| (tensors[*i as usize].offset, *i));
        let mut end_before = 0;
        for tensor in order.iter().map(|i| &tensors[*i as usize]) {
            let name = tensor.name(self.bytes);
            let fail = |expected: String, got: String| Err(wrong(self.path, name, expected, got));
            let (offset, bytes) = (tensor.offset, tensor.bytes());
            if !offset.is_multiple_of(alignment) {
                return fail(format!("an offset aligned to {alignment}"), offset.to_string());
            }
            let end = offset.checked_add(bytes).filter(|end| *end <= data_bytes);
            let Some(end) = end else {
                let expected = format!("an end within the {data_bytes} bytes of data");
                return fail(expected, format!("{bytes} bytes from {offset} on"));
            };
            if bytes > 0 && offset < end_before {
                let expected = "a place of its own".to_string();
                return fail(expected, format!("offset {offset}, inside the tensor before"));
            }
            end_before = end_before.max(end);
        }
        Ok(())
    }

    fn value(&mut self, kind: u32) -> Result<GgufValue<'a>, Error> {
        match kind {
            STRING => {
                let bytes = self.string("a text")?;
                let text = std::str::from_utf8(bytes);
                text.map(|text| GgufValue::Str(text.into()))
                    .map_err(|_| self.corrupt("UTF-8 text", "other bytes"))
            }
            ARRAY => self.array(),
            kind => {
                let Some(size) = size_of(kind) else {
                    return Err(self.corrupt("a known type of value", format!("type {kind}")));
                };
                let bytes = self.take(size, "a value")?;
                if kind == 7 && bytes[0] > 1 {
                    return Err(self.corrupt("0 or 1 as a bool", bytes[0].to_string()));
                }
                Ok(GgufValue::of_fixed(kind, bytes).expect("a type with a size has a value"))
            }
        }
    }

    fn array(&mut self) -> Result<GgufValue<'a>, Error> {
        let kind = self.u32("the type of an array")?;
        let count = self.count("the length of an array")?;
        let start = self.at;
        if kind == STRING {
            for _ in 0..count {
                self.string("a text of an array")?;
            }
        } else {
            let Some(size) = size_of(kind) else {
                return Err(self.corrupt("an array of numbers or texts", format!("type {kind}")));
            };
            let bytes = count.checked_mul(size as u64).and_then(|bytes| bytes.try_into().ok());
            self.take(bytes.unwrap_or(usize::MAX), "an array")?;
        }
        let (bytes, length_bytes) = (self.bytes[start..self.at].into(), self.length_bytes());
        Ok(GgufValue::Array(GgufArray { kind, count: count as usize, bytes, length_bytes }))
    }

    /// A name: not empty, UTF-8.
    fn name(&mut self, what: &str) -> Result<&'a str, Error> {
        let bytes = self.string(what)?;
        let name = std::str::from_utf8(bytes).ok().filter(|name| !name.is_empty());
        // The length is kept in 32 bits.
        let name = name.filter(|name| u32::try_from(name.len()).is_ok());
        name.ok_or_else(|| self.corrupt(format!("{what} as UTF-8 text"), "other bytes"))
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Error> {
        let length = self.count(what)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX), what)
    }

    /// Bytes of a count or a length.
    fn length_bytes(&self) -> usize {
        if self.version == 1 { 4 } else { 8 }
    }

    fn count(&mut self, what: &str) -> Result<u64, Error> {
        if self.version == 1 { self.u32(what).map(u64::from) } else { self.u64(what) }
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            let got = format!("an end after {} of its {} bytes", self.at, self.bytes.len());
            let expected = format!("{what} in a whole GGUF file");
            return Err(self.corrupt(expected, got));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn corrupt(&self, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::corrupt(self.path, expected, got)
    }
}
