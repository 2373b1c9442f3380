//! An application's rkyv archive as the bytes of one value: how it is written, kept at its alignment while a record
//! changes around it, and read in place. It never trusts an archive: every access is checked.
//!
//! ```text
//! type tag (8) | pad (1) | pad zeros | archive | 7 - pad zeros
//! ```
//! A record's heap starts at a multiple of 8 in memory, so `pad` is what brings the archive to one. It depends on
//! where the value lies; the value's length does not. [`place`] moves the archive inside its value when an
//! edit has moved the value.

use std::num::NonZeroUsize;
use std::ops::Range;

use rkyv::Archive;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error as ArchiveError, Failure};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use xxhash_rust::xxh3::Xxh3Default;

use super::{Encoded, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::record::MAX_BODY_BYTES;

#[cfg(test)]
mod tests;

/// Alignment of every stored archive.
const ALIGN: usize = 8;
const TAG_LEN: usize = 8;
/// Offset of the pad byte.
const PAD_AT: usize = TAG_LEN;
/// Bytes before the padding.
const FIXED: usize = PAD_AT + 1;
const MAX_PAD: usize = ALIGN - 1;
/// What a value has more than its archive.
pub(crate) const OVERHEAD: usize = FIXED + MAX_PAD;
/// Greatest number of pointers to follow one below the other: it bounds the stack that a check takes.
const MAX_POINTERS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// A type that can be stored as an rkyv archive and read in place: whatever derives rkyv's `Archive` and `Serialize`.
/// Implemented for all of them; there is nothing to implement by hand.
///
/// # Examples
/// ```
/// use sessile_engine::rkyv::{Archive, Serialize};
///
/// #[derive(Archive, Serialize)]
/// #[rkyv(crate = sessile_engine::rkyv)]
/// struct Cart {
///     items: Vec<(String, u32)>,
/// }
///
/// fn storable<T: sessile_engine::value::Archivable>() {}
/// storable::<Cart>();
/// ```
pub trait Archivable:
    Archive<Archived: for<'a> CheckBytes<HighValidator<'a, Failure>>>
    + for<'a> rkyv::Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>
{
}

impl<T> Archivable for T
where
    T: Archive + for<'a> rkyv::Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Failure>>,
{
}

/// Tells types apart by name, and their layouts by size and alignment.
fn type_tag<T: Archive>() -> [u8; TAG_LEN] {
    let mut hasher = Xxh3Default::new();
    hasher.update(std::any::type_name::<T>().as_bytes());
    hasher.update(&(size_of::<T::Archived>() as u64).to_le_bytes());
    hasher.update(&(align_of::<T::Archived>() as u64).to_le_bytes());
    hasher.digest().to_le_bytes()
}

/// The root of `archive`, with everything that it points to checked.
fn access<T: Archivable>(archive: &[u8]) -> Option<&T::Archived> {
    let archive_checks = ArchiveValidator::with_max_depth(archive, Some(MAX_POINTERS));
    let mut context = Validator::new(archive_checks, SharedValidator::new());
    rkyv::api::access_with_context::<T::Archived, _, Failure>(archive, &mut context).ok()
}

/// Encodes `value`; the archive gets its place when the value is put into a record.
///
/// # Errors
/// [`ErrorKind::Serialize`] if rkyv fails, or for a type that needs an alignment above 8;
/// [`ErrorKind::Limit`] for more bytes or deeper chains of pointers than can be stored.
pub(crate) fn encode<T: Archivable>(value: &T) -> Result<Encoded> {
    let archive = rkyv::api::high::to_bytes_in::<_, ArchiveError>(value, AlignedVec::new()).map_err(|e| {
        Error::new(ErrorKind::Serialize, "the value cannot be archived").with_source(e.to_string())
    })?;
    let len = archive.len();
    if len > MAX_BODY_BYTES - OVERHEAD {
        let message = format!("the archive has {len} bytes, a record holds {MAX_BODY_BYTES}");
        return Err(Error::new(ErrorKind::Limit, message));
    }
    // At a multiple of 8 that is none of 16, so that a type which needs more than 8 is found out always.
    let mut at_eight = AlignedVec::<16>::with_capacity(ALIGN + len);
    at_eight.extend_from_slice(&[0; ALIGN]);
    at_eight.extend_from_slice(&archive);
    let placed = at_eight.get(ALIGN..).unwrap_or_default();
    if access::<T>(placed).is_none() {
        return Err(if access::<T>(&archive).is_some() {
            let name = std::any::type_name::<T>();
            Error::new(ErrorKind::Serialize, format!("{name} needs an alignment above {ALIGN} bytes"))
        } else {
            Error::new(
                ErrorKind::Limit,
                format!("more than {MAX_POINTERS} pointers lead to a part of the value"),
            )
        });
    }
    let mut bytes = Vec::with_capacity(OVERHEAD + len);
    bytes.extend_from_slice(&type_tag::<T>());
    bytes.push(0);
    bytes.extend_from_slice(&archive);
    bytes.extend_from_slice(&[0; MAX_PAD]);
    Ok(Encoded::raw(Kind::Archived, &bytes))
}

/// Where the archive is in a value's bytes; `None` if they were not written by [`encode`].
fn archive_range(value: &[u8]) -> Option<Range<usize>> {
    let pad = usize::from(*value.get(PAD_AT)?);
    let len = value.len().checked_sub(OVERHEAD)?;
    (pad <= MAX_PAD).then(|| FIXED + pad..FIXED + pad + len)
}

/// Moves the archive inside `value`, whose first byte is `at` bytes behind a multiple of 8, to its alignment.
/// Bytes that hold no archive stay as they are.
pub(crate) fn place(value: &mut [u8], at: usize) {
    let Some(from) = archive_range(value) else { return };
    let pad = at.wrapping_add(FIXED).wrapping_neg() % ALIGN;
    let to = FIXED + pad..FIXED + pad + from.len();
    if from == to {
        return;
    }
    value.copy_within(from, to.start);
    if let Some(bytes) = value.get_mut(FIXED..to.start) {
        bytes.fill(0);
    }
    if let Some(bytes) = value.get_mut(to.end..) {
        bytes.fill(0);
    }
    if let (Some(byte), Ok(pad)) = (value.get_mut(PAD_AT), u8::try_from(pad)) {
        *byte = pad;
    }
}

/// Length of the archive in a value's bytes.
pub(crate) fn archive_len(value: &[u8]) -> usize {
    value.len().saturating_sub(OVERHEAD)
}

/// Reads a value's bytes as the archive of a `T`.
///
/// # Errors
/// [`ErrorKind::TypeMismatch`] if they are none.
pub(crate) fn read<T: Archivable>(value: &[u8]) -> Result<&T::Archived> {
    let refuse = |found: &'static str| {
        let wanted = std::any::type_name::<T>();
        Error::new(ErrorKind::TypeMismatch, format!("wanted an archive of {wanted}, found {found}"))
    };
    let archive = archive_range(value).and_then(|range| value.get(range));
    let (Some(tag), Some(archive)) = (value.get(..TAG_LEN), archive) else {
        return Err(refuse("bytes that sessile did not write"));
    };
    if tag != type_tag::<T>() {
        return Err(refuse("one of another type, or of another version of it"));
    }
    access::<T>(archive).ok_or_else(|| refuse("one that is not valid for it"))
}
