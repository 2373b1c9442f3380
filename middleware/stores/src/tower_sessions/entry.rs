//! How a row is a record of tower-sessions: under which id, with which data, until when. It never talks to a store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde_json::Value;
use sessile_engine::SessionId;
use sessile_engine::store::Row;
use time::OffsetDateTime;

use super::records::{Data, Entry};
use crate::keyed::value;

/// How long a record stays after its row was due: by then the engine has ended it by its own clock.
pub(super) const SLACK_MS: u64 = 300_000;
/// The last second of the year 9999, beyond which no date can be written.
const LAST_MS: u64 = 253_402_300_799_000;
const ROW: &str = "sessile.row";
const ID: &str = "sessile.id";
const TIME: &str = "sessile.time";

/// What the data of a record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Row(Row),
    Damaged,
}

/// FNV-1a, of 128 bits. An id is a hash already: this only makes it as short as one of tower-sessions.
fn fold(kind: u8, bytes: &[u8]) -> i128 {
    const BASIS: u128 = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let sum = std::iter::once(&kind)
        .chain(bytes)
        .fold(BASIS, |sum, byte| (sum ^ u128::from(*byte)).wrapping_mul(PRIME));
    sum.cast_signed()
}

/// The record of a session.
pub(super) fn key(id: &SessionId) -> i128 {
    fold(b's', id.as_bytes())
}

/// The record that a damaged one of a session is put aside as.
pub(super) fn aside(id: &SessionId) -> i128 {
    fold(b'q', id.as_bytes())
}

/// The record of the latest time.
pub(super) fn mark() -> i128 {
    fold(b'm', &[])
}

fn date(ms: u64) -> OffsetDateTime {
    let seconds = ms.min(LAST_MS).div_ceil(1000);
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(super) fn of_row(id: &SessionId, row: &Row) -> Entry {
    let data = [(ID, id.to_string()), (ROW, BASE64.encode(value::encode(row)))];
    let data = data.into_iter().map(|(name, text)| (name.to_owned(), Value::String(text))).collect();
    Entry { id: key(id), data, expiry: date(row.expires_at.saturating_add(SLACK_MS)) }
}

/// What was found under the id, for an operator, for as long as dates go.
pub(super) fn of_damaged(id: &SessionId, data: Data) -> Entry {
    Entry { id: aside(id), data, expiry: date(LAST_MS) }
}

pub(super) fn of_mark(time: u64) -> Entry {
    Entry { id: mark(), data: [(TIME.to_owned(), time.into())].into(), expiry: date(LAST_MS) }
}

pub(super) fn time(data: &Data) -> Option<u64> {
    data.get(TIME)?.as_u64()
}

pub(super) fn state(id: &SessionId, data: &Data) -> State {
    let text = |name| data.get(name).and_then(Value::as_str);
    let row = || {
        if data.len() != 2 || text(ID)?.parse() != Ok(*id) {
            return None;
        }
        value::decode(&BASE64.decode(text(ROW)?).ok()?).ok()
    };
    row().map_or(State::Damaged, State::Row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_comes_back(id: [u8; 32], version: u64, expires_at: u64, bytes: Vec<u8>, owner in proptest::option::of("[a-zé]{0,20}")) {
            let (id, row) = (
                SessionId::from_bytes(id),
                Row { version, expires_at, owner: owner.map(Into::into), bytes },
            );
            let entry = of_row(&id, &row);
            prop_assert_eq!(state(&id, &entry.data), State::Row(row));
            let ends = entry.expiry.unix_timestamp_nanos() / 1_000_000;
            prop_assert!(ends >= i128::from(expires_at.min(LAST_MS)));
            // Another id's record is not read as this one's.
            let other = SessionId::from_bytes([id.as_bytes()[0] ^ 1; 32]);
            prop_assert_eq!(state(&other, &entry.data), State::Damaged);
        }

        #[test]
        fn any_data_is_damaged_or_a_row(
            names in proptest::collection::vec(prop_oneof![Just(ID), Just(ROW), Just("x")], 0..4),
            text in "[0-9a-zA-Z+/=]{0,70}",
        ) {
            let data: Data = names.into_iter().map(|name| (name.to_owned(), Value::String(text.clone()))).collect();
            let _ = state(&SessionId::from_bytes([0; 32]), &data);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let id = SessionId::from_bytes([0xA0; 32]);
        let row = Row { version: 2, expires_at: 3, owner: Some("u".into()), bytes: vec![0xAB] };
        let entry = of_row(&id, &row);
        assert_eq!(entry.data[ID], Value::String("a0".repeat(32)));
        assert_eq!(entry.data[ROW], Value::String("AQEBAgAAAAAAAAADAAAAAAAAAHWr".into()));
        assert_eq!(entry.expiry.unix_timestamp(), 301);
        assert_eq!(fold(b'm', &[]), mark());
        assert_ne!(key(&id), aside(&id));
        assert_eq!(time(&of_mark(u64::MAX).data), Some(u64::MAX));
    }
}
