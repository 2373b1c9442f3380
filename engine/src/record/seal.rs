//! The envelope: the form in which a record leaves the process and in which its bytes come back. A record is
//! bound to its session's id, and nothing in it is interpreted before the tag over all of it is right. This file
//! owns what all kinds share and the unkeyed one; `keyed` owns those with a key.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::layout::{
    COMMON_LEN, FORMAT_VERSION, HEADER_LEN, KIND_AT, KIND_HMAC_SHA256, KIND_XCHACHA20POLY1305, KIND_XXH3,
    LAYOUT_AT, LAYOUT_FINGERPRINT, MAGIC, RESERVED_AT, TAG_AT, VERSION_AT,
};
use super::{Record, access, validate};
use crate::token::SessionId;

/// Why sealed bytes are no record of this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// Fewer bytes than an envelope has.
    TooShort,
    /// They do not begin as a record does.
    Magic,
    /// A newer version of sessile wrote them.
    NewerFormat {
        /// The format version found.
        found: u8,
    },
    /// They were written by a build with another archive layout or another kind of envelope.
    Layout,
    /// They were changed, or belong to another session.
    Tag,
    /// They were sealed with a key that is not at hand. That is a matter of configuration: nothing is known of
    /// the bytes.
    UnknownKey {
        /// The key id found; see [`Key::id`](crate::Key::id).
        key_id: u32,
    },
    /// They were sealed without a key, and the keyring does not accept that. A matter of configuration too.
    Unkeyed,
    /// The tag is right, but what is inside is no record.
    Structure(&'static str),
}

impl OpenError {
    /// Whether the keys at hand are at fault, rather than the bytes.
    #[must_use]
    pub fn is_key(&self) -> bool {
        matches!(self, Self::UnknownKey { .. } | Self::Unkeyed)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("the sealed record is cut short"),
            Self::Magic => f.write_str("not a sealed record"),
            Self::NewerFormat { found } => {
                write!(f, "the record has format {found}; this version reads up to {FORMAT_VERSION}")
            }
            Self::Layout => f.write_str("the record has another archive layout or kind of envelope"),
            Self::Tag => f.write_str("the record was damaged or belongs to another session"),
            Self::UnknownKey { key_id } => {
                write!(f, "the record was sealed with the key {key_id:08x}, which the engine was not given")
            }
            Self::Unkeyed => {
                f.write_str("the record was sealed without a key, which the keyring does not accept")
            }
            Self::Structure(what) => write!(f, "the record is malformed: {what}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Up to this many bytes are brought together before they are hashed, which is quicker than hashing part by part.
const SHORT: usize = 768;

/// Bytes of an id that find no place in an envelope's tag.
const LENT: usize = 32 - (HEADER_LEN - TAG_AT);

/// The tag over the id, the header before the tag, and the body.
pub(super) fn tag(id: &SessionId, header: &[u8], body: &[u8]) -> u64 {
    let mut together = [0; SHORT];
    let (front, back) = (id.as_bytes().len(), id.as_bytes().len() + header.len());
    if let Some(all) = together.get_mut(..back + body.len()) {
        all[..front].copy_from_slice(id.as_bytes());
        all[front..back].copy_from_slice(header);
        all[back..].copy_from_slice(body);
        return xxh3_64(all);
    }
    let mut hasher = Xxh3Default::new();
    hasher.update(id.as_bytes());
    hasher.update(header);
    hasher.update(body);
    hasher.digest()
}

/// The bytes that the headers of all kinds begin with.
pub(super) fn common(kind: u8) -> [u8; COMMON_LEN] {
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, FORMAT_VERSION, LAYOUT_FINGERPRINT, kind, 0]
}

/// The kind of a sealed record that this build can read.
pub(super) fn kind_of(sealed: &[u8]) -> Result<u8, OpenError> {
    // The shortest envelope, so that what is shorter is cut and nothing else.
    let header = sealed.first_chunk::<HEADER_LEN>().ok_or(OpenError::TooShort)?;
    if header[..VERSION_AT] != MAGIC {
        return Err(OpenError::Magic);
    }
    match header[VERSION_AT] {
        FORMAT_VERSION => {}
        found if found > FORMAT_VERSION => return Err(OpenError::NewerFormat { found }),
        _ => return Err(OpenError::Magic),
    }
    let kind = header[KIND_AT];
    let known = matches!(kind, KIND_XXH3 | KIND_XCHACHA20POLY1305 | KIND_HMAC_SHA256);
    if header[LAYOUT_AT] != LAYOUT_FINGERPRINT || !known || header[RESERVED_AT] != 0 {
        return Err(OpenError::Layout);
    }
    Ok(kind)
}

impl Record {
    /// The record in its envelope without a key, bound to `id`. [`seal_with`](Self::seal_with) uses a key.
    ///
    /// # Complexity
    /// One allocation, one copy, one hash.
    #[must_use]
    pub fn seal(&self, id: &SessionId) -> Vec<u8> {
        let body = self.body();
        let mut sealed = Vec::with_capacity(HEADER_LEN + body.len());
        sealed.extend_from_slice(&common(KIND_XXH3));
        let tag = tag(id, &sealed, body);
        sealed.extend_from_slice(&tag.to_le_bytes());
        sealed.extend_from_slice(body);
        sealed
    }

    /// As [`seal`](Self::seal), behind what `out` holds.
    ///
    /// # Complexity
    /// One copy, one hash; no allocation if `out` has room.
    pub(crate) fn seal_into(&self, id: &SessionId, out: &mut Vec<u8>) {
        let start = out.len();
        // The tag is over id, header and body. They stand one behind the other in `out` while it is made: the id in the
        // place of the bytes before the envelope and of the tag.
        let Some(lent) = out.last_chunk::<LENT>().copied() else {
            out.extend_from_slice(&self.seal(id));
            return;
        };
        let (body, common) = (self.body(), common(KIND_XXH3));
        out.reserve(HEADER_LEN + body.len());
        out.truncate(start - LENT);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(&common);
        out.extend_from_slice(body);
        if let Some(covered) = out.get_mut(start - LENT..) {
            let tag = xxh3_64(covered);
            covered[..LENT].copy_from_slice(&lent);
            covered[LENT..LENT + TAG_AT].copy_from_slice(&common);
            covered[LENT + TAG_AT..LENT + HEADER_LEN].copy_from_slice(&tag.to_le_bytes());
        }
    }

    /// Opens what [`seal`](Self::seal) made for `id`: tag first, then the archive's structure, then everything
    /// that reading relies on.
    ///
    /// # Errors
    /// Any difference from what was sealed; [`OpenError::UnknownKey`] if it was sealed with a key.
    pub fn open(id: &SessionId, sealed: &[u8]) -> Result<Self, OpenError> {
        if kind_of(sealed)? != KIND_XXH3 {
            return Err(OpenError::UnknownKey { key_id: super::keyed::key_id(sealed)? });
        }
        let (header, body) = sealed.split_first_chunk::<HEADER_LEN>().ok_or(OpenError::TooShort)?;
        let (covered, stored_tag) = header.split_at(TAG_AT);
        if tag(id, covered, body).to_le_bytes() != *stored_tag {
            return Err(OpenError::Tag);
        }
        Self::copy_body(body).validated()
    }

    /// This record, if its body is one: the archive's structure, then everything that reading relies on.
    pub(super) fn validated(self) -> Result<Self, OpenError> {
        let root = access::checked(self.body()).ok_or(OpenError::Structure("the archive is invalid"))?;
        validate::validate(self.body(), root).map_err(OpenError::Structure)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Limits;
    use crate::value::{Encoded, Value};

    #[test]
    fn short_and_long_records_are_hashed_alike() {
        let id = SessionId::from_bytes([7; 32]);
        let body: Vec<u8> = (0..2 * SHORT).map(|i| i as u8).collect();
        for len in (0..body.len()).step_by(8) {
            let all = [id.as_bytes(), &common(KIND_XXH3)[..], &body[..len]].concat();
            assert_eq!(tag(&id, &common(KIND_XXH3), &body[..len]), xxh3_64(&all), "{len}");
        }
    }

    #[test]
    fn sealed_in_place_is_sealed_alike() {
        let id = SessionId::from_bytes([7; 32]);
        for value in [0, 1, 7, 300, 2 * SHORT] {
            let (meta, text) = (
                crate::record::tests::meta(),
                Encoded::of(&Value::from("x".repeat(value).as_str())).unwrap(),
            );
            let record = Record::empty(&meta).put(&meta, "key", &text, &Limits::default()).unwrap();
            for before in 0..2 * LENT {
                let mut out = vec![9; before];
                record.seal_into(&id, &mut out);
                assert_eq!(out, [&vec![9; before][..], &record.seal(&id)].concat(), "{value} {before}");
            }
        }
    }
}
