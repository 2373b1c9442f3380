//! An immutable view of a session at one moment. It owns its record, holds no lock and sees no later change.

use std::fmt;
use std::time::SystemTime;

use serde::Deserialize;

use crate::clock::from_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::value::{ValueRef, decode};

/// A session at one moment.
///
/// Values are read in place from the record's bytes: strings and bytes are borrowed, scalars copied, nothing
/// is allocated.
///
/// # Examples
/// ```
/// # pollster::block_on(async {
/// # let engine = sessile_engine::Engine::builder().in_memory()?;
/// # let session = engine.session(None).await?;
/// session.put("name", "ann")?;
/// let Some(snapshot) = session.snapshot() else { return Ok(()) };
/// assert_eq!(snapshot.str("name")?, Some("ann"));
/// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Snapshot {
    pub(super) record: Record,
}

impl Snapshot {
    pub(crate) fn new(record: Record) -> Self {
        Self { record }
    }

    /// The value under `key`, in its own type.
    pub fn value(&self, key: &str) -> Option<ValueRef<'_>> {
        self.record.get(key)
    }

    /// The value under `key`, decoded; strings and bytes may be borrowed.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if it is not a `T`.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        self.record.get(key).map(decode).transpose().map_err(|e| e.with_key(key))
    }

    pub(super) fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(ValueRef<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.record.get(key) else { return Ok(None) };
        let kind = value.kind();
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => {
                Err(Error::new(ErrorKind::TypeMismatch, format!("wanted {wanted}, found {kind:?}"))
                    .with_key(key))
            }
        }
    }

    /// The string under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if it is not a string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| v.as_str())
    }

    /// The bytes under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if they are not bytes.
    pub fn bytes(&self, key: &str) -> Result<Option<&[u8]>> {
        self.typed(key, "bytes", |v| v.as_bytes())
    }

    /// The integer under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if it is not an integer, or does not fit.
    pub fn i64(&self, key: &str) -> Result<Option<i64>> {
        self.typed(key, "an i64", |v| v.as_i64())
    }

    /// The unsigned integer under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if it is not an integer, or does not fit.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a u64", |v| v.as_u64())
    }

    /// The number under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if it is not a float.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "an f64", |v| v.as_f64())
    }

    /// The boolean under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if it is not a boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |v| v.as_bool())
    }

    /// All keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ValueRef<'_>)> {
        self.record.iter()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.record.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record.is_empty()
    }

    /// The owner the session belongs to.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.record.owner()
    }

    /// When the session was created.
    #[must_use]
    pub fn created_at(&self) -> Option<SystemTime> {
        from_ms(self.record.meta().created_at)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record.fmt(f)
    }
}
