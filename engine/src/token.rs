//! The secret [`Token`] and its public hash, the [`SessionId`]. The only place that draws random bytes.
//!
//! It never keeps a token on the heap, never prints one, and never compares two: a session is found by its
//! id, so no timing of a comparison can tell anything about a token.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use sha2::block_api::compress256;
use zeroize::Zeroize;

use crate::error::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests;

const TOKEN_BYTES: usize = 32;
/// 256 bits in sextets: 42 whole ones and a last one whose two low bits are padding.
const TOKEN_CHARS: usize = 43;
/// SHA-256's initial state, FIPS 180-4 §5.3.3.
const SHA_256: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The secret that a client presents: 256 random bits.
///
/// The bytes are overwritten when the value is dropped, `Debug` does not show them, and there is neither
/// `Display` nor `PartialEq`. Stores, logs and listings use [`Token::id`].
#[derive(Clone)]
pub struct Token([u8; TOKEN_BYTES]);

impl Token {
    /// A new token from the operating system's random source.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] if the operating system gives no random bytes. There is no weaker fallback.
    ///
    /// # Complexity
    /// One system call.
    pub fn generate() -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "the module where randomness is drawn")]
        Self::generate_with(getrandom::fill)
    }

    fn generate_with(fill: impl FnOnce(&mut [u8]) -> Result<(), getrandom::Error>) -> Result<Self> {
        // Filled in place: a copy of the bytes would outlive the token on the stack.
        let mut token = Self([0; TOKEN_BYTES]);
        fill(&mut token.0).map_err(no_random)?;
        Ok(token)
    }

    /// The token with these bytes, drawn elsewhere: for keys, which are 32 secret bytes too.
    pub(crate) fn from_secret(bytes: &[u8; TOKEN_BYTES]) -> Self {
        Self(*bytes)
    }

    /// The secret bytes.
    pub(crate) fn expose(&self) -> &[u8; TOKEN_BYTES] {
        &self.0
    }

    /// The token written as `text`, or `None` if that is not the canonical form of any token.
    ///
    /// Canonical are exactly 43 characters of the base64url alphabet, without padding, the two unused bits of
    /// the last one zero. So each token has one spelling, and whatever `parse` accepts [`Token::encode`]
    /// gives back.
    ///
    /// # Complexity
    /// A wrong length is refused at once. Else every character is read, whether or not an earlier one is
    /// wrong, and nothing is allocated.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; TOKEN_CHARS] = text.try_into().ok()?;
        let (&[first, second], rest) = text.as_chunks::<16>() else { return None };
        // 'A' stands for six zero bits, so whatever is set behind the 256th bit came from the last character.
        let mut third = [b'A'; 16];
        third[..rest.len()].copy_from_slice(rest);
        let ((ab, valid_1), (cd, valid_2), (ef, valid_3)) = (decode(&first), decode(&second), decode(&third));
        let ([a, b], [c, d], [e, f]) = (pack(ab), pack(cd), pack(ef));
        let words = [a << 16 | b >> 32, b << 32 | c >> 16, c << 48 | d, e << 16 | f >> 32];
        let mut token = Self([0; TOKEN_BYTES]);
        for (bytes, word) in token.0.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.swap_bytes().to_le_bytes();
        }
        let valid = valid_1 & valid_2 & valid_3 == u128::MAX;
        (valid && f << 32 == 0).then_some(token)
    }

    /// The 43 characters to hand to the client.
    #[must_use]
    pub fn encode(&self) -> EncodedToken {
        let mut out = EncodedToken([0; TOKEN_CHARS]);
        let (triples, rest) = self.0.as_chunks::<3>();
        let (quads, last) = out.0.as_chunks_mut::<4>();
        for (triple, quad) in triples.iter().zip(quads) {
            let bits = triple.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b));
            for (i, c) in quad.iter_mut().enumerate() {
                *c = character(bits >> (18 - 6 * i));
            }
        }
        let bits = rest.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << 2;
        for (i, c) in last.iter_mut().enumerate() {
            *c = character(bits >> (12 - 6 * i));
        }
        out
    }

    /// The id of the session that this token opens: the SHA-256 of its bytes.
    #[must_use]
    pub fn id(&self) -> SessionId {
        // One block: the token, the end mark and the length in bits (FIPS 180-4 §5.1.1), without the buffer
        // that a message of unknown length needs.
        let mut block = [0; 64];
        block[..TOKEN_BYTES].copy_from_slice(&self.0);
        block[TOKEN_BYTES] = 0x80;
        block[62] = ((TOKEN_BYTES * 8) >> 8) as u8;
        let mut state = SHA_256;
        compress256(&mut state, &[block]);
        block.as_mut_slice().zeroize();
        let mut id = [0; 32];
        for (bytes, word) in id.as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.swap_bytes().to_le_bytes();
        }
        SessionId(id)
    }

    #[cfg(test)]
    #[allow(dead_code, reason = "for the tests of any module")]
    pub(crate) fn from_bytes(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(bytes)
    }
}

/// Bytes that are used once and are no secret: the nonce of a sealed record.
///
/// Each call asks the operating system. A buffer of random bytes would save a part of the time that
/// sealing takes, and hand out the same bytes twice in a process that was forked or a machine that was cloned.
///
/// # Errors
/// [`ErrorKind::Random`] if the operating system gives no random bytes.
pub(crate) fn random_once<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    #[expect(clippy::disallowed_methods, reason = "the module where randomness is drawn")]
    getrandom::fill(&mut bytes).map_err(no_random)?;
    Ok(bytes)
}

fn no_random(e: getrandom::Error) -> Error {
    Error::new(ErrorKind::Random, "the operating system gave no random bytes").with_source(e)
}

impl Drop for Token {
    fn drop(&mut self) {
        // As a slice: one wide store instead of one a byte.
        self.0.as_mut_slice().zeroize();
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The values of 16 base64url characters, and all ones where a character is of the alphabet.
///
/// One character is computed like another, without a table (which would be indexed with secrets) and without
/// a branch, in a form that compilers turn into operations on all 16 at once.
#[inline]
fn decode(text: &[u8; 16]) -> ([u8; 16], u128) {
    let mut values = [0; 16];
    let mut valid = [0; 16];
    for i in 0..16 {
        let c = text[i].cast_signed();
        let upper = if c > 64 && c < 91 { 0xff } else { 0 };
        let lower = if c > 96 && c < 123 { 0xff } else { 0 };
        let digit = if c > 47 && c < 58 { 0xff } else { 0 };
        let minus = if c == 45 { 0xff } else { 0 };
        let underscore = if c == 95 { 0xff } else { 0 };
        valid[i] = upper | lower | digit | minus | underscore;
        // What to add, modulo 256, to get from a character of the range to its value.
        let offset = upper & 191 | lower & 185 | digit & 4 | minus & 17 | underscore & 224;
        values[i] = text[i].wrapping_add(offset);
    }
    (values, u128::from_le_bytes(valid))
}

/// The sextets' bits in a row: 48 of the first eight, 48 of the others.
#[inline]
fn pack(sextets: [u8; 16]) -> [u64; 2] {
    let (words, _) = sextets.as_chunks::<8>();
    let pack = |word: [u8; 8]| {
        let word = u64::from_le_bytes(word).swap_bytes();
        let pairs = (word & 0x3f00_3f00_3f00_3f00) >> 2 | word & 0x003f_003f_003f_003f;
        let quads = (pairs & 0x0fff_0000_0fff_0000) >> 4 | pairs & 0x0000_0fff_0000_0fff;
        (quads >> 32) << 24 | quads & 0x00ff_ffff
    };
    [pack(words[0]), pack(words[1])]
}

#[inline]
fn character(bits: u32) -> u8 {
    BASE64URL[(bits & 63) as usize]
}

/// A [`Token`] in its written form: 43 ASCII characters on the stack, overwritten when dropped.
///
/// It is as secret as the token. `Debug` does not show it; write it with [`as_str`](Self::as_str).
pub struct EncodedToken([u8; TOKEN_CHARS]);

impl EncodedToken {
    /// The characters, safe in a cookie, a header or a URL as they are.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64url is ASCII")
    }

    /// The same as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; TOKEN_CHARS] {
        &self.0
    }
}

impl Deref for EncodedToken {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for EncodedToken {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Drop for EncodedToken {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for EncodedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncodedToken(…)")
    }
}

/// The hash of a [`Token`]: the only key that a store, a log or a listing ever sees. Safe to show; nobody can
/// get from it to the token.
///
/// It is written as 64 lowercase hexadecimal digits, in `Display`, `FromStr` and serde's human-readable
/// formats alike; other serde formats get the 32 bytes. `Debug` shows the first 8 digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes as a number, used as a hash without any further hashing.
    ///
    /// That is safe against chosen collisions because only ids of tokens that [`Token::generate`] drew, and hashes of
    /// secrets that an adapter drew ([`by_id::derive_id`](crate::by_id::derive_id)), are ever put into a table: a
    /// client can look up an id of his choice, but not have one stored.
    #[must_use]
    #[inline]
    pub(crate) const fn bucket(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn hex(&self) -> [u8; 64] {
        let mut out = [0; 64];
        for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
        }
        out
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.hex()).expect("hexadecimal is ASCII"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "SessionId({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    fn from_str(s: &str) -> Result<Self, ParseSessionIdError> {
        let digits: &[u8; 64] = s.as_bytes().try_into().map_err(|_| ParseSessionIdError(()))?;
        let mut id = [0; 32];
        for (byte, &[high, low]) in id.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = nibble(high)? << 4 | nibble(low)?;
        }
        Ok(Self(id))
    }
}

fn nibble(c: u8) -> Result<u8, ParseSessionIdError> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(ParseSessionIdError(())),
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl de::Visitor<'_> for Hex {
            type Value = SessionId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 lowercase hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<SessionId, E> {
                s.parse().map_err(E::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Hex)
        } else {
            Deserialize::deserialize(deserializer).map(Self)
        }
    }
}

/// A text is no [`SessionId`]: it has another length than 64, or a character other than `0`–`9` and `a`–`f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseSessionIdError(());

impl fmt::Display for ParseSessionIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session id is 64 lowercase hexadecimal digits")
    }
}

impl std::error::Error for ParseSessionIdError {}
