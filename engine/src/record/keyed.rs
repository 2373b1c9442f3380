//! The envelopes with a key. It owns where key id, nonce and tag are and what a tag binds; the keys and their
//! primitives are `keyring`'s.
//!
//! The tag covers the header, the key id, the session id, the version that the row claims, and the body. So a record
//! opens in no other session's row, in no row of another version, and under no other kind or key.

use triomphe::Arc;

use super::Record;
use super::layout::{
    COMMON_LEN, KEYED_PREFIX_LEN, KIND_AT, KIND_HMAC_SHA256, KIND_XCHACHA20POLY1305, KIND_XXH3,
};
use super::seal::{OpenError, common, kind_of};
use crate::error::Result;
use crate::keyring::{Key, Keyring, NONCE_BYTES, Protection, TAG_BYTES, WrongTag};
use crate::token::SessionId;

/// What the tag binds besides the body: header and key id, session id, version. Always as long.
const ASSOCIATED_LEN: usize = KEYED_PREFIX_LEN + 32 + 8;

impl From<WrongTag> for OpenError {
    fn from(_: WrongTag) -> Self {
        Self::Tag
    }
}

/// The header up to the key id.
fn prefix(kind: u8, key_id: u32) -> [u8; KEYED_PREFIX_LEN] {
    let mut prefix = [0; KEYED_PREFIX_LEN];
    prefix[..COMMON_LEN].copy_from_slice(&common(kind));
    prefix[COMMON_LEN..].copy_from_slice(&key_id.to_le_bytes());
    prefix
}

fn associated(prefix: &[u8; KEYED_PREFIX_LEN], id: &SessionId, version: u64) -> [u8; ASSOCIATED_LEN] {
    let mut data = [0; ASSOCIATED_LEN];
    let (head, rest) = data.split_at_mut(KEYED_PREFIX_LEN);
    head.copy_from_slice(prefix);
    rest[..32].copy_from_slice(id.as_bytes());
    rest[32..].copy_from_slice(&version.to_le_bytes());
    data
}

/// The key id of a record with a key.
pub(super) fn key_id(sealed: &[u8]) -> Result<u32, OpenError> {
    let bytes = sealed.get(COMMON_LEN..).and_then(<[u8]>::first_chunk).ok_or(OpenError::TooShort)?;
    Ok(u32::from_le_bytes(*bytes))
}

fn kind_for(protection: Protection) -> u8 {
    match protection {
        Protection::Encrypt => KIND_XCHACHA20POLY1305,
        Protection::Authenticate => KIND_HMAC_SHA256,
    }
}

/// Whether `sealed` says of itself that `ring` would seal it in the same way today.
pub(crate) fn is_current(sealed: &[u8], ring: &Keyring) -> bool {
    sealed.get(KIND_AT) == Some(&kind_for(ring.protection()))
        && key_id(sealed).is_ok_and(|id| id == ring.active().id())
}

impl Record {
    /// The record in its envelope, under the active key of `ring` and bound to `id` and its own version.
    ///
    /// # Errors
    /// [`ErrorKind::Random`](crate::ErrorKind::Random) if the operating system gives no random bytes for the nonce of
    /// an encrypted record.
    ///
    /// # Complexity
    /// One allocation, one copy, one pass of the cipher; for [`Protection::Encrypt`] one system call.
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::record::{OpenError, Record};
    /// use sessile_engine::{Key, Keyring, Protection, SessionId};
    ///
    /// # fn example(record: &Record) -> Result<(), Box<dyn std::error::Error>> {
    /// let ring = Keyring::new(Protection::Encrypt, Key::generate()?);
    /// let id = SessionId::from_bytes([7; 32]);
    /// let sealed = record.seal_with(&id, &ring)?;
    /// assert!(Record::open_with(&id, record.version(), &sealed, &ring).is_ok());
    ///
    /// // A row of another version, and another ring:
    /// let older = record.version() - 1;
    /// assert_eq!(Record::open_with(&id, older, &sealed, &ring).err(), Some(OpenError::Tag));
    /// let other = Keyring::new(Protection::Encrypt, Key::generate()?);
    /// assert!(Record::open_with(&id, record.version(), &sealed, &other).is_err_and(|e| e.is_key()));
    /// # Ok(()) }
    /// ```
    pub fn seal_with(&self, id: &SessionId, ring: &Keyring) -> Result<Vec<u8>> {
        match ring.protection() {
            Protection::Encrypt => self.seal_encrypted(id, ring.active(), &ring.nonce()?),
            Protection::Authenticate => Ok(self.seal_authenticated(id, ring.active())),
        }
    }

    pub(super) fn seal_encrypted(
        &self,
        id: &SessionId,
        key: &Key,
        nonce: &[u8; NONCE_BYTES],
    ) -> Result<Vec<u8>> {
        const BODY_AT: usize = KEYED_PREFIX_LEN + NONCE_BYTES + TAG_BYTES;
        let prefix = prefix(KIND_XCHACHA20POLY1305, key.id());
        let mut sealed = Vec::with_capacity(BODY_AT + self.body().len());
        sealed.extend_from_slice(&prefix);
        sealed.extend_from_slice(nonce);
        sealed.extend_from_slice(&[0; TAG_BYTES]);
        sealed.extend_from_slice(self.body());
        let (header, body) = sealed.split_at_mut(BODY_AT);
        let tag = key.encrypt(nonce, &associated(&prefix, id, self.version()), body)?;
        header[BODY_AT - TAG_BYTES..].copy_from_slice(&tag);
        Ok(sealed)
    }

    fn seal_authenticated(&self, id: &SessionId, key: &Key) -> Vec<u8> {
        let prefix = prefix(KIND_HMAC_SHA256, key.id());
        let tag = key.authenticate(&associated(&prefix, id, self.version()), self.body());
        [&prefix[..], &tag, self.body()].concat()
    }

    /// Opens what [`seal_with`](Self::seal_with) made for `id` under any key of `ring`, in a row that claims `version`.
    /// What [`seal`](Self::seal) made is opened if the ring accepts it; its version is not compared.
    ///
    /// Nothing is decrypted or interpreted before the tag is right. What is inside is checked all the same.
    ///
    /// # Errors
    /// Any difference from what was sealed. [`OpenError::is_key`] tells a ring that lacks the key from bytes that were
    /// changed.
    pub fn open_with(id: &SessionId, version: u64, sealed: &[u8], ring: &Keyring) -> Result<Self, OpenError> {
        let kind = kind_of(sealed)?;
        if kind == KIND_XXH3 {
            return if ring.opens_unkeyed() { Self::open(id, sealed) } else { Err(OpenError::Unkeyed) };
        }
        let key_id = key_id(sealed)?;
        let key = ring.key(key_id).ok_or(OpenError::UnknownKey { key_id })?;
        let (prefix, rest) = sealed.split_first_chunk().ok_or(OpenError::TooShort)?;
        let associated = associated(prefix, id, version);
        if kind == KIND_HMAC_SHA256 {
            let (tag, body) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
            key.verify(&associated, body, tag)?;
            return Self::copy_body(body).validated();
        }
        let (nonce, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (tag, body) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        // Decrypted where it stays, so that no other copy of it is left behind.
        let mut record = Self::copy_body(body);
        record.shared.with_arc_mut(|shared| {
            let shared = Arc::get_mut(shared).ok_or(WrongTag)?;
            key.decrypt(nonce, &associated, shared.slice_mut(), tag)
        })?;
        record.validated()
    }
}
