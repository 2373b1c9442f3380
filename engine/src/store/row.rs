//! How a [`Row`] is laid out as the value of one key in an embedded file. It owns that layout and its
//! checksum, and never trusts a byte before the checksum has matched: neither redb nor sled verifies all that it
//! reads, and a flipped bit must not become a wrong version, expiry time, owner or record.

use std::convert::Infallible;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Row;

/// Describes the layout for the file's fingerprint. Any change of the layout changes this text.
#[cfg(any(feature = "redb", feature = "sled"))]
pub(super) const LAYOUT: &str = "check:u64le layout:u8=1 flags:u8(1=owner) owner_len:u8 zero:[u8;5] version:u64le expires_at:u64le owner record";

const LAYOUT_BYTE: u8 = 1;
const HAS_OWNER: u8 = 1;
const CHECK: usize = 8;
const HEADER: usize = 32;

/// The bytes do not hold a row of that id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

/// A row read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowRef<'a> {
    pub(crate) version: u64,
    pub(crate) expires_at: u64,
    pub(crate) owner: Option<&'a str>,
    pub(crate) bytes: &'a [u8],
}

impl RowRef<'_> {
    pub(crate) fn to_row(self) -> Row {
        Row {
            version: self.version,
            expires_at: self.expires_at,
            owner: self.owner.map(Into::into),
            bytes: self.bytes.to_vec(),
        }
    }
}

/// The checksum is seeded with the id, so that a row read under another key does not pass either.
fn checksum(id: &[u8; 32], rest: &[u8]) -> u64 {
    xxh3_64_with_seed(rest, xxh3_64(id))
}

/// Writes `row` into `out`, replacing what it held. An owner beyond 255 bytes is cut; the stores refuse it
/// before.
#[cfg(any(feature = "redb", feature = "sled", test))]
pub(super) fn encode(id: &[u8; 32], row: &Row, out: &mut Vec<u8>) {
    out.clear();
    append(id, row, out);
}

/// Bytes of `row` in this layout.
pub(crate) fn encoded_len(row: &Row) -> usize {
    HEADER + row.owner.as_deref().map_or(0, |owner| owner.len().min(255)) + row.bytes.len()
}

/// A row without its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) version: u64,
    pub(crate) expires_at: u64,
    pub(crate) owner: Option<&'a str>,
}

/// As [`encode`], behind what `out` holds.
pub(crate) fn append(id: &[u8; 32], row: &Row, out: &mut Vec<u8>) {
    let head = Head { version: row.version, expires_at: row.expires_at, owner: row.owner.as_deref() };
    out.reserve(encoded_len(row));
    let Ok(()) = append_with(id, &head, out, |out| {
        out.extend_from_slice(&row.bytes);
        Ok::<_, Infallible>(())
    });
}

/// As [`append`] of a row whose record is what `record` appends. After an error of `record` the end of `out` is no row.
pub(crate) fn append_with<E>(
    id: &[u8; 32],
    head: &Head<'_>,
    out: &mut Vec<u8>,
    record: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    let name = head.owner.map_or(&[][..], str::as_bytes);
    let owner_len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let flags = u8::from(head.owner.is_some()) * HAS_OWNER;
    let mut header = [0; HEADER];
    header[CHECK..CHECK + 3].copy_from_slice(&[LAYOUT_BYTE, flags, owner_len]);
    header[CHECK + 8..CHECK + 16].copy_from_slice(&head.version.to_le_bytes());
    header[CHECK + 16..].copy_from_slice(&head.expires_at.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(name.get(..usize::from(owner_len)).unwrap_or(name));
    record(out)?;
    if let Some((check, rest)) = out.get_mut(start..).and_then(|row| row.split_first_chunk_mut::<CHECK>()) {
        *check = checksum(id, rest).to_le_bytes();
    }
    Ok(())
}

/// Reads the row of `id` from `raw`.
pub(crate) fn decode<'a>(id: &[u8; 32], raw: &'a [u8]) -> Result<RowRef<'a>, Damaged> {
    let (check, rest) = raw.split_first_chunk::<CHECK>().ok_or(Damaged)?;
    if u64::from_le_bytes(*check) != checksum(id, rest) {
        return Err(Damaged);
    }
    let ([layout, flags, owner_len, zero @ ..], rest) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
    let (version, rest) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
    let (expires_at, rest) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
    let (owner, bytes) = rest.split_at_checked(usize::from(*owner_len)).ok_or(Damaged)?;
    if *layout != LAYOUT_BYTE || flags & !HAS_OWNER != 0 || *zero != [0; 5] {
        return Err(Damaged);
    }
    let owner = if flags & HAS_OWNER != 0 {
        Some(std::str::from_utf8(owner).map_err(|_| Damaged)?)
    } else if owner.is_empty() {
        None
    } else {
        return Err(Damaged);
    };
    Ok(RowRef {
        version: u64::from_le_bytes(*version),
        expires_at: u64::from_le_bytes(*expires_at),
        owner,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_row() -> impl Strategy<Value = Row> {
        let owner = proptest::option::of("[a-zé:0-9]{0,60}").prop_map(|o| o.map(Into::into));
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        (any::<u64>(), any::<u64>(), owner, bytes).prop_map(|(version, expires_at, owner, bytes)| Row {
            version,
            expires_at,
            owner,
            bytes,
        })
    }

    fn encoded(id: &[u8; 32], row: &Row) -> Vec<u8> {
        let mut out = b"left from before".to_vec();
        encode(id, row, &mut out);
        out
    }

    proptest! {
        #[test]
        fn every_row_comes_back(id: [u8; 32], row in any_row()) {
            let raw = encoded(&id, &row);
            prop_assert_eq!(decode(&id, &raw).map(RowRef::to_row), Ok(row));
        }

        #[test]
        fn no_flipped_bit_passes(id: [u8; 32], row in any_row(), at: prop::sample::Index) {
            let mut raw = encoded(&id, &row);
            let bit = at.index(raw.len() * 8);
            raw[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&id, &raw), Err(Damaged));
        }

        #[test]
        fn no_cut_or_longer_row_passes(id: [u8; 32], row in any_row(), at: prop::sample::Index, more: u8) {
            let mut raw = encoded(&id, &row);
            prop_assert_eq!(decode(&id, &raw[..at.index(raw.len())]), Err(Damaged));
            raw.push(more);
            prop_assert_eq!(decode(&id, &raw), Err(Damaged));
        }

        #[test]
        fn no_row_passes_under_another_id(id: [u8; 32], other: [u8; 32], row in any_row()) {
            prop_assume!(id != other);
            let raw = encoded(&id, &row);
            prop_assert_eq!(decode(&other, &raw), Err(Damaged));
        }

        #[test]
        fn arbitrary_bytes_are_damaged(id: [u8; 32], raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&id, &raw), Err(Damaged));
        }

        /// With a valid checksum over anything: an answer or `Damaged`, and what is read back is what a
        /// writer would have written.
        #[test]
        fn a_forged_checksum_reads_only_canonical_rows(id: [u8; 32], head in [0_u8..3, 0_u8..3, 0_u8..3, 0_u8..2], tail in proptest::collection::vec(any::<u8>(), 0..80)) {
            let rest = [&head[..], &[0; 4], &tail].concat();
            let mut raw = checksum(&id, &rest).to_le_bytes().to_vec();
            raw.extend_from_slice(&rest);
            if let Ok(row) = decode(&id, &raw) {
                prop_assert_eq!(encoded(&id, &row.to_row()), raw);
            }
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let row = Row { version: 2, expires_at: 3, owner: Some("u".into()), bytes: vec![0xAB] };
        let raw = encoded(&[7; 32], &row);
        assert_eq!(raw.len(), HEADER + 2);
        assert_eq!(
            raw[8..],
            [1, 1, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'u', 0xAB]
        );
        assert_eq!(raw[..8], [113, 202, 105, 23, 27, 238, 106, 228]);
    }

    #[test]
    fn no_owner_and_the_empty_owner_differ() {
        let mut row = Row { version: 1, expires_at: 1, owner: None, bytes: Vec::new() };
        assert_eq!(decode(&[0; 32], &encoded(&[0; 32], &row)).map(|r| r.owner), Ok(None));
        row.owner = Some("".into());
        assert_eq!(decode(&[0; 32], &encoded(&[0; 32], &row)).map(|r| r.owner), Ok(Some("")));
    }
}
