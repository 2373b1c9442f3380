//! Bytes as a serde value. It converts; it knows no record.

use std::fmt;
use std::ops::Deref;

use base64::Engine as _;
use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::{BYTES_MARKER, BytesOrBase64};

/// Bytes that are stored as bytes ([`Kind::Bytes`](super::Kind::Bytes)); a plain `Vec<u8>` is a list of numbers
/// to serde.
///
/// In foreign formats for people, such as JSON, they are a base64 string. (SCS: `GetBytes`.)
///
/// # Examples
/// ```
/// # pollster::block_on(async {
/// use sessile_engine::value::Bytes;
/// # let engine = sessile_engine::Engine::builder().in_memory()?;
/// # let session = engine.session(None).await?;
/// session.put("key", &Bytes::from(vec![1, 2, 3]))?;
/// assert_eq!(session.get::<Bytes>("key")?.as_deref(), Some(&[1, 2, 3][..]));
/// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// The bytes.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The length only: what sessions hold may be secret.
impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(BYTES_MARKER, &BytesOrBase64(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(BYTES_MARKER, Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(bytes.into())
    }
    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Bytes, D::Error> {
        if !inner.is_human_readable() {
            return inner.deserialize_byte_buf(Self);
        }
        let text = String::deserialize(inner)?;
        match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(bytes) => Ok(Bytes(bytes)),
            Err(_) => Err(de::Error::custom("a string that is not base64, expected bytes")),
        }
    }
}
