//! What the keys are called. It never talks to a server.

use std::fmt::Write as _;

use sessile_engine::SessionId;

use crate::keyed::plan::Index;

/// Bits of a time that its bucket leaves out: a bucket is of 17 minutes.
const BUCKET_BITS: u32 = 20;

/// The names of one store's keys, all of printable ASCII that needs no escape in a path. No prefix has a slash in it, so no
/// two of them have a key in common.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

fn hex(out: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|byte| {
        let _ = write!(out, "{byte:02x}");
    });
}

/// The id that 64 hexadecimal digits are; `None` for anything that [`hex`] does not write.
fn id(digits: impl Iterator<Item = u8>) -> Option<SessionId> {
    let mut bytes = [0; 32];
    let mut count = 0;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        let byte = bytes.get_mut(count / 2)?;
        *byte = (*byte << 4) | value;
        count += 1;
    }
    (count == 64).then(|| SessionId::from_bytes(bytes))
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn of(&self, kind: &str, parts: &[&[u8]]) -> String {
        let mut key = format!("{}/{kind}", self.prefix);
        parts.iter().for_each(|part| hex(&mut key, part));
        key
    }

    /// What a watch looks at: the layout and the lanes.
    pub(super) fn log(&self) -> String {
        self.of("t/", &[])
    }

    /// The version of the layout, and a name of these rows.
    pub(super) fn layout(&self) -> String {
        self.of("t/layout", &[])
    }

    pub(super) fn lane(&self, name: &str) -> String {
        self.of(&format!("t/lane/{name}"), &[])
    }

    /// The name of a lane; `None` for any other key.
    pub(super) fn lane_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.of("t/lane/", &[]).as_str())
    }

    pub(super) fn row(&self, id: &SessionId) -> String {
        let (first, rest) = id.as_bytes().split_at(1);
        let mut key = self.of("s/", &[first]);
        key.push('/');
        hex(&mut key, rest);
        key
    }

    pub(super) fn quarantined(&self, id: &SessionId) -> String {
        self.of("q/", &[id.as_bytes()])
    }

    /// What the keys of all rows begin with. One level below are the shards, by the first byte of the id.
    pub(super) fn rows(&self) -> String {
        self.of("s/", &[])
    }

    /// The shard that an id is in.
    pub(super) fn shard(&self, id: &SessionId) -> String {
        let mut key = self.of("s/", &[&id.as_bytes()[..1]]);
        key.push('/');
        key
    }

    /// The id in a row's key; `None` for any other key.
    pub(super) fn id_of(&self, key: &str) -> Option<SessionId> {
        let (first, rest) = key.strip_prefix(self.rows().as_str())?.split_once('/')?;
        (first.len() == 2).then_some(())?;
        id(first.bytes().chain(rest.bytes()))
    }

    /// What the keys of the index by time begin with. One level below are the buckets.
    pub(super) fn buckets(&self) -> String {
        self.of("e/", &[])
    }

    fn bucket(&self, at: u64) -> String {
        format!("{}/e/{:011x}/", self.prefix, at >> BUCKET_BITS)
    }

    /// Whether a bucket has anything that is due at `now`.
    pub(super) fn is_due(&self, bucket: &str, now: u64) -> bool {
        *bucket <= *self.bucket(now)
    }

    /// The time and the id in a key of the index by time.
    pub(super) fn due_of(&self, key: &str) -> Option<(u64, SessionId)> {
        let (_, rest) = key.strip_prefix(self.buckets().as_str())?.split_once('/')?;
        let (at, of) = rest.split_at_checked(16)?;
        let at = u64::from_str_radix(at, 16).ok()?;
        Some((at, id(of.bytes())?))
    }

    /// What the keys of an owner's rows begin with. The name in hexadecimal, so that none is the beginning of another's, and
    /// behind a letter, as a path has no empty parts.
    pub(super) fn owned_by(&self, owner: &str) -> String {
        let mut key = self.of("o/u", &[owner.as_bytes()]);
        key.push('/');
        key
    }

    /// The id at the end of a key of the index by owner.
    pub(super) fn owned_of(&self, owner: &str, key: &str) -> Option<SessionId> {
        id(key.strip_prefix(self.owned_by(owner).as_str())?.bytes())
    }
}

impl Index for Keys {
    type Key = String;

    fn due(&self, at: u64, id: &SessionId) -> String {
        let mut key = format!("{}{at:016x}", self.bucket(at));
        hex(&mut key, id.as_bytes());
        key
    }

    fn owned(&self, owner: &str, id: &SessionId) -> String {
        let mut key = self.owned_by(owner);
        hex(&mut key, id.as_bytes());
        key
    }
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
            prop_assert!(keys.row(&id).starts_with(&keys.shard(&id)));
            prop_assert_eq!(keys.due_of(&keys.due(at, &id)), Some((at, id)));
            prop_assert_eq!(keys.owned_of(&owner, &keys.owned(&owner, &id)), Some(id));
            if other != prefix {
                prop_assert_eq!(Keys::new(&other).id_of(&keys.row(&id)), None);
            }
        }

        #[test]
        fn any_key_is_none_of_ours_or_what_a_writer_writes(key in "p/s/[0-9a-fA-F/]{60,70}") {
            let keys = Keys::new("p");
            if let Some(id) = keys.id_of(&key) {
                prop_assert_eq!(keys.row(&id), key);
            }
        }

        #[test]
        fn ids_and_times_are_in_the_order_of_their_keys(a: u64, b: u64, x: [u8; 32], y: [u8; 32]) {
            let keys = Keys::new("p");
            let (x, y) = (SessionId::from_bytes(x), SessionId::from_bytes(y));
            prop_assert_eq!(keys.row(&x).cmp(&keys.row(&y)), x.cmp(&y));
            if a != b {
                prop_assert_eq!(keys.due(a, &x) < keys.due(b, &y), a < b);
            }
            if a <= b {
                prop_assert!(keys.is_due(&keys.bucket(a), b));
            }
            prop_assert!(keys.due(a, &x).starts_with(&keys.bucket(a)));
        }

        #[test]
        fn an_owner_has_its_own_keys_only(a in "[a0/é]{0,4}", b in "[a0/é]{0,4}", id: [u8; 32]) {
            let (keys, id) = (Keys::new("p"), SessionId::from_bytes(id));
            prop_assert_eq!(keys.owned(&b, &id).starts_with(&keys.owned_by(&a)), a == b);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let (keys, id) = (Keys::new("p"), SessionId::from_bytes([b'x'; 32]));
        let x = "78".repeat(32);
        assert_eq!(keys.row(&id), format!("p/s/78/{}", "78".repeat(31)));
        assert_eq!(keys.owned("ab", &id), format!("p/o/u6162/{x}"));
        assert_eq!(keys.due(1 << 20, &id), format!("p/e/00000000001/0000000000100000{x}"));
        assert_eq!(keys.quarantined(&id), format!("p/q/{x}"));
        assert_eq!((keys.layout(), keys.lane("n")), ("p/t/layout".into(), "p/t/lane/n".into()));
        assert_eq!(keys.lane_of("p/t/lane/n"), Some("n"));
    }
}
