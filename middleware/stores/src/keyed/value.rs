//! How a row is laid out where it is one value under one key, and which rows are refused before anything is sent. It knows
//! no keys and no server. The scripts of Redis read the same head.

use sessile_engine::store::{Change, Row, StoreError, StoreErrorKind};

const LAYOUT: u8 = 1;
const HAS_OWNER: u8 = 1;
const HEAD: usize = 19;
/// The length of an owner is one byte.
const MAX_OWNER: usize = u8::MAX as usize;

/// The value holds no row that this version can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

/// The value of `row`'s key. An owner beyond 255 bytes is cut; the store refuses it before.
pub(crate) fn encode(row: &Row) -> Vec<u8> {
    let owner = row.owner.as_deref().map_or(&[][..], str::as_bytes);
    let len = u8::try_from(owner.len()).unwrap_or(u8::MAX);
    let owner = owner.get(..usize::from(len)).unwrap_or(owner);
    let mut out = Vec::with_capacity(HEAD + owner.len() + row.bytes.len());
    out.extend_from_slice(&[LAYOUT, u8::from(row.owner.is_some()) * HAS_OWNER, len]);
    out.extend_from_slice(&row.version.to_le_bytes());
    out.extend_from_slice(&row.expires_at.to_le_bytes());
    out.extend_from_slice(owner);
    out.extend_from_slice(&row.bytes);
    out
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(raw: &[u8]) -> Result<Row, Damaged> {
    let ([layout, flags, len], rest) = raw.split_first_chunk::<3>().ok_or(Damaged)?;
    let (version, rest) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
    let (expires_at, rest) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
    let (owner, bytes) = rest.split_at_checked(usize::from(*len)).ok_or(Damaged)?;
    if *layout != LAYOUT || flags & !HAS_OWNER != 0 || (*flags == 0 && *len != 0) {
        return Err(Damaged);
    }
    let owner = match *flags {
        0 => None,
        _ => Some(std::str::from_utf8(owner).map_err(|_| Damaged)?.into()),
    };
    Ok(Row {
        version: u64::from_le_bytes(*version),
        expires_at: u64::from_le_bytes(*expires_at),
        owner,
        bytes: bytes.to_vec(),
    })
}

/// Refuses rows that the contract does not allow, on behalf of `store`.
pub(crate) fn check(store: &'static str, max_row_bytes: usize, changes: &[Change]) -> Result<(), StoreError> {
    let too_large = |what: String| Err(StoreError::new(StoreErrorKind::TooLarge, store, what));
    for change in changes {
        let (Change::Insert { row, .. }
        | Change::Update { row, .. }
        | Change::Put { row, .. }
        | Change::Rekey { row, .. }) = change
        else {
            continue;
        };
        if row.owner.as_ref().is_some_and(|owner| owner.len() > MAX_OWNER) {
            return too_large(format!("an owner is longer than {MAX_OWNER} bytes"));
        }
        if row.bytes.len() > max_row_bytes {
            return too_large(format!("a row of {} bytes is larger than {max_row_bytes}", row.bytes.len()));
        }
    }
    Ok(())
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

    proptest! {
        #[test]
        fn every_row_comes_back(row in any_row()) {
            prop_assert_eq!(decode(&encode(&row)), Ok(row));
        }

        #[test]
        fn any_bytes_are_damaged_or_what_a_writer_writes(raw in proptest::collection::vec(0_u8..4, 0..80)) {
            if let Ok(row) = decode(&raw) {
                prop_assert_eq!(encode(&row), raw);
            }
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let row = Row { version: 2, expires_at: 3, owner: Some("u".into()), bytes: vec![0xAB] };
        assert_eq!(encode(&row), [1, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'u', 0xAB]);
    }
}
