//! What the values look like, under which keys they are, and how long a server keeps them. It never talks to a server.

use sessile_engine::SessionId;
use sessile_engine::store::Row;

use crate::keyed::value;

/// How long a server keeps a row after it was due, in seconds: by then the engines have ended it by their own clocks.
pub(super) const SLACK_S: u64 = 300;
/// How long the end of a session is remembered, in seconds: longer than a request can be on its way.
pub(super) const TOMBSTONE_S: u64 = 600;
/// A longer time is a moment since 1970 to the server, not a span.
const LONGEST_SPAN_S: u64 = 30 * 24 * 3600;
/// How long what a store writes to try a server out is kept, in seconds.
pub(super) const PROBE_S: u64 = 60;
/// How long a damaged row is kept for the operator.
pub(super) const QUARANTINE_S: u64 = LONGEST_SPAN_S;

const ROW: u8 = b'r';
const PENDING: u8 = b'p';
const MOVED: u8 = b'm';
const TOMBSTONE: u8 = b't';

/// What stands under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Row(Row),
    /// A row that is there only if what stands under the first id has moved to it.
    Pending(SessionId, Row),
    /// What was here is there. For the server this is as old as the row.
    Moved(SessionId),
    /// Somebody ended what was here.
    Tombstone,
    Damaged,
}

/// The value of a row.
pub(super) fn row(row: &Row) -> Vec<u8> {
    tagged(ROW, &[], &value::encode(row))
}

/// The value of a row that counts only if `from` leads to it.
pub(super) fn pending(from: &SessionId, row: &Row) -> Vec<u8> {
    tagged(PENDING, from.as_bytes(), &value::encode(row))
}

pub(super) fn moved(to: &SessionId) -> Vec<u8> {
    tagged(MOVED, to.as_bytes(), &[])
}

pub(super) fn tombstone() -> Vec<u8> {
    vec![TOMBSTONE]
}

fn tagged(tag: u8, id: &[u8], rest: &[u8]) -> Vec<u8> {
    [&[tag], id, rest].concat()
}

pub(super) fn state(raw: &[u8]) -> State {
    let read = || {
        let (tag, rest) = raw.split_first()?;
        match *tag {
            ROW => value::decode(rest).ok().map(State::Row),
            PENDING => {
                let (from, row) = rest.split_first_chunk::<32>()?;
                Some(State::Pending(SessionId::from_bytes(*from), value::decode(row).ok()?))
            }
            MOVED => Some(State::Moved(SessionId::from_bytes(rest.try_into().ok()?))),
            TOMBSTONE if rest.is_empty() => Some(State::Tombstone),
            _ => None,
        }
    };
    read().unwrap_or(State::Damaged)
}

/// How long the server is to keep a row that is due at `expires_at`, as it wants to be told: seconds from now, or since
/// 1970 where that is longer than a month. 0 is for ever: what it cannot count to, it keeps until it needs the room.
pub(super) fn ttl(expires_at: u64, now: u64) -> u64 {
    let left = expires_at.saturating_sub(now).div_ceil(1000).saturating_add(SLACK_S);
    if left <= LONGEST_SPAN_S {
        return left;
    }
    let moment = expires_at.div_ceil(1000).saturating_add(SLACK_S);
    if i32::try_from(moment).is_ok() { moment } else { 0 }
}

/// The keys of one prefix. The number in them is that of this layout.
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/1") }
    }

    pub(super) fn row(&self, id: &SessionId) -> String {
        format!("{}/s/{id}", self.prefix)
    }

    pub(super) fn quarantined(&self, id: &SessionId) -> String {
        format!("{}/q/{id}", self.prefix)
    }

    pub(super) fn probe(&self) -> String {
        format!("{}/probe", self.prefix)
    }

    pub(super) fn mark(&self) -> String {
        format!("{}/mark", self.prefix)
    }
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
        fn every_state_comes_back(row in any_row(), id: [u8; 32]) {
            let id = SessionId::from_bytes(id);
            prop_assert_eq!(state(&super::row(&row)), State::Row(row.clone()));
            prop_assert_eq!(state(&pending(&id, &row)), State::Pending(id, row));
            prop_assert_eq!(state(&moved(&id)), State::Moved(id));
            prop_assert_eq!(state(&tombstone()), State::Tombstone);
        }

        #[test]
        fn any_bytes_are_damaged_or_what_a_writer_writes(
            tag in prop_oneof![Just(ROW), Just(PENDING), Just(MOVED), Just(TOMBSTONE), any::<u8>()],
            rest in proptest::collection::vec(0_u8..4, 0..80),
        ) {
            let raw = tagged(tag, &[], &rest);
            let written = match state(&raw) {
                State::Row(row) => super::row(&row),
                State::Pending(from, row) => pending(&from, &row),
                State::Moved(to) => moved(&to),
                State::Tombstone => tombstone(),
                State::Damaged => return Ok(()),
            };
            prop_assert_eq!(written, raw);
        }

        #[test]
        fn no_row_ends_before_it_is_due(expires_at: u64, now in 0..4_000_000_000_000_u64) {
            let told = ttl(expires_at, now);
            let ends = match told {
                0 => u64::MAX,
                span if span <= LONGEST_SPAN_S => now.saturating_add(span * 1000),
                moment => moment * 1000,
            };
            prop_assert!(ends > expires_at || expires_at == u64::MAX);
            prop_assert!(i32::try_from(told).is_ok(), "a server does not read it");
        }
    }

    #[test]
    fn times_are_told_as_the_server_wants_to_be_told() {
        const NOW: u64 = 1_800_000_000_000;
        for (left_ms, wanted) in [
            (0, 300),
            (1, 301),
            (60_000, 360),
            (1000 * (LONGEST_SPAN_S - SLACK_S), LONGEST_SPAN_S),
            (1000 * LONGEST_SPAN_S, 1_800_000_000 + LONGEST_SPAN_S + SLACK_S),
        ] {
            assert_eq!(ttl(NOW + left_ms, NOW), wanted, "{left_ms}");
        }
        assert_eq!(ttl(NOW - 1, NOW), 300, "it was due before");
        assert_eq!(ttl(u64::MAX, NOW), 0);
        assert_eq!(ttl(u64::from(u32::MAX) * 1000, NOW), 0, "behind what a server counts to");
    }

    #[test]
    fn the_layout_is_pinned() {
        let row = Row { version: 2, expires_at: 3, owner: Some("u".into()), bytes: vec![0xAB] };
        let value = [1, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'u', 0xAB];
        assert_eq!(super::row(&row), [&b"r"[..], &value].concat());
        assert_eq!(pending(&SessionId::from_bytes([7; 32]), &row), [&b"p"[..], &[7; 32], &value].concat());
        assert_eq!(moved(&SessionId::from_bytes([7; 32])), [&b"m"[..], &[7; 32]].concat());
        assert_eq!(tombstone(), b"t");
        let keys = Keys::new("p");
        let id = SessionId::from_bytes([0xA0; 32]);
        assert_eq!(keys.row(&id), format!("p/1/s/{}", "a0".repeat(32)));
        assert_eq!(keys.quarantined(&id), format!("p/1/q/{}", "a0".repeat(32)));
        assert_eq!(keys.mark(), "p/1/mark");
    }
}
