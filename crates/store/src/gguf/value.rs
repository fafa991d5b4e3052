//! What a key of a GGUF file holds: a number, a text, or an array of one of them.

use std::borrow::Cow;

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue<'a> {
    /// 8 bits without sign.
    U8(u8),
    /// 8 bits with sign.
    I8(i8),
    /// 16 bits without sign.
    U16(u16),
    /// 16 bits with sign.
    I16(i16),
    /// 32 bits without sign: what most counts are.
    U32(u32),
    /// 32 bits with sign.
    I32(i32),
    /// A 32-bit float.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Str(Cow<'a, str>),
    /// An array.
    Array(GgufArray<'a>),
    /// 64 bits without sign.
    U64(u64),
    /// 64 bits with sign.
    I64(i64),
    /// A 64-bit float.
    F64(f64),
}

/// The number of strings in the file.
pub(super) const STRING: u32 = 8;
/// The number of arrays in the file.
pub(super) const ARRAY: u32 = 9;

/// Bytes of one value of a type of fixed size.
pub(super) fn size_of(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

impl<'a> GgufValue<'a> {
    /// The number of its type in the file.
    pub(super) fn kind(&self) -> u32 {
        match self {
            GgufValue::U8(_) => 0,
            GgufValue::I8(_) => 1,
            GgufValue::U16(_) => 2,
            GgufValue::I16(_) => 3,
            GgufValue::U32(_) => 4,
            GgufValue::I32(_) => 5,
            GgufValue::F32(_) => 6,
            GgufValue::Bool(_) => 7,
            GgufValue::Str(_) => STRING,
            GgufValue::Array(_) => ARRAY,
            GgufValue::U64(_) => 10,
            GgufValue::I64(_) => 11,
            GgufValue::F64(_) => 12,
        }
    }

    /// A value of fixed size out of its bytes, which the caller has counted.
    pub(super) fn of_fixed(kind: u32, bytes: &[u8]) -> Option<GgufValue<'static>> {
        let value = match kind {
            0 => GgufValue::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            1 => GgufValue::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            2 => GgufValue::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            3 => GgufValue::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            4 => GgufValue::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            5 => GgufValue::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            6 => GgufValue::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            7 => GgufValue::Bool(bytes != [0]),
            10 => GgufValue::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            11 => GgufValue::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            12 => GgufValue::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            _ => return None,
        };
        Some(value)
    }

    /// Its bytes in a file of version 3.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            GgufValue::U8(value) => value.to_le_bytes().into(),
            GgufValue::I8(value) => value.to_le_bytes().into(),
            GgufValue::U16(value) => value.to_le_bytes().into(),
            GgufValue::I16(value) => value.to_le_bytes().into(),
            GgufValue::U32(value) => value.to_le_bytes().into(),
            GgufValue::I32(value) => value.to_le_bytes().into(),
            GgufValue::F32(value) => value.to_le_bytes().into(),
            GgufValue::Bool(value) => vec![u8::from(*value)],
            GgufValue::Str(text) => string_bytes(text.as_bytes()),
            GgufValue::Array(array) => array.file_bytes(),
            GgufValue::U64(value) => value.to_le_bytes().into(),
            GgufValue::I64(value) => value.to_le_bytes().into(),
            GgufValue::F64(value) => value.to_le_bytes().into(),
        }
    }

    /// A whole number from 0 on, whatever its width.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            GgufValue::U8(value) => Some((*value).into()),
            GgufValue::U16(value) => Some((*value).into()),
            GgufValue::U32(value) => Some((*value).into()),
            GgufValue::U64(value) => Some(*value),
            GgufValue::I8(value) => u64::try_from(*value).ok(),
            GgufValue::I16(value) => u64::try_from(*value).ok(),
            GgufValue::I32(value) => u64::try_from(*value).ok(),
            GgufValue::I64(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A fraction, of either width.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            GgufValue::F32(value) => Some((*value).into()),
            GgufValue::F64(value) => Some(*value),
            _ => None,
        }
    }

    /// Yes or no.
    pub fn as_bool(&self) -> Option<bool> {
        if let GgufValue::Bool(value) = self { Some(*value) } else { None }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        if let GgufValue::Str(text) = self { Some(text) } else { None }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&GgufArray<'a>> {
        if let GgufValue::Array(array) = self { Some(array) } else { None }
    }
}

impl From<&str> for GgufValue<'static> {
    fn from(text: &str) -> Self {
        GgufValue::Str(text.to_string().into())
    }
}

fn string_bytes(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// An array of numbers or texts, still in the bytes of the file: a vocabulary of 150,000 texts
/// costs nothing until somebody reads it.
#[derive(Clone, Debug)]
pub struct GgufArray<'a> {
    pub(super) kind: u32,
    pub(super) count: usize,
    pub(super) bytes: Cow<'a, [u8]>,
    /// Bytes of the length before each text: 4 in version 1, 8 since.
    pub(super) length_bytes: usize,
}

impl<'a> GgufArray<'a> {
    /// An array of texts.
    pub fn of_strings<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> GgufArray<'static> {
        let (mut count, mut bytes) = (0, Vec::new());
        for text in texts {
            count += 1;
            bytes.extend(string_bytes(text.as_ref()));
        }
        GgufArray { kind: STRING, count, bytes: bytes.into(), length_bytes: 8 }
    }

    /// An array of 32-bit integers with sign.
    pub fn of_i32s(values: &[i32]) -> GgufArray<'static> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        GgufArray { kind: 5, count: values.len(), bytes: bytes.into(), length_bytes: 8 }
    }

    /// An array of 32-bit floats.
    pub fn of_f32s(values: &[f32]) -> GgufArray<'static> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        GgufArray { kind: 6, count: values.len(), bytes: bytes.into(), length_bytes: 8 }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The texts, as bytes: vocabularies hold half characters. `None` for an array of numbers.
    pub fn byte_strings(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let mut rest = (self.kind == STRING).then_some(&*self.bytes)?;
        Some(std::iter::from_fn(move || {
            let (length, after) = rest.split_at_checked(self.length_bytes)?;
            let mut wide = [0; 8];
            wide[..self.length_bytes].copy_from_slice(length);
            let (text, after) = after.split_at_checked(u64::from_le_bytes(wide) as usize)?;
            rest = after;
            Some(text)
        }))
    }

    /// The numbers or yes-and-noes, one by one. `None` for an array of texts.
    pub fn numbers(&self) -> Option<impl Iterator<Item = GgufValue<'static>>> {
        let size = size_of(self.kind)?;
        let values = self.bytes.chunks_exact(size);
        Some(values.filter_map(|bytes| GgufValue::of_fixed(self.kind, bytes)))
    }

    /// Type, count and values in a file of version 3.
    fn file_bytes(&self) -> Vec<u8> {
        let head = [&self.kind.to_le_bytes()[..], &(self.count as u64).to_le_bytes()].concat();
        match self.byte_strings().filter(|_| self.length_bytes != 8) {
            Some(texts) => head.into_iter().chain(texts.flat_map(string_bytes)).collect(),
            None => [&head[..], &self.bytes].concat(),
        }
    }
}

impl PartialEq for GgufArray<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.file_bytes() == other.file_bytes()
    }
}
