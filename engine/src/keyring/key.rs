//! One secret key: how it comes in, what it is called, and the keys that are derived from it. It seals and opens
//! nothing by itself, and never shows its bytes unless it is asked to encode them.

use std::fmt;

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, ErrorKind, Result};
use crate::token::{EncodedToken, Token};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// What each derived key is for. A change of any of them is another format.
const FOR_ID: &[u8] = b"sessile key 1: id";
const FOR_ENCRYPTION: &[u8] = b"sessile key 1: xchacha20poly1305";
const FOR_AUTHENTICATION: &[u8] = b"sessile key 1: hmac-sha-256";

/// A secret key of 32 bytes, from which sessile derives what it seals records with.
///
/// Make one with [`generate`](Self::generate), keep [`encode`](Self::encode)'s text where the application keeps its
/// secrets, and read it back with [`from_base64url`](Self::from_base64url). One key is used for sessile only.
///
/// The bytes are overwritten when the value is dropped. `Debug` shows the [id](Self::id) alone, there is no
/// `Display`, no comparison and no copy.
///
/// # Examples
/// ```
/// use sessile_engine::Key;
///
/// let key = Key::generate()?;
/// let text = key.encode(); // 43 characters, as secret as the key
/// let again = Key::from_base64url(text.as_str())?;
/// assert_eq!(key.id(), again.id());
/// # Ok::<(), sessile_engine::Error>(())
/// ```
pub struct Key {
    id: u32,
    /// 32 secret bytes, overwritten on drop, with a strict text form that is read in constant time: a token's.
    secret: Token,
    pub(super) aead: XChaCha20Poly1305,
    pub(super) mac: Hmac<Sha256>,
}

impl Key {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] if the operating system gives no random bytes. There is no weaker fallback.
    pub fn generate() -> Result<Self> {
        Self::derive(Token::generate()?)
    }

    /// The key with these bytes, which must be random: a password or a phrase is no key. The caller's copy stays
    /// as it is; overwrite it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if all bytes are the same, as in a buffer that nobody filled.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self> {
        Self::derive(Token::from_secret(bytes))
    }

    /// The key written as `text`: exactly 43 characters of base64url without padding, in their canonical form.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for any other text, which the error does not repeat, and as
    /// [`from_bytes`](Self::from_bytes).
    pub fn from_base64url(text: &str) -> Result<Self> {
        let secret = Token::parse(text.as_bytes()).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                "a key is 43 characters of base64url without padding (32 bytes), and this text is not",
            )
        })?;
        Self::derive(secret)
    }

    fn derive(secret: Token) -> Result<Self> {
        let bytes = secret.expose();
        if bytes.iter().all(|b| Some(b) == bytes.first()) {
            return Err(Error::new(
                ErrorKind::Config,
                "all bytes of the key are the same: it was never filled",
            ));
        }
        let id = derived(bytes, FOR_ID);
        let [a, b, c, d, ..] = *id;
        Ok(Self {
            id: u32::from_le_bytes([a, b, c, d]),
            aead: XChaCha20Poly1305::new((&*derived(bytes, FOR_ENCRYPTION)).into()),
            mac: keyed(&derived(bytes, FOR_AUTHENTICATION)),
            secret,
        })
    }

    /// The key's number, which every record that it sealed carries in clear. It tells keys apart and gives nothing
    /// of the key away.
    ///
    /// It is derived from the key: the same key has the same id everywhere, and a wrong key has another one, so
    /// that the records of the right one are left alone instead of being taken for damaged.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The 43 characters that [`from_base64url`](Self::from_base64url) reads. They are the secret itself.
    #[must_use]
    pub fn encode(&self) -> EncodedKey {
        EncodedKey(self.secret.encode())
    }

    /// Whether both are the same secret. For the rules of a ring: a store's bytes are never compared like this.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.secret.expose() == other.secret.expose()
    }

    #[cfg(test)]
    pub(crate) fn with_id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:08x})", self.id)
    }
}

/// A [`Key`] in its written form: 43 ASCII characters on the stack, overwritten when dropped. `Debug` does not
/// show it.
pub struct EncodedKey(EncodedToken);

impl EncodedKey {
    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for EncodedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncodedKey(…)")
    }
}

/// HMAC-SHA-256 of `label` under `key`: HKDF's expansion to one block, from a key that is random already.
fn derived(key: &[u8; KEY_BYTES], label: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut mac = keyed(key);
    mac.update(label);
    let mut output = mac.finalize().into_bytes();
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    bytes.copy_from_slice(&output);
    output.as_mut_slice().zeroize();
    bytes
}

fn keyed(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    // As long as the digest, and so no longer than a block: it is padded, never hashed.
    let mut block = Zeroizing::new([0; 64]);
    block[..KEY_BYTES].copy_from_slice(key);
    Hmac::new((&*block).into())
}
