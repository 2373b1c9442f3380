//! What makes a sled directory one of ours: the marker file, the keys of the one tree and the format numbers,
//! each written once here. It encodes and checks; it opens nothing.
//!
//! Everything is in sled's default tree, because only a batch on one tree is one log record. The first byte of a
//! key says what the entry is:
//!
//! | key | value |
//! |---|---|
//! | `m` `f` | the same bytes as in the marker file |
//! | `m` `s` | high-water mark and number of rows, checked |
//! | `o` length owner id | nothing; the owner index |
//! | `q` id piece | a piece of a quarantined row's bytes |
//! | `r` id piece | a piece of a row, laid out by `store/row.rs` |
//! | `x` time id | nothing; the expiry index, see `tables.rs` |
//!
//! A row is cut into pieces of [`PIECE`] bytes, the last of which is shorter and may be empty. sled puts up to twenty
//! entries on a page, and a page of more than 128 KiB into a file of its own, which it never syncs; pages of small
//! pieces stay below that, so that a commit is in one file only.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{StoreError, StoreErrorKind};
use crate::store::row;

/// A session's id.
pub(super) type Key = [u8; 32];

/// Name of the marker file, which also carries the lock.
pub(super) const MARKER: &str = "sessile";

/// Bytes in every piece of a row but the last.
pub(super) const PIECE: usize = 4096;

pub(super) const FORMAT_KEY: &[u8] = b"mf";
pub(super) const STATE_KEY: &[u8] = b"ms";

const OWNER: u8 = b'o';
const QUARANTINE: u8 = b'q';
const ROW: u8 = b'r';
const EXPIRY: u8 = b'x';

const MAGIC: [u8; 8] = *b"SESSILE\0";
/// Any change of how keys or values are laid out changes this text.
const LAYOUT: &str = "m o:len:u8 owner id q:id piece:u16be r:id piece:u16be x:u64be id piece=4096";

/// The version this build writes, and the newest it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

fn fingerprint() -> u64 {
    xxh3_64(format!("{LAYOUT} {}", row::LAYOUT).as_bytes())
}

/// What the marker file and the entry `mf` hold: magic, format version (u32), layout fingerprint (u64) and the
/// checksum of these (u64), little-endian. Magic and version keep their place in every format.
pub(super) fn identity(version: u32) -> Vec<u8> {
    let mut value = MAGIC.to_vec();
    value.extend_from_slice(&version.to_le_bytes());
    value.extend_from_slice(&fingerprint().to_le_bytes());
    value.extend_from_slice(&xxh3_64(&value).to_le_bytes());
    value
}

/// Whether `value` identifies a directory that this build may open.
pub(super) fn identify(value: &[u8]) -> Result<(), StoreError> {
    let refused = |kind, what: String| Err(StoreError::new(kind, super::NAME, what));
    let Some((magic, rest)) = value.split_first_chunk::<8>().filter(|(magic, _)| **magic == MAGIC) else {
        return refused(
            StoreErrorKind::Foreign,
            "not a sessile directory: its magic number is another".into(),
        );
    };
    debug_assert_eq!(*magic, MAGIC);
    let version = rest.first_chunk::<4>().map_or(0, |v| u32::from_le_bytes(*v));
    if version > FORMAT_VERSION {
        return refused(
            StoreErrorKind::NewerFormat,
            format!(
                "the directory has format {version}; this version of sessile reads up to {FORMAT_VERSION}"
            ),
        );
    }
    if value != identity(FORMAT_VERSION) {
        return refused(
            StoreErrorKind::Corrupt,
            "what identifies the directory is damaged, or its rows have an unreleased layout".into(),
        );
    }
    Ok(())
}

/// What the entry `ms` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) high_water: u64,
    /// None once the number was lost to damage.
    pub(super) rows: Option<u64>,
}

const UNKNOWN: u64 = u64::MAX;

impl State {
    pub(super) const EMPTY: Self = Self { high_water: 0, rows: Some(0) };

    /// Reads the entry. A damaged one counts as high-water mark 0: that is a floor for clocks that went
    /// backward, and losing it is better than losing the rows or adopting a far future.
    pub(super) fn read(value: Option<&[u8]>) -> Self {
        let checked = value.and_then(|v| {
            let (body, check) = v.split_at_checked(16)?;
            let (mark, rows) = body.split_first_chunk::<8>()?;
            let rows = u64::from_le_bytes(*rows.first_chunk()?);
            (check == xxh3_64(body).to_le_bytes()).then(|| Self {
                high_water: u64::from_le_bytes(*mark),
                rows: Some(rows).filter(|r| *r != UNKNOWN),
            })
        });
        checked.unwrap_or_else(|| {
            tracing::warn!(store = super::NAME, "the high-water mark is damaged and counts as 0");
            Self { high_water: 0, rows: None }
        })
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let mut value = self.high_water.to_le_bytes().to_vec();
        value.extend_from_slice(&self.rows.unwrap_or(UNKNOWN).to_le_bytes());
        value.extend_from_slice(&xxh3_64(&value).to_le_bytes());
        value
    }
}

#[expect(clippy::big_endian_bytes, reason = "keys must sort as the numbers in them")]
fn pieced(tag: u8, id: &Key, piece: u16) -> [u8; 35] {
    let mut key = [0; 35];
    let [first, rest @ ..] = &mut key;
    *first = tag;
    let (to, number) = rest.split_at_mut(32);
    to.copy_from_slice(id);
    number.copy_from_slice(&piece.to_be_bytes());
    key
}

/// The key of a piece of a row.
pub(super) fn row_key(id: &Key, piece: u16) -> [u8; 35] {
    pieced(ROW, id, piece)
}

/// The key of a piece of a quarantined row.
pub(super) fn quarantine_key(id: &Key, piece: u16) -> [u8; 35] {
    pieced(QUARANTINE, id, piece)
}

/// The first key behind all rows.
pub(super) const BEHIND_ROWS: &[u8] = &[ROW + 1];

/// Id and piece of a key from [`row_key`].
#[expect(clippy::big_endian_bytes, reason = "keys must sort as the numbers in them")]
pub(super) fn read_row_key(key: &[u8]) -> Option<(Key, u16)> {
    let (id, piece) = key.strip_prefix(&[ROW])?.split_first_chunk::<32>()?;
    Some((*id, u16::from_be_bytes(piece.try_into().ok()?)))
}

/// The key of an entry of the expiry index.
#[expect(clippy::big_endian_bytes, reason = "keys must sort as the numbers in them")]
pub(super) fn expiry_key(at: u64, id: &Key) -> [u8; 41] {
    let mut key = [0; 41];
    let [first, rest @ ..] = &mut key;
    *first = EXPIRY;
    let (time, to) = rest.split_at_mut(8);
    time.copy_from_slice(&at.to_be_bytes());
    to.copy_from_slice(id);
    key
}

/// Time and id of a key from [`expiry_key`].
#[expect(clippy::big_endian_bytes, reason = "keys must sort as the numbers in them")]
pub(super) fn read_expiry_key(key: &[u8]) -> Option<(u64, Key)> {
    let (at, id) = key.strip_prefix(&[EXPIRY])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*at), id.try_into().ok()?))
}

/// What all keys of one owner begin with. Owners have at most 255 bytes; the stores refuse longer ones before.
pub(super) fn owner_prefix(owner: &str) -> Vec<u8> {
    let mut key = vec![OWNER, u8::try_from(owner.len()).unwrap_or(u8::MAX)];
    key.extend_from_slice(owner.as_bytes());
    key
}

/// The key of an entry of the owner index.
pub(super) fn owner_key(owner: &str, id: &Key) -> Vec<u8> {
    let mut key = owner_prefix(owner);
    key.extend_from_slice(id);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_come_back_and_sort_as_their_parts(a: (u64, Key), b: (u64, Key), p: u16, q: u16) {
            prop_assert_eq!(read_expiry_key(&expiry_key(a.0, &a.1)), Some(a));
            prop_assert_eq!(read_row_key(&row_key(&a.1, p)), Some((a.1, p)));
            prop_assert_eq!(expiry_key(a.0, &a.1).cmp(&expiry_key(b.0, &b.1)), a.cmp(&b));
            prop_assert_eq!(row_key(&a.1, p).cmp(&row_key(&a.1, q)), p.cmp(&q));
            prop_assert_eq!(row_key(&a.1, p).cmp(&row_key(&b.1, q)), (a.1, p).cmp(&(b.1, q)));
        }

        #[test]
        fn arbitrary_keys_and_values_are_told_apart(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some((id, piece)) = read_row_key(&bytes) {
                prop_assert_eq!(&row_key(&id, piece)[..], &bytes[..]);
            }
            if let Some((at, id)) = read_expiry_key(&bytes) {
                prop_assert_eq!(&expiry_key(at, &id)[..], &bytes[..]);
            }
            prop_assert!(identify(&bytes).is_err());
            prop_assert_eq!(State::read(Some(&bytes)), State { high_water: 0, rows: None });
        }

        #[test]
        fn state_comes_back_and_no_flipped_bit_passes(high_water: u64, rows: u32, bit in 0_usize..192) {
            let state = State { high_water, rows: Some(u64::from(rows)) };
            let mut bytes = state.bytes();
            prop_assert_eq!(State::read(Some(&bytes)), state);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(State::read(Some(&bytes)).rows, None);
        }
    }

    #[test]
    fn the_identity_is_pinned_and_refused_when_it_differs() {
        let ours = identity(FORMAT_VERSION);
        assert_eq!(ours[..12], *b"SESSILE\0\x01\0\0\0");
        assert_eq!(ours.len(), 28);
        identify(&ours).unwrap();
        assert_eq!(identify(&identity(2)).unwrap_err().kind(), StoreErrorKind::NewerFormat);
        assert_eq!(identify(b"anything else").unwrap_err().kind(), StoreErrorKind::Foreign);
        for byte in 8..28 {
            let mut other = ours.clone();
            other[byte] ^= 1;
            assert!(identify(&other).is_err(), "byte {byte}");
        }
    }
}
