//! Values: the self-describing data under a session's keys, and how serde fills and reads them. It owns
//! the kinds and the encoding of one value; it never knows keys of a record, stores or limits of a session.
//!
//! serde sees a *human-readable* format: addresses, UUIDs and dates become strings, so that a listing can
//! be read without the Rust type. Enums are externally tagged as in JSON, `None` and `()` are null, signed
//! integers are [`Kind::I64`], unsigned ones [`Kind::U64`], floats [`Kind::F64`].

pub(crate) mod archived;
mod bytes;
mod de;
pub(crate) mod fields;
pub(crate) mod json;
mod owned;
mod ser;
mod timestamp;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod tests;

use base64::Engine as _;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

pub use self::archived::Archivable;
pub use self::bytes::Bytes;
pub(crate) use self::de::decode;
pub use self::owned::Value;
pub(crate) use self::ser::Encoded;
pub use self::timestamp::Timestamp;
use self::wire::Cursor;

/// The kind of a stored value. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// No value: serde's `None` and `()`.
    Null = 0,
    /// A boolean.
    Bool = 1,
    /// A signed integer.
    I64 = 2,
    /// An unsigned integer.
    U64 = 3,
    /// A float.
    F64 = 4,
    /// A string.
    Str = 5,
    /// Bytes.
    Bytes = 6,
    /// A moment: microseconds since the Unix epoch.
    Timestamp = 7,
    /// A list of values.
    List = 8,
    /// A map from strings to values.
    Map = 9,
    /// An rkyv archive of the application.
    Archived = 10,
}

impl Kind {
    /// The kind with this number.
    pub(crate) const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Null,
            1 => Self::Bool,
            2 => Self::I64,
            3 => Self::U64,
            4 => Self::F64,
            5 => Self::Str,
            6 => Self::Bytes,
            7 => Self::Timestamp,
            8 => Self::List,
            9 => Self::Map,
            10 => Self::Archived,
            _ => return None,
        })
    }

    /// The name for people, e.g. in error messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F64 => "f64",
            Self::Str => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::List => "list",
            Self::Map => "map",
            Self::Archived => "archived",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A value read in place: it borrows the record and copies nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ValueRef<'a> {
    /// No value.
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
    Str(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A moment.
    Timestamp(Timestamp),
    /// A list of values.
    List(ListRef<'a>),
    /// A map from strings to values.
    Map(MapRef<'a>),
    /// An rkyv archive of the application, with a type tag and padding around it:
    /// [`Snapshot::archived`](crate::Snapshot::archived) reads it.
    Archived(&'a [u8]),
}

impl<'a> ValueRef<'a> {
    /// The same value without its borrow, if it has none to begin with.
    #[inline]
    pub(crate) fn detach(self) -> Result<ValueRef<'static>, Self> {
        Ok(match self {
            Self::Null => ValueRef::Null,
            Self::Bool(b) => ValueRef::Bool(b),
            Self::I64(n) => ValueRef::I64(n),
            Self::U64(n) => ValueRef::U64(n),
            Self::F64(n) => ValueRef::F64(n),
            Self::Timestamp(t) => ValueRef::Timestamp(t),
            borrowed => return Err(borrowed),
        })
    }

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
            Self::Archived(_) => Kind::Archived,
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub const fn as_str(&self) -> Option<&'a str> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The integer, if it is one and fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I64(n) => Some(n),
            Self::U64(n) => i64::try_from(n).ok(),
            _ => None,
        }
    }

    /// The integer, if it is one and fits.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U64(n) => Some(n),
            Self::I64(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// The float, if it is one. Integers are not converted.
    #[must_use]
    pub const fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F64(n) => Some(n),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The bytes, if the value is [`Kind::Bytes`].
    #[must_use]
    pub const fn as_bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(b) => Some(b),
            _ => None,
        }
    }

    /// The moment, if it is one.
    #[must_use]
    pub const fn as_timestamp(&self) -> Option<Timestamp> {
        match *self {
            Self::Timestamp(t) => Some(t),
            _ => None,
        }
    }

    /// An owned copy. An application's archive becomes [`Value::Bytes`]; stored again, it is no archive any more.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match *self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(b),
            Self::I64(n) => Value::I64(n),
            Self::U64(n) => Value::U64(n),
            Self::F64(n) => Value::F64(n),
            Self::Str(s) => Value::Str(s.to_owned()),
            Self::Bytes(b) | Self::Archived(b) => Value::Bytes(b.to_vec()),
            Self::Timestamp(t) => Value::Timestamp(t),
            Self::List(list) => Value::List(list.iter().map(|v| v.to_value()).collect()),
            Self::Map(map) => Value::Map(map.iter().map(|(k, v)| (k.to_owned(), v.to_value())).collect()),
        }
    }
}

/// Bytes are a base64 string in human-readable formats, a moment is its integer of microseconds.
impl Serialize for ValueRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(b) => serializer.serialize_bool(*b),
            Self::I64(n) => serializer.serialize_i64(*n),
            Self::U64(n) => serializer.serialize_u64(*n),
            Self::F64(n) => serializer.serialize_f64(*n),
            Self::Str(s) => serializer.serialize_str(s),
            Self::Bytes(b) | Self::Archived(b) => {
                serializer.serialize_newtype_struct(BYTES_MARKER, &BytesOrBase64(b))
            }
            Self::Timestamp(t) => t.serialize(serializer),
            Self::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                for item in list.iter() {
                    seq.serialize_element(&item)?;
                }
                seq.end()
            }
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries.iter() {
                    map.serialize_entry(key, &value)?;
                }
                map.end()
            }
        }
    }
}

/// Name of the newtype struct that tells our own serializer that bytes follow, so that it can take them as
/// bytes although it is human-readable.
const BYTES_MARKER: &str = "$sessile::Bytes";

/// Bytes that are a base64 string in foreign human-readable formats and bytes everywhere else.
struct BytesOrBase64<'a>(&'a [u8]);

impl Serialize for BytesOrBase64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(self.0))
        } else {
            serializer.serialize_bytes(self.0)
        }
    }
}

/// A list read in place.
#[derive(Clone, Copy, PartialEq)]
pub struct ListRef<'a> {
    count: u32,
    /// The items' encodings, one after the other.
    items: &'a [u8],
}

impl<'a> ListRef<'a> {
    /// Number of items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no items.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = ValueRef<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.items);
        (0..self.count).map_while(move |_| cursor.item().ok())
    }
}

impl std::fmt::Debug for ListRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A map read in place. Keys keep the order in which serde wrote them.
#[derive(Clone, Copy, PartialEq)]
pub struct MapRef<'a> {
    count: u32,
    /// The entries' encodings, one after the other.
    entries: &'a [u8],
}

impl<'a> MapRef<'a> {
    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value under `key`.
    ///
    /// # Complexity
    /// O(size of the map).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<ValueRef<'a>> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The entries in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        let mut cursor = Cursor::new(self.entries);
        (0..self.count).map_while(move |_| cursor.str().and_then(|key| Ok((key, cursor.item()?))).ok())
    }
}

impl std::fmt::Debug for MapRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
