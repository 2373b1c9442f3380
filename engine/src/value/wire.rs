//! The bytes of a value: reading, skipping and validating them. It never writes and never allocates, and it
//! bounds its own work by the bytes it is given.

use super::{Kind, ListRef, MapRef, Timestamp, ValueRef};

/// Greatest number of lists and maps around a value. Checked when a value is written and when a record is
/// opened.
pub(crate) const MAX_DEPTH: usize = 32;
/// Bytes of a nested value's kind tag.
pub(crate) const TAG_LEN: usize = 1;
/// Bytes of a count or of a length prefix, little-endian.
pub(crate) const COUNT_LEN: usize = 4;
/// Bytes of a scalar, little-endian.
pub(crate) const SCALAR_LEN: usize = 8;

/// What is wrong with a value's bytes.
pub(crate) type Malformed = &'static str;

const SHORT: Malformed = "a value ends early";

/// The string in `bytes`.
#[inline]
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8")
}

#[inline]
fn scalar(bytes: &[u8]) -> Result<[u8; SCALAR_LEN], Malformed> {
    bytes.try_into().map_err(|_| "a scalar has the wrong length")
}

#[inline]
fn boolean(bytes: &[u8]) -> Result<bool, Malformed> {
    match bytes {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err("a bool is neither 0 nor 1"),
    }
}

/// Reads the value of `kind` that fills `bytes`: the form under a record's key.
#[inline]
pub(crate) fn read(kind: Kind, bytes: &[u8]) -> Result<ValueRef<'_>, Malformed> {
    Ok(match kind {
        Kind::Null => ValueRef::Null,
        Kind::Bool => ValueRef::Bool(boolean(bytes)?),
        Kind::I64 => ValueRef::I64(i64::from_le_bytes(scalar(bytes)?)),
        Kind::U64 => ValueRef::U64(u64::from_le_bytes(scalar(bytes)?)),
        Kind::F64 => ValueRef::F64(f64::from_le_bytes(scalar(bytes)?)),
        Kind::Timestamp => ValueRef::Timestamp(Timestamp::from_micros(i64::from_le_bytes(scalar(bytes)?))),
        Kind::Str => ValueRef::Str(utf8(bytes)?),
        Kind::Bytes => ValueRef::Bytes(bytes),
        Kind::Archived => ValueRef::Archived(bytes),
        Kind::List => {
            let mut cursor = Cursor::new(bytes);
            ValueRef::List(ListRef { count: cursor.u32()?, items: cursor.rest })
        }
        Kind::Map => {
            let mut cursor = Cursor::new(bytes);
            ValueRef::Map(MapRef { count: cursor.u32()?, entries: cursor.rest })
        }
    })
}

/// Proves that the value of `kind` that fills `bytes` is well formed throughout.
pub(crate) fn validate(kind: Kind, bytes: &[u8]) -> Result<(), Malformed> {
    match kind {
        Kind::Null if !bytes.is_empty() => Err("a null has bytes"),
        Kind::List | Kind::Map => {
            let mut cursor = Cursor::new(bytes);
            cursor.container::<true>(kind)?;
            if cursor.rest.is_empty() { Ok(()) } else { Err("bytes follow a list or map") }
        }
        _ => read(kind, bytes).map(drop),
    }
}

/// A reader of nested values.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array::<COUNT_LEN>()?))
    }

    fn kind(&mut self) -> Result<Kind, Malformed> {
        let [tag] = self.array::<TAG_LEN>()?;
        Kind::from_u8(tag).ok_or("a nested value has an unknown kind")
    }

    fn prefixed(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u32()?;
        self.take(usize::try_from(len).map_err(|_| SHORT)?)
    }

    /// A length-prefixed string: a map's key.
    pub(crate) fn str(&mut self) -> Result<&'a str, Malformed> {
        utf8(self.prefixed()?)
    }

    /// The payload of a nested value that is neither list nor map.
    fn leaf(&mut self, kind: Kind) -> Result<&'a [u8], Malformed> {
        match kind {
            Kind::Null => Ok(&[]),
            Kind::Bool => self.take(1),
            Kind::I64 | Kind::U64 | Kind::F64 | Kind::Timestamp => self.take(SCALAR_LEN),
            Kind::Str | Kind::Bytes => self.prefixed(),
            Kind::Archived => Err("an archive is nested"),
            Kind::List | Kind::Map => Err("a container is no leaf"),
        }
    }

    /// The next nested value: its kind tag and its payload.
    pub(crate) fn item(&mut self) -> Result<ValueRef<'a>, Malformed> {
        let kind = self.kind()?;
        if !matches!(kind, Kind::List | Kind::Map) {
            return read(kind, self.leaf(kind)?);
        }
        let start = self.rest;
        self.container::<false>(kind)?;
        let len = start.len() - self.rest.len();
        read(kind, start.get(..len).ok_or(SHORT)?)
    }

    /// Walks over a list or map with everything in it, without recursion; with `VALIDATE` it also proves
    /// that strings are UTF-8 and booleans are booleans.
    fn container<const VALIDATE: bool>(&mut self, kind: Kind) -> Result<(), Malformed> {
        let mut open = [(0_u32, false); MAX_DEPTH];
        let mut depth = 1;
        open[0] = (self.u32()?, kind == Kind::Map);
        while depth > 0 {
            let (left, is_map) = &mut open[depth - 1];
            if *left == 0 {
                depth -= 1;
                continue;
            }
            *left -= 1;
            if *is_map {
                let key = self.prefixed()?;
                if VALIDATE {
                    utf8(key)?;
                }
            }
            let kind = self.kind()?;
            if matches!(kind, Kind::List | Kind::Map) {
                *open.get_mut(depth).ok_or("a value is nested too deep")? = (self.u32()?, kind == Kind::Map);
                depth += 1;
            } else {
                let payload = self.leaf(kind)?;
                if VALIDATE {
                    read(kind, payload)?;
                }
            }
        }
        Ok(())
    }
}
