//! Several changes of one session that take effect together. A [`Transaction`] works on a private copy and knows
//! neither the entry nor any lock; [`Session::transact`] puts its result in place, or runs it again.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Session;
use crate::cache::{Phase, Read, revoked};
use crate::error::Result;
use crate::record::{Limits, Record};
use crate::value::{Encoded, decode};

/// The view of a session inside [`Session::transact`](crate::Session::transact): reads see the transaction's own
/// writes and nobody else's.
pub struct Transaction {
    pub(super) work: Record,
    pub(super) limits: Limits,
}

impl Transaction {
    pub(crate) fn new(base: Record, limits: Limits) -> Self {
        Self { work: base, limits }
    }

    /// The result, if it differs from `base`.
    pub(crate) fn into_changed(self, base: &Record) -> Option<Record> {
        if self.work.ptr_eq(base) { None } else { Some(self.work) }
    }

    /// As [`Session::get`](crate::Session::get).
    ///
    /// # Errors
    /// As there.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.work.get(key).map(decode).transpose().map_err(|e| e.with_key(key))
    }

    /// As [`Session::put`](crate::Session::put).
    ///
    /// # Errors
    /// As there.
    pub fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<()> {
        let value = Encoded::of(value).map_err(|e| e.with_key(key))?;
        self.work = self.work.put(&self.work.meta(), key, &value, &self.limits)?;
        Ok(())
    }

    /// As [`Session::pop`](crate::Session::pop).
    ///
    /// # Errors
    /// As there.
    pub fn pop<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        let value = self.get(key)?;
        self.remove(key);
        Ok(value)
    }

    /// Removes `key`. Returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        match self.work.remove(&self.work.meta(), key) {
            Some(new) => {
                self.work = new;
                true
            }
            None => false,
        }
    }

    /// Whether there is a value under `key`.
    #[must_use]
    pub fn exists(&self, key: &str) -> bool {
        self.work.get(key).is_some()
    }

    /// All keys, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.work.keys().map(str::to_owned).collect()
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        if !self.work.is_empty() {
            self.work = self.work.cleared(&self.work.meta());
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transaction").field(&self.work).finish()
    }
}

impl Session {
    /// Atomic read-modify-write of one key: `f` gets the present value and returns the new one, which is
    /// returned as well. Concurrent updates of the same key all take effect (promise P1).
    ///
    /// `f` runs without any lock, so it may use the session itself; it runs again if another request changed
    /// the session meanwhile.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    /// assert_eq!(visits, 1);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn update<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        mut f: impl FnMut(Option<T>) -> T,
    ) -> Result<T> {
        self.transact(|tx| {
            let new = f(tx.get(key)?);
            tx.put(key, &new)?;
            Ok(new)
        })
    }

    /// Changes several keys in one step: all of what `f` does to the [`Transaction`] takes effect, or nothing
    /// if it returns an error or panics.
    ///
    /// `f` runs without any lock and runs again if another request changed the session meanwhile.
    ///
    /// # Errors
    /// What `f` returns, and as [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("credit", &5)?;
    /// let bought = session.transact(|tx| {
    ///     let credit: i64 = tx.get("credit")?.unwrap_or(0);
    ///     tx.put("credit", &(credit - 3))?;
    ///     tx.put("ticket", "A 17")?;
    ///     Ok(credit - 3)
    /// })?;
    /// assert_eq!(bought, 2);
    /// assert_eq!(session.get::<String>("ticket")?.as_deref(), Some("A 17"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn transact<R>(&self, mut f: impl FnMut(&mut Transaction) -> Result<R>) -> Result<R> {
        loop {
            let (created, base) = self.record_for_write()?;
            let limits = self.core().config.limits;
            let mut tx = Transaction::new(base.clone(), limits);
            let result = match f(&mut tx) {
                Ok(result) => result,
                Err(error) => {
                    if created {
                        self.discard_empty();
                    }
                    self.core().note_limit(&error, None);
                    return Err(error);
                }
            };
            let Some(work) = tx.into_changed(&base) else {
                if created {
                    self.discard_empty();
                }
                return Ok(result);
            };
            match self.edit(true, Some(&base), |_, meta| Ok((Some(work.with_meta(&meta)), ()))) {
                Ok(Some(())) => return Ok(result),
                Ok(None) => {}
                // The engine may have become read-only while `f` ran.
                Err(error) => {
                    if created {
                        self.discard_empty();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// The record a transaction starts from, and whether the session was created for it.
    fn record_for_write(&self) -> Result<(bool, Record)> {
        let core = self.core();
        core.check_writable()?;
        let now = core.clock.now_ms();
        let mut slot = self.unit().slot.lock();
        let created = slot.entry.is_none();
        let entry = self.entry_for_write(&mut slot, now)?;
        match entry.read(now) {
            Read::Live(record) => Ok((created, record)),
            Read::Due | Read::Gone => {
                drop(slot);
                core.record_elsewhere(&entry, now).map(|record| (false, record)).ok_or_else(revoked)
            }
        }
    }

    /// Forgets a session that was created for a transaction which wrote nothing.
    pub(super) fn discard_empty(&self) {
        let mut slot = self.unit().slot.lock();
        let unused = slot.entry.as_ref().is_some_and(|e| e.phase() == Phase::Unpublished) && !slot.modified;
        if unused {
            slot.entry = None;
            slot.token = None;
        }
    }
}
