//! The serde deserializer over a value read in place. Strings and bytes are borrowed; integers convert where
//! they fit; everything else must be of the kind that was asked for.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer};
use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::timestamp::TIMESTAMP_MARKER;
use super::{BYTES_MARKER, Kind, Timestamp, ValueRef};
use crate::error::{Error, ErrorKind, Result};

/// Name of the newtype struct by which [`Value`](super::Value) asks for whatever is there.
pub(super) const VALUE_MARKER: &str = "$sessile::Value";

/// Reads `value` as a `T`.
///
/// # Errors
/// [`ErrorKind::TypeMismatch`], naming the wanted type and the found kind, with serde's message as source.
pub(crate) fn decode<'a, T: Deserialize<'a>>(value: ValueRef<'a>) -> Result<T> {
    T::deserialize(ValueDeserializer(value)).map_err(|e| {
        let message = format!("wanted {}, found {}", std::any::type_name::<T>(), value.kind());
        Error::new(ErrorKind::TypeMismatch, message).with_source(e)
    })
}

/// serde's account of why a value could not be read.
#[derive(Debug)]
pub(crate) struct DecodeError(String, Option<&'static str>);

impl DecodeError {
    fn new(message: String) -> Self {
        Self(message, None)
    }

    /// The field that has no value, if that is why.
    pub(super) const fn missing(&self) -> Option<&'static str> {
        self.1
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("missing field `{field}`"), Some(field))
    }

    // serde would print the value itself, which may be a secret.
    fn invalid_type(found: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::new(format!("invalid type: {}, expected {wanted}", Shape(found)))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::new(format!("invalid value: {}, expected {wanted}", Shape(found)))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown variant, expected one of {expected:?}"))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown field, expected one of {expected:?}"))
    }
}

/// What was found, without its content.
struct Shape<'a>(Unexpected<'a>);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Bool(_) => f.write_str("boolean"),
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => f.write_str("integer"),
            Unexpected::Float(_) => f.write_str("floating point"),
            Unexpected::Char(_) => f.write_str("character"),
            Unexpected::Str(_) => f.write_str("string"),
            Unexpected::Bytes(_) => f.write_str("byte array"),
            Unexpected::Other(what) => f.write_str(what),
            other => write!(f, "{other}"),
        }
    }
}

pub(super) type Decode<T> = std::result::Result<T, DecodeError>;

#[derive(Clone, Copy)]
pub(super) struct ValueDeserializer<'de>(pub(super) ValueRef<'de>);

impl<'de> IntoDeserializer<'de, DecodeError> for ValueDeserializer<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn seq<'de, V: Visitor<'de>, T: IntoDeserializer<'de, DecodeError>>(
    items: impl Iterator<Item = T>,
    visitor: V,
) -> Decode<V::Value> {
    let mut access = SeqDeserializer::new(items);
    let value = visitor.visit_seq(&mut access)?;
    access.end()?;
    Ok(value)
}

impl<'de> de::Deserializer<'de> for ValueDeserializer<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Decode<V::Value> {
        match self.0 {
            ValueRef::Null => visitor.visit_unit(),
            ValueRef::Bool(b) => visitor.visit_bool(b),
            ValueRef::I64(n) => visitor.visit_i64(n),
            ValueRef::U64(n) => visitor.visit_u64(n),
            ValueRef::F64(n) => visitor.visit_f64(n),
            ValueRef::Str(s) => visitor.visit_borrowed_str(s),
            ValueRef::Bytes(b) | ValueRef::Archived(b) => visitor.visit_borrowed_bytes(b),
            ValueRef::Timestamp(t) => visitor.visit_i64(t.as_micros()),
            ValueRef::List(list) => seq(list.iter().map(ValueDeserializer), visitor),
            ValueRef::Map(map) => {
                let mut access = Entries { iter: map.iter(), value: None, left: map.len() };
                let value = visitor.visit_map(&mut access)?;
                if access.left == 0 {
                    Ok(value)
                } else {
                    Err(de::Error::custom("the map has more entries than were read"))
                }
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Decode<V::Value> {
        match self.0 {
            ValueRef::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Decode<V::Value> {
        match (name, self.0) {
            (TIMESTAMP_MARKER | VALUE_MARKER, ValueRef::Timestamp(t)) => {
                visitor.visit_newtype_struct(Moment { moment: t, announced: name == TIMESTAMP_MARKER })
            }
            (TIMESTAMP_MARKER, other) => {
                Err(de::Error::custom(format_args!("wanted a timestamp, found {}", other.kind())))
            }
            (BYTES_MARKER, ValueRef::Bytes(bytes)) => visitor.visit_borrowed_bytes(bytes),
            (BYTES_MARKER, other) => {
                Err(de::Error::custom(format_args!("wanted bytes, found {}", other.kind())))
            }
            (VALUE_MARKER, _) => self.deserialize_any(visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Decode<V::Value> {
        match self.0 {
            ValueRef::Str(name) => visitor.visit_enum(Variant { name, content: None }),
            ValueRef::Map(map) if map.len() == 1 => match map.iter().next() {
                Some((name, value)) => visitor.visit_enum(Variant { name, content: Some(value) }),
                None => Err(de::Error::custom("an enum's map is empty")),
            },
            other => Err(de::Error::custom(format_args!(
                "wanted an enum (a string, or a map of one entry), found {}",
                other.kind()
            ))),
        }
    }

    /// A `Vec<u8>` also reads bytes that were stored as bytes.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Decode<V::Value> {
        match self.0 {
            ValueRef::Bytes(bytes) => seq(bytes.iter().copied(), visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct identifier ignored_any
    }
}

/// A moment inside its marker.
struct Moment {
    moment: Timestamp,
    /// Whether the reader asked for a moment and so needs no second announcement.
    announced: bool,
}

impl<'de> de::Deserializer<'de> for Moment {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Decode<V::Value> {
        if self.announced {
            visitor.visit_i64(self.moment.as_micros())
        } else {
            visitor.visit_newtype_struct(Self { announced: true, ..self })
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Entries<'de, I> {
    iter: I,
    value: Option<ValueRef<'de>>,
    left: usize,
}

impl<'de, I: Iterator<Item = (&'de str, ValueRef<'de>)>> de::MapAccess<'de> for Entries<'de, I> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Decode<Option<K::Value>> {
        let Some((key, value)) = self.iter.next() else { return Ok(None) };
        self.left = self.left.saturating_sub(1);
        self.value = Some(value);
        seed.deserialize(KeyDeserializer(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Decode<V::Value> {
        let value =
            self.value.take().ok_or_else(|| DecodeError::new("a value was read before its key".into()))?;
        seed.deserialize(ValueDeserializer(value))
    }

    // Clamped: the count comes from stored bytes.
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(1024))
    }
}

/// A map's key: a string that also reads as the integer, char or unit variant it was written from.
pub(super) struct KeyDeserializer<'de>(pub(super) &'de str);

macro_rules! integer_keys {
    ($($method:ident -> $visit:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Decode<V::Value> {
            match self.0.parse() {
                Ok(n) => visitor.$visit(n),
                Err(_) => visitor.visit_borrowed_str(self.0),
            }
        })*
    };
}

impl<'de> de::Deserializer<'de> for KeyDeserializer<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Decode<V::Value> {
        visitor.visit_borrowed_str(self.0)
    }

    integer_keys! {
        deserialize_i8 -> visit_i8, deserialize_i16 -> visit_i16, deserialize_i32 -> visit_i32,
        deserialize_i64 -> visit_i64, deserialize_i128 -> visit_i128, deserialize_u8 -> visit_u8,
        deserialize_u16 -> visit_u16, deserialize_u32 -> visit_u32, deserialize_u64 -> visit_u64,
        deserialize_u128 -> visit_u128,
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Decode<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Decode<V::Value> {
        BorrowedStrDeserializer::new(self.0).deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<ValueRef<'de>>,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Decode<(V::Value, Self)> {
        let variant = seed.deserialize(BorrowedStrDeserializer::<DecodeError>::new(self.name))?;
        Ok((variant, self))
    }
}

impl<'de> Variant<'de> {
    fn content(self, wanted: Kind) -> Decode<ValueDeserializer<'de>> {
        match self.content {
            Some(value) if value.kind() == wanted => Ok(ValueDeserializer(value)),
            _ => Err(de::Error::custom(format_args!("wanted a variant with a {wanted}"))),
        }
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Decode<()> {
        match self.content {
            None | Some(ValueRef::Null) => Ok(()),
            Some(_) => Err(de::Error::custom("wanted a variant without content")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Decode<T::Value> {
        match self.content {
            Some(value) => seed.deserialize(ValueDeserializer(value)),
            None => Err(de::Error::custom("wanted a variant with content")),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Decode<V::Value> {
        de::Deserializer::deserialize_any(self.content(Kind::List)?, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Decode<V::Value> {
        de::Deserializer::deserialize_any(self.content(Kind::Map)?, visitor)
    }
}
