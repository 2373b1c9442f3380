//! Serialization of a nested map's key: strings as they are, integers, chars and unit variants as strings,
//! nothing else.

use std::fmt::{self, Write as _};

use serde::ser::{self, Impossible, Serialize};

use super::{Buffer, Encode, EncodeError, Text, prefixed};

pub(super) struct KeySerializer<'b> {
    pub(super) out: &'b mut Buffer,
}

impl KeySerializer<'_> {
    fn display(self, value: impl fmt::Display) -> Encode<()> {
        let mut text = Text(Buffer::new());
        write!(text, "{value}").map_err(|_| EncodeError::Key)?;
        prefixed(self.out, &text.0)
    }
}

type NoKey = Impossible<(), EncodeError>;

macro_rules! integer_keys {
    ($($method:ident($int:ty)),* $(,)?) => {
        $(fn $method(self, v: $int) -> Encode<()> {
            self.display(v)
        })*
    };
}

impl ser::Serializer for KeySerializer<'_> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = NoKey;
    type SerializeTuple = NoKey;
    type SerializeTupleStruct = NoKey;
    type SerializeTupleVariant = NoKey;
    type SerializeMap = NoKey;
    type SerializeStruct = NoKey;
    type SerializeStructVariant = NoKey;

    integer_keys! {
        serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128),
        serialize_char(char),
    }

    fn serialize_str(self, v: &str) -> Encode<()> {
        prefixed(self.out, v.as_bytes())
    }
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Encode<()> {
        self.display(value)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Encode<()> {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Encode<()> {
        value.serialize(self)
    }
    fn serialize_bool(self, _: bool) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_f32(self, _: f32) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_f64(self, _: f64) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_bytes(self, _: &[u8]) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_none(self) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_unit(self) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Encode<()> {
        Err(EncodeError::Key)
    }
    fn serialize_seq(self, _: Option<usize>) -> Encode<NoKey> {
        Err(EncodeError::Key)
    }
    fn serialize_tuple(self, _: usize) -> Encode<NoKey> {
        Err(EncodeError::Key)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Encode<NoKey> {
        Err(EncodeError::Key)
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Encode<NoKey> {
        Err(EncodeError::Key)
    }
    fn serialize_map(self, _: Option<usize>) -> Encode<NoKey> {
        Err(EncodeError::Key)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Encode<NoKey> {
        Err(EncodeError::Key)
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Encode<NoKey> {
        Err(EncodeError::Key)
    }
}
