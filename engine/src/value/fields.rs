//! A struct or map as fields of their own: serde's two halves over named values. It knows no record: it makes
//! and takes pairs of a name and a value.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Visitor};
use serde::forward_to_deserialize_any;
use serde::ser::{self, Impossible, Serialize};

use super::de::{Decode, DecodeError, KeyDeserializer, ValueDeserializer};
use super::ser::map_key;
use super::{Encoded, ValueRef};
use crate::error::{Error, ErrorKind, Result};

/// A field: its name, and its value unless it is serde's `None`.
pub(crate) type Field = (Cow<'static, str>, Option<Encoded>);

/// The fields of `value`.
///
/// # Errors
/// [`ErrorKind::Serialize`] if it is neither a struct nor a map with keys as a record has them; otherwise as
/// [`Encoded::of`], naming the field.
pub(crate) fn encode_fields<T: Serialize + ?Sized>(value: &T) -> Result<Vec<Field>> {
    value.serialize(FieldSerializer).map_err(|refused| refused.0)
}

#[derive(Debug)]
struct Refused(Error);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Error::new(ErrorKind::Serialize, message.to_string()))
    }
}

type Encode<T> = std::result::Result<T, Refused>;

fn shapeless<T>() -> Encode<T> {
    Err(Refused(Error::new(
        ErrorKind::Serialize,
        "only a struct with named fields, or a map, can be stored as keys of its own",
    )))
}

struct FieldSerializer;

#[derive(Default)]
struct Collector {
    fields: Vec<Field>,
    /// A map's key whose value comes next.
    key: Option<String>,
}

impl Collector {
    fn add<T: Serialize + ?Sized>(&mut self, key: Cow<'static, str>, value: &T) -> Encode<()> {
        let value = Encoded::of_field(value).map_err(|e| Refused(e.with_key(&key)))?;
        self.fields.push((key, value));
        Ok(())
    }
}

macro_rules! shapeless {
    ($($method:ident($($type:ty),*)),* $(,)?) => {
        $(fn $method(self, $(_: $type),*) -> Encode<Vec<Field>> {
            shapeless()
        })*
    };
}

impl ser::Serializer for FieldSerializer {
    type Ok = Vec<Field>;
    type Error = Refused;
    type SerializeSeq = Impossible<Vec<Field>, Refused>;
    type SerializeTuple = Impossible<Vec<Field>, Refused>;
    type SerializeTupleStruct = Impossible<Vec<Field>, Refused>;
    type SerializeTupleVariant = Impossible<Vec<Field>, Refused>;
    type SerializeMap = Collector;
    type SerializeStruct = Collector;
    type SerializeStructVariant = Impossible<Vec<Field>, Refused>;

    fn serialize_map(self, _: Option<usize>) -> Encode<Collector> {
        Ok(Collector::default())
    }
    fn serialize_struct(self, _: &'static str, len: usize) -> Encode<Collector> {
        Ok(Collector { fields: Vec::with_capacity(len), key: None })
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Encode<Vec<Field>> {
        value.serialize(self)
    }

    shapeless! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32),
        serialize_f64(f64), serialize_char(char), serialize_str(&str), serialize_bytes(&[u8]), serialize_none(),
        serialize_unit(), serialize_unit_struct(&'static str),
        serialize_unit_variant(&'static str, u32, &'static str),
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Encode<Vec<Field>> {
        shapeless()
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Encode<Vec<Field>> {
        shapeless()
    }
    fn serialize_seq(self, _: Option<usize>) -> Encode<Self::SerializeSeq> {
        shapeless()
    }
    fn serialize_tuple(self, _: usize) -> Encode<Self::SerializeTuple> {
        shapeless()
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Encode<Self::SerializeTupleStruct> {
        shapeless()
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Encode<Self::SerializeTupleVariant> {
        shapeless()
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Encode<Self::SerializeStructVariant> {
        shapeless()
    }
}

impl ser::SerializeStruct for Collector {
    type Ok = Vec<Field>;
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Encode<()> {
        self.add(Cow::Borrowed(key), value)
    }
    // `skip_serializing_if` says that there is nothing to store, so nothing old may stay.
    fn skip_field(&mut self, key: &'static str) -> Encode<()> {
        self.fields.push((Cow::Borrowed(key), None));
        Ok(())
    }
    fn end(self) -> Encode<Vec<Field>> {
        Ok(self.fields)
    }
}

impl ser::SerializeMap for Collector {
    type Ok = Vec<Field>;
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Encode<()> {
        self.key = Some(map_key(key).map_err(Refused)?);
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Encode<()> {
        match self.key.take() {
            Some(key) => self.add(Cow::Owned(key), value),
            None => Err(ser::Error::custom("a map's value was written before its key")),
        }
    }
    fn end(self) -> Encode<Vec<Field>> {
        Ok(self.fields)
    }
}

/// Reads a struct or map from `entries`, of which a struct is given only those that are fields of it. `None` if
/// there are none.
///
/// # Errors
/// [`ErrorKind::MissingField`] and [`ErrorKind::TypeMismatch`], naming the field.
pub(crate) fn decode_fields<'a, T: Deserialize<'a>>(
    entries: impl Iterator<Item = (&'a str, ValueRef<'a>)>,
) -> Result<Option<T>> {
    let progress = Progress::default();
    let wanted = std::any::type_name::<T>();
    let error = match T::deserialize(FieldDeserializer { entries, progress: &progress }) {
        Ok(value) => return Ok(progress.any.get().then_some(value)),
        Err(error) => error,
    };
    if let Some(key) = progress.key.get() {
        return Err(Error::new(ErrorKind::TypeMismatch, format!("not as {wanted} wants it"))
            .with_key(key)
            .with_source(error));
    }
    match error.missing() {
        Some(_) if !progress.any.get() => Ok(None),
        Some(field) => {
            Err(Error::new(ErrorKind::MissingField, format!("{wanted} needs a value here")).with_key(field))
        }
        None => Err(Error::new(ErrorKind::TypeMismatch, format!("the session's keys make no {wanted}"))
            .with_source(error)),
    }
}

/// How far a struct's deserialization has come, for the error.
#[derive(Default)]
struct Progress<'de> {
    /// Whether there was a value for any field.
    any: Cell<bool>,
    /// The field being read.
    key: Cell<Option<&'de str>>,
}

struct FieldDeserializer<'p, 'de, I> {
    entries: I,
    progress: &'p Progress<'de>,
}

impl<'de, I: Iterator<Item = (&'de str, ValueRef<'de>)>> de::Deserializer<'de>
    for FieldDeserializer<'_, 'de, I>
{
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Decode<V::Value> {
        visitor.visit_map(FieldAccess { entries: self.entries, value: None, progress: self.progress })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Decode<V::Value> {
        let entries = self.entries.filter(|(key, _)| fields.contains(key));
        visitor.visit_map(FieldAccess { entries, value: None, progress: self.progress })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Decode<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    // To every visitor but a struct's or map's, a map is of the wrong type.
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct FieldAccess<'p, 'de, I> {
    entries: I,
    value: Option<ValueRef<'de>>,
    progress: &'p Progress<'de>,
}

impl<'de, I: Iterator<Item = (&'de str, ValueRef<'de>)>> de::MapAccess<'de> for FieldAccess<'_, 'de, I> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Decode<Option<K::Value>> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.progress.any.set(true);
        self.progress.key.set(Some(key));
        self.value = Some(value);
        seed.deserialize(KeyDeserializer(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Decode<V::Value> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value was read before its key"))?;
        let value = seed.deserialize(ValueDeserializer(value))?;
        self.progress.key.set(None);
        Ok(value)
    }
}
