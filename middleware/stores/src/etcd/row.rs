//! What the keys are called. It never talks to a server.

use sessile_engine::SessionId;

pub(super) use crate::keyed::value::{Damaged, decode, encode};

/// The names of one store's keys. No prefix has a slash in it, so no two of them have a key in common.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn of(&self, kind: &str, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = format!("{}/{kind}", self.prefix).into_bytes();
        parts.iter().for_each(|part| key.extend_from_slice(part));
        key
    }

    /// The version of the layout.
    pub(super) fn layout(&self) -> Vec<u8> {
        self.of("layout", &[])
    }

    /// The high-water mark, a number as in [`ordered`].
    pub(super) fn mark(&self) -> Vec<u8> {
        self.of("mark", &[])
    }

    /// Written by each change: it is what a watch must have seen.
    pub(super) fn tick(&self) -> Vec<u8> {
        self.of("t", &[])
    }

    pub(super) fn row(&self, id: &SessionId) -> Vec<u8> {
        self.of("s/", &[id.as_bytes()])
    }

    pub(super) fn quarantined(&self, id: &SessionId) -> Vec<u8> {
        self.of("q/", &[id.as_bytes()])
    }

    pub(super) fn due(&self, at: u64, id: &SessionId) -> Vec<u8> {
        self.of("e/", &[&ordered(at), id.as_bytes()])
    }

    /// The name in hexadecimal, so that none is the beginning of another's keys.
    fn owner(&self, owner: &str) -> Vec<u8> {
        use std::fmt::Write as _;
        let mut hex = String::with_capacity(2 * owner.len() + 1);
        for byte in owner.bytes() {
            let _ = write!(hex, "{byte:02x}");
        }
        hex.push('/');
        self.of("o/", &[hex.as_bytes()])
    }

    pub(super) fn owned(&self, owner: &str, id: &SessionId) -> Vec<u8> {
        let mut key = self.owner(owner);
        key.extend_from_slice(id.as_bytes());
        key
    }

    /// The rows behind `after`: first key and the key behind the last.
    pub(super) fn rows(&self, after: Option<&SessionId>) -> (Vec<u8>, Vec<u8>) {
        let from = after.map_or_else(|| self.of("s/", &[]), |id| self.of("s/", &[id.as_bytes(), &[0]]));
        (from, self.of("s0", &[]))
    }

    /// Rows and the tick, which are neighbours.
    pub(super) fn watched(&self) -> (Vec<u8>, Vec<u8>) {
        (self.of("s/", &[]), self.of("t0", &[]))
    }

    /// What is due at `now`, behind the key `after`.
    pub(super) fn due_by(&self, now: u64, after: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
        let from = after.map_or_else(|| self.of("e/", &[]), behind);
        let end =
            now.checked_add(1).map_or_else(|| self.of("e0", &[]), |end| self.of("e/", &[&ordered(end)]));
        (from, end)
    }

    pub(super) fn owned_by(&self, owner: &str, after: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
        let own = self.owner(owner);
        let mut end = own.clone();
        if let Some(last) = end.last_mut() {
            *last = b'0';
        }
        (after.map_or(own, behind), end)
    }

    /// The id in a row's key; `None` for any other key.
    pub(super) fn id_of(&self, key: &[u8]) -> Option<SessionId> {
        let id = key.strip_prefix(self.of("s/", &[]).as_slice())?;
        Some(SessionId::from_bytes(id.try_into().ok()?))
    }

    /// The time and the id in a key of the index by time.
    pub(super) fn due_of(&self, key: &[u8]) -> Option<(u64, SessionId)> {
        let (at, id) = key.strip_prefix(self.of("e/", &[]).as_slice())?.split_first_chunk::<8>()?;
        Some((unordered(*at), SessionId::from_bytes(id.try_into().ok()?)))
    }

    /// The id at the end of a key of the index by owner.
    pub(super) fn owned_of(&self, owner: &str, key: &[u8]) -> Option<SessionId> {
        let id = key.strip_prefix(self.owner(owner).as_slice())?;
        Some(SessionId::from_bytes(id.try_into().ok()?))
    }
}

/// A number in bytes that are in the order of the numbers.
#[expect(clippy::big_endian_bytes, reason = "etcd compares bytes from the left")]
pub(super) const fn ordered(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

#[expect(clippy::big_endian_bytes, reason = "etcd compares bytes from the left")]
pub(super) const fn unordered(bytes: [u8; 8]) -> u64 {
    u64::from_be_bytes(bytes)
}

/// The key behind `key`.
pub(super) fn behind(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_in_a_key_comes_back(id: [u8; 32], at: u64, prefix in "[a-z:]{1,8}", other in "[a-z:]{1,8}", owner in ".{0,20}") {
            let (id, keys) = (SessionId::from_bytes(id), Keys::new(&prefix));
            prop_assert_eq!(keys.id_of(&keys.row(&id)), Some(id));
            prop_assert_eq!(keys.due_of(&keys.due(at, &id)), Some((at, id)));
            prop_assert_eq!(keys.owned_of(&owner, &keys.owned(&owner, &id)), Some(id));
            if other != prefix {
                prop_assert_eq!(Keys::new(&other).id_of(&keys.row(&id)), None);
            }
        }

        #[test]
        fn the_index_by_time_is_in_order(a: u64, b: u64, x: [u8; 32], y: [u8; 32]) {
            let keys = Keys::new("p");
            let (x, y) = (keys.due(a, &SessionId::from_bytes(x)), keys.due(b, &SessionId::from_bytes(y)));
            if a != b {
                prop_assert_eq!(a < b, x < y);
            }
            let (from, end) = keys.due_by(a, None);
            prop_assert!(from <= x && x < end);
            prop_assert_eq!(y < end, b <= a);
        }

        #[test]
        fn an_owner_has_its_own_keys_only(a in "[a0/é]{0,4}", b in "[a0/é]{0,4}", id: [u8; 32]) {
            let (keys, id) = (Keys::new("p"), SessionId::from_bytes(id));
            let (from, end) = keys.owned_by(&a, None);
            let key = keys.owned(&b, &id);
            prop_assert_eq!(from <= key && key < end, a == b);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let (keys, id) = (Keys::new("p"), SessionId::from_bytes([b'x'; 32]));
        let x = "x".repeat(32);
        assert_eq!(keys.row(&id), format!("p/s/{x}").into_bytes());
        assert_eq!(keys.owned("ab", &id), format!("p/o/6162/{x}").into_bytes());
        assert_eq!(keys.due(1, &id), format!("p/e/\0\0\0\0\0\0\0\x01{x}").into_bytes());
        let (from, end) = keys.watched();
        assert!(from < keys.row(&id) && keys.row(&id) < keys.tick() && keys.tick() < end);
        assert!(keys.quarantined(&id) < from && keys.mark() < from && keys.layout() < from);
    }
}
