//! Calls for common types: defaults, bytes, archives, moments. Each is a few lines over what every value uses.

use serde::de::DeserializeOwned;

use super::key::archived_at;
use super::{Session, Snapshot, Transaction};
use crate::error::Result;
use crate::value::{Archivable, Encoded, Kind, Timestamp, ValueRef, archived};

impl Session {
    /// The value under `key`, or the type's default if there is none. (SCS: `GetString`, `GetInt`, `GetBool` and
    /// so on. Unlike there, a value of another type is an error.)
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// assert_eq!(session.get_or_default::<String>("name")?, "");
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn get_or_default<T: DeserializeOwned + Default>(&self, key: &str) -> Result<T> {
        self.get(key).map(Option::unwrap_or_default)
    }

    /// The value under `key`, or `default` if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// assert_eq!(session.get_or("page", 1)?, 1);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn get_or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.get(key)?.unwrap_or(default))
    }

    /// Stores bytes as they are. [`get`](Self::get) gives them back as [`Bytes`](crate::value::Bytes), and
    /// [`Snapshot::bytes`] without a copy. (SCS: `GetBytes`.)
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use sessile_engine::value::Bytes;
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put_bytes("nonce", &[1, 2, 3])?;
    /// assert_eq!(session.pop::<Bytes>("nonce")?.as_deref(), Some(&[1, 2, 3][..]));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn put_bytes(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.put_encoded(key, &Encoded::raw(Kind::Bytes, bytes))
    }

    /// Stores `value` as an rkyv archive, which [`Snapshot::archived`] reads in place, without decoding or
    /// allocating: for large values that are read much more often than written.
    ///
    /// The archive is good for this type as it is now: its name with modules, and the size and alignment of
    /// its archived form, are noted with it. After a change of any of them it is a
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch). So an application that was deployed anew must be ready to
    /// store the value again; what has to outlive such changes belongs into [`put`](Self::put).
    ///
    /// # Errors
    /// [`ErrorKind::Serialize`](crate::ErrorKind::Serialize) if rkyv fails, or for a type that needs an alignment
    /// above 8 (`u128`); [`ErrorKind::Limit`](crate::ErrorKind::Limit) if more than 256 pointers lead to a part of it,
    /// as in a long linked list; otherwise as [`put`](Self::put).
    ///
    /// # Complexity
    /// As [`put`](Self::put), and a check of the archive. It takes 16 bytes more than its archive.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use sessile_engine::rkyv::{Archive, Serialize};
    ///
    /// #[derive(Archive, Serialize)]
    /// #[rkyv(crate = sessile_engine::rkyv)]
    /// struct Cart {
    ///     items: Vec<(String, u32)>,
    /// }
    ///
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put_archived("cart", &Cart { items: vec![("apple".into(), 3)] })?;
    /// let Some(snapshot) = session.snapshot() else { return Ok(()) };
    /// let Some(cart) = snapshot.archived::<Cart>("cart")? else { return Ok(()) };
    /// assert_eq!(cart.items[0].0, "apple");
    /// assert_eq!(cart.items[0].1, 3);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn put_archived<T: Archivable>(&self, key: &str, value: &T) -> Result<()> {
        self.put_encoded(key, &archived::encode(value).map_err(|e| e.with_key(key))?)
    }

    fn put_encoded(&self, key: &str, value: &Encoded) -> Result<()> {
        let limits = self.core().config.limits;
        self.edit(true, None, |record, meta| Ok((Some(record.put(&meta, key, value, &limits)?), ())))?;
        Ok(())
    }
}

impl Transaction {
    /// The value under `key`, in its own type.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<ValueRef<'_>> {
        self.work.get(key)
    }

    /// As [`Session::put_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn put_bytes(&mut self, key: &str, bytes: &[u8]) -> Result<()> {
        self.put_encoded(key, &Encoded::raw(Kind::Bytes, bytes))
    }

    /// As [`Session::put_archived`].
    ///
    /// # Errors
    /// As there.
    pub fn put_archived<T: Archivable>(&mut self, key: &str, value: &T) -> Result<()> {
        self.put_encoded(key, &archived::encode(value).map_err(|e| e.with_key(key))?)
    }

    /// As [`Snapshot::archived`].
    ///
    /// # Errors
    /// As there.
    pub fn archived<T: Archivable>(&self, key: &str) -> Result<Option<&T::Archived>> {
        archived_at::<T>(self.value(key), key)
    }

    fn put_encoded(&mut self, key: &str, value: &Encoded) -> Result<()> {
        self.work = self.work.put(&self.work.meta(), key, value, &self.limits)?;
        Ok(())
    }
}

impl Snapshot {
    /// The archive that [`Session::put_archived`] stored under `key`, read in place from the record's bytes: nothing
    /// is copied. It is checked on every call, so a damaged or wrong archive is an error, never undefined
    /// behaviour; keep the reference rather than asking again.
    ///
    /// A type of the same name, and of the same size, alignment and a valid content in its archived form, cannot
    /// be told from `T`: for example one whose two fields of the same type have changed places.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`](crate::ErrorKind::TypeMismatch) if the value is no archive, or one of another type.
    ///
    /// # Complexity
    /// O(size of the archive), without allocation unless it holds shared pointers.
    pub fn archived<T: Archivable>(&self, key: &str) -> Result<Option<&T::Archived>> {
        archived_at::<T>(self.value(key), key)
    }

    /// The moment under `key`. (SCS: `GetTime`.)
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is not a moment.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::{Duration, SystemTime};
    /// use sessile_engine::value::Timestamp;
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(43_200);
    /// session.put("lunch", &Timestamp::from(noon))?;
    /// let Some(snapshot) = session.snapshot() else { return Ok(()) };
    /// assert_eq!(snapshot.timestamp("lunch")?.map(SystemTime::from), Some(noon));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn timestamp(&self, key: &str) -> Result<Option<Timestamp>> {
        self.typed(key, "a timestamp", |v| v.as_timestamp())
    }
}
