//! A deserialiser over TOML values that knows which key it is at and lets no key pass unread.
//!
//! serde tells a deserialiser the field names of every struct it asks for, unset options and
//! entries of arrays included: that list is what keys are held against.

use serde::de::value::StringDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::{Table, Value};

use super::keys::entry_names;
use super::wrong::Wrong;

/// One value to be read.
pub(super) struct Strict(Value);

impl Strict {
    pub(super) fn new(value: Value) -> Self {
        Strict(value)
    }
}

impl<'de> Deserializer<'de> for Strict {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(truth) => visitor.visit_bool(truth),
            Value::Datetime(time) => visitor.visit_string(time.to_string()),
            Value::Array(array) => visit_array(array, visitor),
            Value::Table(table) => visitor.visit_map(Keys::new(table)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        if let Value::Table(table) = &self.0
            && let Some(unknown) = table.keys().find(|key| !fields.contains(&key.as_str()))
        {
            return Err(Wrong::unknown_field(unknown, fields));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        // TOML has no null: what is there is something.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(text) => {
                let name: StringDeserializer<Wrong> = text.into_deserializer();
                visitor.visit_enum(name)
            }
            Value::Table(table) if table.len() == 1 => {
                let (variant, content) = table.into_iter().next().expect("it has one entry");
                visitor.visit_enum(Variant { variant, content })
            }
            other => {
                let expected = format!("one of: {}", variants.join(", "));
                Err(Wrong::invalid_type(unexpected(&other), &expected.as_str()))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::String(text) => Unexpected::Str(text),
        Value::Integer(number) => Unexpected::Signed(*number),
        Value::Float(number) => Unexpected::Float(*number),
        Value::Boolean(truth) => Unexpected::Bool(*truth),
        Value::Datetime(_) => Unexpected::Other("a date or time"),
        Value::Array(_) => Unexpected::Seq,
        Value::Table(_) => Unexpected::Map,
    }
}

fn visit_array<'de, V: Visitor<'de>>(array: Vec<Value>, visitor: V) -> Result<V::Value, Wrong> {
    let (len, names) = (array.len(), entry_names(&array));
    let mut entries = Entries { entries: names.into_iter().zip(array) };
    let value = visitor.visit_seq(&mut entries)?;
    // A tuple or array of fixed length stops early and would leave the rest unread.
    match entries.entries.len() {
        0 => Ok(value),
        rest => Err(Wrong::invalid_length(len, &format!("length {}", len - rest).as_str())),
    }
}

struct Entries {
    entries: std::iter::Zip<std::vec::IntoIter<String>, std::vec::IntoIter<Value>>,
}

impl<'de> SeqAccess<'de> for Entries {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        let Some((name, value)) = self.entries.next() else { return Ok(None) };
        seed.deserialize(Strict(value)).map(Some).map_err(|wrong| wrong.within(&name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Keys {
    entries: <Table as IntoIterator>::IntoIter,
    pending: Option<(String, Value)>,
}

impl Keys {
    fn new(table: Table) -> Self {
        Keys { entries: table.into_iter(), pending: None }
    }
}

impl<'de> MapAccess<'de> for Keys {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let name: StringDeserializer<Wrong> = key.clone().into_deserializer();
        let read = seed.deserialize(name).map_err(|wrong| wrong.within(&key))?;
        self.pending = Some((key, value));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (key, value) = self.pending.take().expect("serde asks for a key before its value");
        seed.deserialize(Strict(value)).map_err(|wrong| wrong.within(&key))
    }
}

/// An enum variant with content: `rule = { cosine = { warmup = 100 } }`.
struct Variant {
    variant: String,
    content: Value,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Wrong;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Wrong> {
        let name: StringDeserializer<Wrong> = self.variant.clone().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        let got = unexpected(&self.content);
        Err(Wrong::invalid_type(got, &"no value").within(&self.variant))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Wrong> {
        seed.deserialize(Strict(self.content)).map_err(|wrong| wrong.within(&self.variant))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Wrong> {
        let read = Strict(self.content).deserialize_any(visitor);
        read.map_err(|wrong| wrong.within(&self.variant))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let read = Strict(self.content).deserialize_struct("", fields, visitor);
        read.map_err(|wrong| wrong.within(&self.variant))
    }
}
