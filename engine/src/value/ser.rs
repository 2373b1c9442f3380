//! The serde serializer: it writes a value's bytes straight into one buffer, with no tree in between.
//! It knows no session and no limit but the nesting depth and the greatest size a record can ever have.

use std::fmt::{self, Write as _};

use serde::ser::{self, Serialize};
use smallvec::SmallVec;

use super::timestamp::TIMESTAMP_MARKER;
use super::wire::{COUNT_LEN, Cursor, MAX_DEPTH};
use super::{BYTES_MARKER, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::record::MAX_BODY_BYTES;

/// Encodings up to this size need no allocation.
const INLINE: usize = 64;

type Buffer = SmallVec<[u8; INLINE]>;

/// A value ready to be put into a record.
pub(crate) struct Encoded {
    kind: Kind,
    bytes: Buffer,
}

impl Encoded {
    /// Encodes `value`.
    ///
    /// # Errors
    /// [`ErrorKind::Serialize`] if the value's own `Serialize` fails, a map key is neither string, integer,
    /// char nor unit variant, or an integer needs more than 64 bits; [`ErrorKind::Limit`] if it is nested
    /// deeper than 32 lists and maps or larger than any record may be.
    pub(crate) fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let mut bytes = Buffer::new();
        match value.serialize(ValueSerializer { out: &mut bytes, depth: 0, mode: Mode::Plain }) {
            Ok(kind) => Ok(Self { kind, bytes }),
            Err(e) => Err(e.into()),
        }
    }

    /// Encodes the value of a struct's field: `None` for serde's `None`, which is no value at all there.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn of_field<T: Serialize + ?Sized>(value: &T) -> Result<Option<Self>> {
        let mut bytes = Buffer::new();
        match value.serialize(ValueSerializer { out: &mut bytes, depth: 0, mode: Mode::Field }) {
            Ok(Kind::Null) if !bytes.is_empty() => Ok(None),
            Ok(kind) => Ok(Some(Self { kind, bytes })),
            Err(e) => Err(e.into()),
        }
    }

    /// Bytes as they are, well formed or not: the caller vouches for them.
    pub(crate) fn raw(kind: Kind, bytes: &[u8]) -> Self {
        Self { kind, bytes: Buffer::from_slice(bytes) }
    }

    /// Whether the encoding took an allocation.
    #[cfg(test)]
    pub(crate) fn spilled(&self) -> bool {
        self.bytes.spilled()
    }

    /// The kind of the value.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The bytes that go under the key.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value, read in place.
    pub(crate) fn as_value_ref(&self) -> super::ValueRef<'_> {
        super::wire::read(self.kind, &self.bytes).unwrap_or(super::ValueRef::Null)
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({}, {} bytes)", self.kind, self.bytes.len())
    }
}

/// Why a value cannot be encoded.
#[derive(Debug)]
pub(crate) enum EncodeError {
    Custom(String),
    Depth,
    TooLarge,
    Key,
    Integer,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Custom(message) => f.write_str(message),
            Self::Depth => write!(f, "the value is nested deeper than {MAX_DEPTH} lists and maps"),
            Self::TooLarge => write!(f, "the value is larger than {MAX_BODY_BYTES} bytes"),
            Self::Key => {
                f.write_str("a map's key is neither a string, an integer, a char nor a unit variant")
            }
            Self::Integer => f.write_str("an integer needs more than 64 bits"),
        }
    }
}

impl std::error::Error for EncodeError {}

impl ser::Error for EncodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

impl From<EncodeError> for Error {
    fn from(e: EncodeError) -> Self {
        match e {
            EncodeError::Depth | EncodeError::TooLarge => Self::new(ErrorKind::Limit, e.to_string()),
            _ => Self::new(ErrorKind::Serialize, "the value cannot be serialized").with_source(e),
        }
    }
}

type Encode<T> = std::result::Result<T, EncodeError>;

/// What a marker newtype struct announced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Timestamp,
    Bytes,
    /// A struct's field, in which serde's `None` leaves [`ABSENT`] behind.
    Field,
}

/// Tells a field without a value from one whose value is null, which has no bytes.
const ABSENT: u8 = 1;

struct ValueSerializer<'b> {
    out: &'b mut Buffer,
    /// Number of lists and maps around this value. A value in none is the top: its kind is in the slot and
    /// its length known, so neither is written.
    depth: usize,
    mode: Mode,
}

fn room(out: &Buffer, more: usize) -> Encode<()> {
    if more > MAX_BODY_BYTES - out.len().min(MAX_BODY_BYTES) { Err(EncodeError::TooLarge) } else { Ok(()) }
}

fn count_bytes(len: usize) -> Encode<[u8; COUNT_LEN]> {
    u32::try_from(len).map(u32::to_le_bytes).map_err(|_| EncodeError::TooLarge)
}

fn prefixed(out: &mut Buffer, bytes: &[u8]) -> Encode<()> {
    room(out, COUNT_LEN + bytes.len())?;
    out.extend_from_slice(&count_bytes(bytes.len())?);
    out.extend_from_slice(bytes);
    Ok(())
}

impl<'b> ValueSerializer<'b> {
    fn tag(&mut self, kind: Kind) {
        if self.depth > 0 {
            self.out.push(kind as u8);
        }
    }

    fn leaf(mut self, kind: Kind, payload: &[u8]) -> Encode<Kind> {
        room(self.out, payload.len())?;
        self.tag(kind);
        self.out.extend_from_slice(payload);
        Ok(kind)
    }

    fn text(mut self, kind: Kind, payload: &[u8]) -> Encode<Kind> {
        if self.depth == 0 {
            return self.leaf(kind, payload);
        }
        self.tag(kind);
        prefixed(self.out, payload)?;
        Ok(kind)
    }

    fn container(mut self, kind: Kind) -> Encode<Container<'b>> {
        if self.depth >= MAX_DEPTH {
            return Err(EncodeError::Depth);
        }
        room(self.out, COUNT_LEN)?;
        self.tag(kind);
        let count_at = self.out.len();
        self.out.extend_from_slice(&[0; COUNT_LEN]);
        Ok(Container { out: self.out, depth: self.depth + 1, kind, outer: kind, count_at, count: 0 })
    }

    /// The map of one entry that stands for an enum's variant; its value is written by the caller.
    fn variant(self, name: &str) -> Encode<ValueSerializer<'b>> {
        let mut map = self.container(Kind::Map)?;
        prefixed(map.out, name.as_bytes())?;
        map.count = 1;
        map.patch()?;
        Ok(ValueSerializer { out: map.out, depth: map.depth, mode: Mode::Plain })
    }
}

/// A list or map being written; its count is patched in at the end.
struct Container<'b> {
    out: &'b mut Buffer,
    depth: usize,
    kind: Kind,
    /// The kind of the whole value: a map where this container is the content of an enum's variant.
    outer: Kind,
    count_at: usize,
    count: usize,
}

impl Container<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Encode<()> {
        value.serialize(ValueSerializer { out: self.out, depth: self.depth, mode: Mode::Plain })?;
        if self.kind == Kind::List {
            self.count += 1;
        }
        Ok(())
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Encode<()> {
        self.count += 1;
        key.serialize(KeySerializer { out: self.out })
    }

    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Encode<()> {
        self.count += 1;
        prefixed(self.out, key.as_bytes())?;
        self.item(value)
    }

    fn patch(&mut self) -> Encode<()> {
        let count = count_bytes(self.count)?;
        if let Some(place) = self.out.get_mut(self.count_at..self.count_at + COUNT_LEN) {
            place.copy_from_slice(&count);
        }
        Ok(())
    }

    fn finish(mut self) -> Encode<Kind> {
        self.patch()?;
        Ok(self.outer)
    }
}

impl<'b> ser::Serializer for ValueSerializer<'b> {
    type Ok = Kind;
    type Error = EncodeError;
    type SerializeSeq = Container<'b>;
    type SerializeTuple = Container<'b>;
    type SerializeTupleStruct = Container<'b>;
    type SerializeTupleVariant = Container<'b>;
    type SerializeMap = Container<'b>;
    type SerializeStruct = Container<'b>;
    type SerializeStructVariant = Container<'b>;

    fn is_human_readable(&self) -> bool {
        self.mode != Mode::Bytes
    }

    fn serialize_bool(self, v: bool) -> Encode<Kind> {
        self.leaf(Kind::Bool, &[u8::from(v)])
    }
    fn serialize_i8(self, v: i8) -> Encode<Kind> {
        self.serialize_i64(v.into())
    }
    fn serialize_i16(self, v: i16) -> Encode<Kind> {
        self.serialize_i64(v.into())
    }
    fn serialize_i32(self, v: i32) -> Encode<Kind> {
        self.serialize_i64(v.into())
    }
    fn serialize_i64(self, v: i64) -> Encode<Kind> {
        let kind = if self.mode == Mode::Timestamp { Kind::Timestamp } else { Kind::I64 };
        self.leaf(kind, &v.to_le_bytes())
    }
    fn serialize_i128(self, v: i128) -> Encode<Kind> {
        self.serialize_i64(i64::try_from(v).map_err(|_| EncodeError::Integer)?)
    }
    fn serialize_u8(self, v: u8) -> Encode<Kind> {
        self.serialize_u64(v.into())
    }
    fn serialize_u16(self, v: u16) -> Encode<Kind> {
        self.serialize_u64(v.into())
    }
    fn serialize_u32(self, v: u32) -> Encode<Kind> {
        self.serialize_u64(v.into())
    }
    fn serialize_u64(self, v: u64) -> Encode<Kind> {
        self.leaf(Kind::U64, &v.to_le_bytes())
    }
    fn serialize_u128(self, v: u128) -> Encode<Kind> {
        self.serialize_u64(u64::try_from(v).map_err(|_| EncodeError::Integer)?)
    }
    fn serialize_f32(self, v: f32) -> Encode<Kind> {
        self.serialize_f64(v.into())
    }
    fn serialize_f64(self, v: f64) -> Encode<Kind> {
        self.leaf(Kind::F64, &v.to_le_bytes())
    }
    fn serialize_char(self, v: char) -> Encode<Kind> {
        self.text(Kind::Str, v.encode_utf8(&mut [0; 4]).as_bytes())
    }
    fn serialize_str(self, v: &str) -> Encode<Kind> {
        self.text(Kind::Str, v.as_bytes())
    }
    fn serialize_bytes(self, v: &[u8]) -> Encode<Kind> {
        self.text(Kind::Bytes, v)
    }
    fn serialize_none(self) -> Encode<Kind> {
        if self.mode == Mode::Field {
            return self.leaf(Kind::Null, &[ABSENT]);
        }
        self.serialize_unit()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Encode<Kind> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Encode<Kind> {
        self.leaf(Kind::Null, &[])
    }
    fn serialize_unit_struct(self, _: &'static str) -> Encode<Kind> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Encode<Kind> {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Encode<Kind> {
        let mode = match name {
            TIMESTAMP_MARKER => Mode::Timestamp,
            BYTES_MARKER => Mode::Bytes,
            _ => Mode::Plain,
        };
        value.serialize(Self { mode, ..self })
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Encode<Kind> {
        value.serialize(self.variant(variant)?)?;
        Ok(Kind::Map)
    }
    fn serialize_seq(self, _: Option<usize>) -> Encode<Container<'b>> {
        self.container(Kind::List)
    }
    fn serialize_tuple(self, _: usize) -> Encode<Container<'b>> {
        self.container(Kind::List)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Encode<Container<'b>> {
        self.container(Kind::List)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Encode<Container<'b>> {
        Ok(Container { outer: Kind::Map, ..self.variant(variant)?.container(Kind::List)? })
    }
    fn serialize_map(self, _: Option<usize>) -> Encode<Container<'b>> {
        self.container(Kind::Map)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Encode<Container<'b>> {
        self.container(Kind::Map)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Encode<Container<'b>> {
        self.variant(variant)?.container(Kind::Map)
    }
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Encode<Kind> {
        let mut text = Text(Buffer::new());
        write!(text, "{value}").map_err(|_| EncodeError::Custom("a Display implementation failed".into()))?;
        self.text(Kind::Str, &text.0)
    }
}

/// The string that stands for a map's key.
///
/// # Errors
/// [`ErrorKind::Serialize`] if it is neither string, integer, char nor unit variant.
pub(super) fn map_key<T: Serialize + ?Sized>(key: &T) -> Result<String> {
    let mut out = Buffer::new();
    key.serialize(KeySerializer { out: &mut out })?;
    let key = Cursor::new(&out).str().map_err(|what| Error::new(ErrorKind::Serialize, what))?;
    Ok(key.to_owned())
}

/// A buffer to `write!` into.
struct Text(Buffer);

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}

macro_rules! container_traits {
    ($($name:ident::$method:ident($($key:ident)?) via $via:ident),* $(,)?) => {
        $(impl ser::$name for Container<'_> {
            type Ok = Kind;
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($key: &'static str,)?
                value: &T,
            ) -> Encode<()> {
                self.$via($($key,)? value)
            }
            fn end(self) -> Encode<Kind> {
                self.finish()
            }
        })*
    };
}

container_traits! {
    SerializeSeq::serialize_element() via item,
    SerializeTuple::serialize_element() via item,
    SerializeTupleStruct::serialize_field() via item,
    SerializeTupleVariant::serialize_field() via item,
    SerializeStruct::serialize_field(key) via field,
    SerializeStructVariant::serialize_field(key) via field,
}

impl ser::SerializeMap for Container<'_> {
    type Ok = Kind;
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Encode<()> {
        self.key(key)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Encode<()> {
        self.item(value)
    }
    fn end(self) -> Encode<Kind> {
        self.finish()
    }
}

#[path = "key.rs"]
mod key;
use self::key::KeySerializer;
