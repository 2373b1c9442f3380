//! Several changes of one session that take effect together. It works on a private copy and knows neither the
//! entry nor any lock.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

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
