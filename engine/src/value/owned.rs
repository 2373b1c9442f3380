//! The owned tree of a value, for code that has no Rust type for it. It converts; the engine itself never
//! builds one.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::de::VALUE_MARKER;
use super::{BYTES_MARKER, BytesOrBase64, Kind, Timestamp};

/// An owned value of any kind.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    I64(i64),
    /// An unsigned integer.
    U64(u64),
    /// A float.
    F64(f64),
    /// A string.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A moment.
    Timestamp(Timestamp),
    /// A list of values.
    List(Vec<Value>),
    /// A map from strings to values, in the order in which it is written.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// The kind of the value.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::I64(_) => Kind::I64,
            Self::U64(_) => Kind::U64,
            Self::F64(_) => Kind::F64,
            Self::Str(_) => Kind::Str,
            Self::Bytes(_) => Kind::Bytes,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::List(_) => Kind::List,
            Self::Map(_) => Kind::Map,
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

value_from! {
    bool => Bool,
    i8 => I64, i16 => I64, i32 => I64, i64 => I64,
    u8 => U64, u16 => U64, u32 => U64, u64 => U64,
    f32 => F64, f64 => F64,
    &str => Str, String => Str, char => Str,
    &[u8] => Bytes, Vec<u8> => Bytes,
    Timestamp => Timestamp, std::time::SystemTime => Timestamp,
    Vec<Value> => List, Vec<(String, Value)> => Map,
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// As [`ValueRef`](super::ValueRef): bytes are a base64 string in human-readable formats.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(b) => serializer.serialize_bool(*b),
            Self::I64(n) => serializer.serialize_i64(*n),
            Self::U64(n) => serializer.serialize_u64(*n),
            Self::F64(n) => serializer.serialize_f64(*n),
            Self::Str(s) => serializer.serialize_str(s),
            Self::Bytes(b) => serializer.serialize_newtype_struct(BYTES_MARKER, &BytesOrBase64(b)),
            Self::Timestamp(t) => t.serialize(serializer),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// Bytes and moments are only told apart from strings and integers when the value comes from a record.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE_MARKER, Outer)
    }
}

/// Foreign formats hand a newtype struct's content to `visit_newtype_struct`; ours calls the other methods.
struct Outer;
/// Meets a newtype struct only where our deserializer announces a moment.
struct Inner;

macro_rules! visit_leaves {
    () => {
        type Value = Value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }
        fn visit_none<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }
        fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
            Value::deserialize(inner)
        }
        fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
            Ok(Value::Bool(b))
        }
        fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
            Ok(Value::I64(n))
        }
        fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
            Ok(Value::U64(n))
        }
        fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
            Ok(Value::F64(n))
        }
        fn visit_str<E>(self, s: &str) -> Result<Value, E> {
            Ok(Value::Str(s.to_owned()))
        }
        fn visit_string<E>(self, s: String) -> Result<Value, E> {
            Ok(Value::Str(s))
        }
        fn visit_bytes<E>(self, b: &[u8]) -> Result<Value, E> {
            Ok(Value::Bytes(b.to_vec()))
        }
        fn visit_byte_buf<E>(self, b: Vec<u8>) -> Result<Value, E> {
            Ok(Value::Bytes(b))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                items.push(item);
            }
            Ok(Value::List(items))
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(Value::Map(entries))
        }
    };
}

impl<'de> Visitor<'de> for Outer {
    visit_leaves!();

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(Inner)
    }
}

impl<'de> Visitor<'de> for Inner {
    visit_leaves!();

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        i64::deserialize(inner).map(|micros| Value::Timestamp(Timestamp::from_micros(micros)))
    }
}
