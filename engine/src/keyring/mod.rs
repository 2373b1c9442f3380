//! The keys that records at rest are sealed with: one that seals, others that open. It owns the rules by which keys
//! come together and the two primitives under a key; what an envelope looks like is `record`'s.

mod key;
#[cfg(test)]
mod tests;

use std::fmt;

use chacha20poly1305::{AeadInOut, Tag, XNonce};
use hmac::Mac;

pub use self::key::{EncodedKey, KEY_BYTES, Key};
use crate::error::{Error, ErrorKind, Result};
use crate::token::random_once;

/// Bytes of a nonce of the encrypting envelope.
pub(crate) const NONCE_BYTES: usize = 24;
/// Bytes of a keyed tag.
pub(crate) const TAG_BYTES: usize = 16;

/// What a [`Keyring`] does for stored records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protection {
    /// Nobody without a key can make or change a record (HMAC-SHA-256, 128-bit tag). Values can be read.
    Authenticate,
    /// Nobody without a key can make, change or read a record (XChaCha20-Poly1305).
    Encrypt,
}

/// The keys of an engine: an active one that seals what is written, and any number that still open what they
/// sealed before. See [`Builder::keyring`](crate::Builder::keyring).
///
/// There is always an active key, because there is no ring without one. `Debug` shows ids only.
///
/// # Examples
/// A new ring, and later the same one after a rotation:
/// ```
/// use sessile_engine::{Engine, Key, Keyring, Protection};
///
/// # let (old, new) = (Key::generate()?, Key::generate()?);
/// # let (old_text, new_text) = (old.encode(), new.encode());
/// let engine = Engine::builder()
///     .keyring(Keyring::new(Protection::Encrypt, Key::from_base64url(old_text.as_str())?))
///     .in_memory()?;
///
/// let ring = Keyring::new(Protection::Encrypt, Key::from_base64url(new_text.as_str())?)
///     .accept(Key::from_base64url(old_text.as_str())?)?;
/// let engine = Engine::builder().keyring(ring).in_memory()?;
/// # Ok::<(), sessile_engine::Error>(())
/// ```
#[must_use = "a keyring does nothing until an engine's builder gets it"]
pub struct Keyring {
    protection: Protection,
    active: Key,
    retired: Vec<Key>,
    unkeyed: bool,
    /// Lets sealing fail, as it does when the operating system gives no random bytes.
    #[cfg(test)]
    pub(crate) out_of_random: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Keyring {
    /// A ring whose `active` key seals every record that is written from now on, and opens what it sealed.
    pub fn new(protection: Protection, active: Key) -> Self {
        Self {
            protection,
            active,
            retired: Vec::new(),
            unkeyed: false,
            #[cfg(test)]
            out_of_random: std::sync::Arc::default(),
        }
    }

    /// Also opens what `retired` sealed. The engine seals such records anew with the active key, little by little;
    /// [`Engine::rekeying`](crate::Engine::rekeying) tells when the key can be dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the key is the active one, is in the ring already, or has the id of another key.
    pub fn accept(mut self, retired: Key) -> Result<Self> {
        let refused = |what: &'static str, id: u32| {
            Err(Error::new(ErrorKind::Config, format!("{what} (key id {id:08x})")))
        };
        if self.active.is(&retired) {
            return refused("the active key is also given as a retired one", retired.id());
        }
        if self.retired.iter().any(|key| key.is(&retired)) {
            return refused("a key is given twice", retired.id());
        }
        if self.key(retired.id()).is_some() {
            return refused("two keys have the same id; replace one of them by a new key", retired.id());
        }
        self.retired.push(retired);
        Ok(self)
    }

    /// Whether records that were sealed without a key are opened, and sealed anew with the active key. Default:
    /// `false`. For the time of a migration only: as long as it is set, whoever can write to the store can
    /// make records.
    pub fn accept_unkeyed(mut self, accept: bool) -> Self {
        self.unkeyed = accept;
        self
    }

    /// What the active key does for records.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// The key that seals.
    #[must_use]
    pub fn active(&self) -> &Key {
        &self.active
    }

    /// Whether records without a key are opened.
    pub(crate) fn opens_unkeyed(&self) -> bool {
        self.unkeyed
    }

    /// A nonce, from the operating system's random source.
    pub(crate) fn nonce(&self) -> Result<[u8; NONCE_BYTES]> {
        #[cfg(test)]
        if self.out_of_random.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Random, "no random bytes, as a test asked for"));
        }
        random_once()
    }

    /// The key with this id.
    pub(crate) fn key(&self, id: u32) -> Option<&Key> {
        std::iter::once(&self.active).chain(&self.retired).find(|key| key.id() == id)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("protection", &self.protection)
            .field("active", &self.active)
            .field("retired", &self.retired)
            .field("accept_unkeyed", &self.unkeyed)
            .finish()
    }
}

/// A keyed tag was wrong. It says no more, since nothing more is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrongTag;

impl Key {
    /// Encrypts `bytes` in place. A nonce must never be used twice under one key.
    ///
    /// # Errors
    /// For more than 256 GiB.
    pub(crate) fn encrypt(
        &self,
        nonce: &[u8; NONCE_BYTES],
        associated: &[u8],
        bytes: &mut [u8],
    ) -> Result<[u8; TAG_BYTES]> {
        self.aead
            .encrypt_inout_detached(&XNonce::from(*nonce), associated, bytes.into())
            .map(Into::into)
            .map_err(|_| Error::new(ErrorKind::Limit, "the record is too large to be encrypted"))
    }

    /// Decrypts `bytes` in place if `tag` is right, which is compared in constant time; else they stay as they are.
    pub(crate) fn decrypt(
        &self,
        nonce: &[u8; NONCE_BYTES],
        associated: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), WrongTag> {
        self.aead
            .decrypt_inout_detached(&XNonce::from(*nonce), associated, bytes.into(), &Tag::from(*tag))
            .map_err(|_| WrongTag)
    }

    /// The tag over `associated` and `bytes`. The former must have a fixed length.
    pub(crate) fn authenticate(&self, associated: &[u8], bytes: &[u8]) -> [u8; TAG_BYTES] {
        let full = self.mac.clone().chain_update(associated).chain_update(bytes).finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.iter_mut().zip(full).for_each(|(to, from)| *to = from);
        tag
    }

    /// Compares [`authenticate`](Self::authenticate)'s tag in constant time.
    pub(crate) fn verify(
        &self,
        associated: &[u8],
        bytes: &[u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), WrongTag> {
        let mac = self.mac.clone().chain_update(associated).chain_update(bytes);
        mac.verify_truncated_left(tag).map_err(|_| WrongTag)
    }
}
