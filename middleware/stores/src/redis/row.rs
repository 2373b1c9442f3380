//! What the keys are called, and which values are no rows. It never talks to a server.

use sessile_engine::SessionId;

pub(super) use crate::keyed::value::{Damaged, decode, encode};

/// The first byte of a pointer.
const POINTER: u8 = b'P';

/// A value that is not a row but says in which bucket the row is.
pub(super) fn home_of(raw: &[u8]) -> Option<u8> {
    match raw {
        [POINTER, home, _, _, _, _, _, _, _, _] => Some(*home),
        _ => None,
    }
}

/// What the keys of a namespace are called, or those of one bucket of a namespace in a cluster. What is in braces decides
/// which slot a key is in: there, all keys of a bucket have the same.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
    /// Empty if not in a cluster.
    tag: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self::of_bucket(prefix, "")
    }

    pub(super) fn of_bucket(prefix: &str, tag: &str) -> Self {
        Self { prefix: prefix.to_owned(), tag: tag.to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    pub(super) fn is_bucket(&self) -> bool {
        !self.tag.is_empty()
    }

    /// A key that all rows share.
    pub(super) fn shared(&self, name: &str) -> String {
        if self.is_bucket() {
            format!("{}{name}:{{{}}}", self.prefix, self.tag)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    fn own(&self, kind: &str, what: &[u8]) -> String {
        use std::fmt::Write as _;
        let Self { prefix, tag } = self;
        let mut key = String::with_capacity(prefix.len() + tag.len() + 2 * what.len() + 6);
        let _ = if self.is_bucket() {
            write!(key, "{prefix}{kind}:{{{tag}}}:")
        } else {
            write!(key, "{prefix}{kind}:{{")
        };
        for byte in what {
            let _ = write!(key, "{byte:02x}");
        }
        if !self.is_bucket() {
            key.push('}');
        }
        key
    }

    pub(super) fn row(&self, id: &SessionId) -> String {
        self.own("s", id.as_bytes())
    }

    /// Where a damaged row is put aside.
    pub(super) fn aside(&self, id: &SessionId) -> String {
        self.own("q", id.as_bytes())
    }

    pub(super) fn owner(&self, owner: &str) -> String {
        // The name of a script is the SHA-1 of its text, as `redis.sha1hex` has it on the server.
        let hash = ::redis::Script::new(owner).get_hash().to_owned();
        if self.is_bucket() {
            format!("{}o:{{{}}}:{hash}", self.prefix, self.tag)
        } else {
            format!("{}o:{{{hash}}}", self.prefix)
        }
    }
}

/// The id in a key of [`Names::row`]; `None` for any other key.
pub(super) fn id_of(prefix: &str, key: &[u8]) -> Option<SessionId> {
    let braced = key.strip_prefix(prefix.as_bytes())?.strip_prefix(b"s:{")?;
    let hex = match braced.strip_suffix(b"}") {
        Some(hex) => hex,
        None => {
            let end = braced.windows(2).position(|two| two == b"}:")?;
            braced.get(end + 2..)?
        }
    };
    let (pairs, []) = hex.as_chunks::<2>() else { return None };
    let mut id = [0; 32];
    if pairs.len() != id.len() {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    for (byte, [high, low]) in id.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(SessionId::from_bytes(id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use sessile_engine::store::Row;

    use super::*;

    proptest! {
        #[test]
        fn ids_come_back_from_their_keys(id: [u8; 32], prefix in "[a-z:]{1,8}", other in "[a-z:]{1,8}") {
            let id = SessionId::from_bytes(id);
            for names in [Names::new(&prefix), Names::of_bucket(&prefix, "0f-12")] {
                let key = names.row(&id);
                prop_assert_eq!(id_of(&prefix, key.as_bytes()), Some(id));
                if other != prefix {
                    prop_assert_eq!(id_of(&other, key.as_bytes()), None);
                }
            }
        }

        #[test]
        fn any_other_key_has_no_id(key in proptest::collection::vec(any::<u8>(), 0..90)) {
            prop_assert_eq!(id_of("sessile:", &key), None);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let row = Row { version: 2, expires_at: 3, owner: Some("u".into()), bytes: vec![0xAB] };
        assert_eq!(encode(&row), [1, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'u', 0xAB]);
        let id = SessionId::from_bytes([0x0f; 32]);
        let (one, bucket) = (Names::new("p:"), Names::of_bucket("p:", "0f-12"));
        assert_eq!(one.row(&id), format!("p:s:{{{}}}", "0f".repeat(32)));
        assert_eq!(id_of("p:", one.row(&id).to_uppercase().as_bytes()), None);
        assert_eq!(bucket.row(&id), format!("p:s:{{0f-12}}:{}", "0f".repeat(32)));
        assert_eq!(bucket.aside(&id), format!("p:q:{{0f-12}}:{}", "0f".repeat(32)));
        assert_eq!(bucket.owner("u"), "p:o:{0f-12}:51e69892ab49df85c6230ccc57f8e1d1606caccc");
        assert_eq!((one.shared("x"), bucket.shared("x")), ("p:x".to_owned(), "p:x:{0f-12}".to_owned()));
        assert_eq!(home_of(&[b'P', 7, 0, 0, 0, 0, 0, 0, 0, 0]), Some(7));
        assert_eq!(home_of(&encode(&row)), None);
    }
}
