//! The envelope: the form in which a record leaves the process and in which its bytes come back. A record is
//! bound to its session's id, and nothing in it is interpreted before the tag over all of it is right.

use std::fmt;

use xxhash_rust::xxh3::Xxh3Default;

use super::layout::{
    FORMAT_VERSION, HEADER_LEN, KIND_AT, KIND_XXH3, LAYOUT_AT, LAYOUT_FINGERPRINT, MAGIC, RESERVED_AT,
    TAG_AT, VERSION_AT,
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
    /// The tag is right, but what is inside is no record.
    Structure(&'static str),
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
            Self::Structure(what) => write!(f, "the record is malformed: {what}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// The tag over the id, the header before the tag, and the body.
pub(super) fn tag(id: &SessionId, header: &[u8], body: &[u8]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(id.as_bytes());
    hasher.update(header);
    hasher.update(body);
    hasher.digest()
}

impl Record {
    /// The record in its envelope, bound to `id`.
    ///
    /// # Complexity
    /// One allocation, one copy, one hash.
    #[must_use]
    pub fn seal(&self, id: &SessionId) -> Vec<u8> {
        let body = self.body();
        let mut sealed = Vec::with_capacity(HEADER_LEN + body.len());
        sealed.extend_from_slice(&MAGIC);
        sealed.extend_from_slice(&[FORMAT_VERSION, LAYOUT_FINGERPRINT, KIND_XXH3, 0]);
        let tag = tag(id, &sealed, body);
        sealed.extend_from_slice(&tag.to_le_bytes());
        sealed.extend_from_slice(body);
        sealed
    }

    /// Opens what [`seal`](Self::seal) made for `id`: tag first, then the archive's structure, then everything
    /// that reading relies on.
    ///
    /// # Errors
    /// Any difference from what was sealed.
    pub fn open(id: &SessionId, sealed: &[u8]) -> Result<Self, OpenError> {
        let (header, body) = sealed.split_first_chunk::<HEADER_LEN>().ok_or(OpenError::TooShort)?;
        let (covered, stored_tag) = header.split_at(TAG_AT);
        if covered[..VERSION_AT] != MAGIC {
            return Err(OpenError::Magic);
        }
        match covered[VERSION_AT] {
            FORMAT_VERSION => {}
            found if found > FORMAT_VERSION => return Err(OpenError::NewerFormat { found }),
            _ => return Err(OpenError::Magic),
        }
        if covered[LAYOUT_AT] != LAYOUT_FINGERPRINT
            || covered[KIND_AT] != KIND_XXH3
            || covered[RESERVED_AT] != 0
        {
            return Err(OpenError::Layout);
        }
        if tag(id, covered, body).to_le_bytes() != *stored_tag {
            return Err(OpenError::Tag);
        }
        let record = Self::copy_body(body);
        let root = access::checked(record.body()).ok_or(OpenError::Structure("the archive is invalid"))?;
        validate::validate(record.body(), root).map_err(OpenError::Structure)?;
        Ok(record)
    }
}
