//! The header of a safetensors file, read so that it costs no more than a few times its bytes.
//!
//! The library's own reader holds the whole JSON as a tree first, takes the last of two tensors of
//! one name, and adds offsets without a check; here each tensor is kept as it comes, and a name that
//! comes twice is an error.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::Dtype;
use super::write::METADATA;

/// Dimensions of a tensor at most: far more than any model has.
const MOST_DIMS: usize = 16;

/// What the header says, checked: the data is one tensor after another without gaps.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// In the order of the data.
    pub(super) tensors: Vec<Entry>,
    /// Places in `tensors`, by name.
    by_name: Vec<u32>,
    /// Free text.
    pub(super) metadata: BTreeMap<String, String>,
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<str>,
    pub(super) dtype: Dtype,
    pub(super) shape: Box<[usize]>,
    /// In the data section.
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Header {
    /// Reads a header for a file with this many bytes of data.
    pub(super) fn parse(json: &[u8], data_bytes: usize) -> Result<Header, String> {
        let mut header: Header =
            serde_json::from_slice(json).map_err(|error| format!("a header with {error}"))?;
        header.tensors.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        header.check(data_bytes)?;
        let name = |i: &u32| &*header.tensors[*i as usize].name;
        let mut by_name: Vec<u32> = (0..header.tensors.len() as u32).collect();
        by_name.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        if let Some(pair) = by_name.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            return Err(format!("`{}` twice in its header", short(name(&pair[0]))));
        }
        header.by_name = by_name;
        Ok(header)
    }

    /// The tensor of a name.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        let entry = |i: &u32| &self.tensors[*i as usize];
        let place = self.by_name.binary_search_by(|i| (*entry(i).name).cmp(name)).ok()?;
        Some(entry(&self.by_name[place]))
    }

    fn check(&self, data_bytes: usize) -> Result<(), String> {
        let mut end = 0;
        for tensor in &self.tensors {
            let name = short(&tensor.name);
            if tensor.start != end || tensor.end < end {
                let (start, end) = (tensor.start, tensor.end);
                return Err(format!("`{name}` at {start} to {end}, behind a gap or over another"));
            }
            end = tensor.end;
            if super::bytes_of(tensor.dtype, &tensor.shape) != Some(end - tensor.start) {
                let Entry { dtype, shape, start, .. } = tensor;
                return Err(format!("`{name}` of {dtype} {shape:?} in {} bytes", end - start));
            }
        }
        if end == data_bytes {
            return Ok(());
        }
        Err(format!("{data_bytes} data bytes instead of {end}"))
    }
}

/// A name for a message: a damaged one may be of any length.
fn short(name: &str) -> String {
    name.chars().take(60).collect()
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Header, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<Box<str>>()? {
                    if &*name == METADATA {
                        header.metadata = map.next_value()?;
                        continue;
                    }
                    let Info { dtype, shape, data_offsets: (start, end) } = map.next_value()?;
                    header.tensors.push(Entry { name, dtype, shape: shape.0, start, end });
                }
                Ok(header)
            }
        }
        from.deserialize_map(Tensors)
    }
}

/// What stands behind a name.
#[derive(Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// Sizes, few enough.
struct Shape(Box<[usize]>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Shape, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MOST_DIMS} sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let (mut sizes, mut count) = ([0; MOST_DIMS], 0);
                while let Some(size) = seq.next_element()? {
                    let place = sizes.get_mut(count);
                    *place.ok_or_else(|| A::Error::invalid_length(count + 1, &self))? = size;
                    count += 1;
                }
                Ok(Shape(sizes[..count].into()))
            }
        }
        from.deserialize_seq(Sizes)
    }
}
