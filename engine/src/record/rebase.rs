//! Two changes of one record made one: what was changed here, key by key and field by field, put onto what others have
//! stored meanwhile. It decides what wins; it knows no store and no version rule.

use super::edit::{Scratch, archive, check_size, offset, place_archives, with_scratch};
use super::layout::{ArchivedRoot, MAX_OWNER_BYTES, Meta, Root, Slot, body_len};
use super::{Limits, Record};
use crate::error::Result;

/// A place in a record's sorted keys.
struct At<'a> {
    root: &'a ArchivedRoot<'static>,
    index: usize,
}

impl<'a> At<'a> {
    fn start(record: &'a Record) -> Self {
        Self { root: record.root(), index: 0 }
    }

    fn key(&self) -> Option<&'a [u8]> {
        self.root.slots().get(self.index).map(|slot| self.root.key(slot))
    }

    /// The index of `key` if it is the next one, which is then passed.
    fn take(&mut self, key: &[u8]) -> Option<usize> {
        (self.key()? == key).then(|| {
            self.index += 1;
            self.index - 1
        })
    }

    fn bytes(&self, index: usize) -> &'a [u8] {
        self.root.heap().get(self.root.start(index)..self.root.start(index + 1)).unwrap_or_default()
    }
}

/// Whether the values at two places are the same.
fn same(a: &ArchivedRoot<'static>, i: usize, b: &ArchivedRoot<'static>, j: usize) -> bool {
    let (Some(x), Some(y)) = (a.slots().get(i), b.slots().get(j)) else { return false };
    x.kind == y.kind && a.value(i, x) == b.value(j, y)
}

/// `local` if it was changed since `base`, else `stored`.
fn pick<T: PartialEq>(base: Option<&T>, local: T, stored: T) -> T {
    if base.is_none_or(|base| *base != local) { local } else { stored }
}

impl Record {
    /// `stored` with what changed from `base` to `local`: a key that was put or removed here is as it is here, all others
    /// are as they are stored; so with the owner and the fields of the metadata. Without `base`, everything counts as
    /// changed. The version is the one behind the stored one.
    ///
    /// Two changes of one key meet: the one that is stored later, this one, wins.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`](crate::ErrorKind::Limit) if both together are larger than a record can be. The configured
    /// limit does not count: each change kept to it.
    pub(crate) fn rebased(base: Option<&Self>, local: &Self, stored: &Self) -> Result<Self> {
        let mut b = base.map(At::start);
        let (mut l, mut s) = (At::start(local), At::start(stored));
        // Where the owner comes from: the archive's first bytes.
        let owner_from = match base {
            Some(base) if base.same_owner(local) => stored,
            _ => local,
        };
        let owner = owner_from.root().owner();
        debug_assert!(owner.len() <= MAX_OWNER_BYTES);
        let mut plan: Vec<(&ArchivedRoot<'static>, usize, &[u8])> = Vec::new();
        let mut bytes = owner.len();
        loop {
            let next = [b.as_ref().and_then(At::key), l.key(), s.key()];
            let Some(key) = next.into_iter().flatten().min_by(|x, y| x.cmp(y)) else { break };
            let in_base = b.as_mut().and_then(|b| b.take(key).map(|i| (b.root, i)));
            let (in_local, in_stored) = (l.take(key), s.take(key));
            let changed = match (in_base, in_local) {
                (Some((root, i)), Some(j)) => !same(root, i, l.root, j),
                (None, None) => base.is_none(),
                _ => true,
            };
            let chosen = if changed { in_local.map(|i| (&l, i)) } else { in_stored.map(|i| (&s, i)) };
            if let Some((at, index)) = chosen {
                bytes += at.bytes(index).len();
                plan.push((at.root, index, at.bytes(index)));
            }
        }
        let no_limits =
            Limits { max_record_bytes: usize::MAX, max_key_bytes: usize::MAX, max_keys: usize::MAX };
        check_size(body_len(plan.len(), bytes), 0, &no_limits)?;
        let meta = Self::meta_rebased(base, local, stored);
        let owner_len = owner_from.root().owner_len;
        Ok(with_scratch(|Scratch { slots, heap, body }| {
            heap.extend_from_slice(owner);
            for (root, index, bytes) in plan {
                let Some(slot) = root.slots().get(index) else { continue };
                slots.push(Slot { at: offset(heap.len()).into(), ..*slot });
                heap.extend_from_slice(bytes);
            }
            place_archives(slots, heap);
            archive(&Root::new(&meta, owner_len.into(), slots, heap), body)
        }))
    }

    fn meta_rebased(base: Option<&Self>, local: &Self, stored: &Self) -> Meta {
        let (base, local, stored) = (base.map(Self::meta), local.meta(), stored.meta());
        let base = base.as_ref();
        Meta {
            version: stored.version.saturating_add(1),
            created_at: stored.created_at,
            last_seen: local.last_seen.max(stored.last_seen),
            deadline: pick(base.map(|b| &b.deadline), local.deadline, stored.deadline),
            idle_timeout: pick(base.map(|b| &b.idle_timeout), local.idle_timeout, stored.idle_timeout),
            authenticated_at: pick(
                base.map(|b| &b.authenticated_at),
                local.authenticated_at,
                stored.authenticated_at,
            ),
            issued_at: local.issued_at.max(stored.issued_at),
            persistent: pick(base.map(|b| &b.persistent), local.persistent, stored.persistent),
            anonymous_idle: pick(
                base.map(|b| &b.anonymous_idle),
                local.anonymous_idle,
                stored.anonymous_idle,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::record::tests::meta;
    use crate::token::SessionId;
    use crate::value::Encoded;

    type Data = BTreeMap<String, String>;

    fn record(owner: Option<&str>, version: u64, data: &Data) -> Record {
        let (limits, meta) = (Limits::default(), Meta { version, ..meta() });
        let mut record = Record::empty(&meta).with_owner(&meta, owner, &limits).unwrap();
        for (key, value) in data {
            record = record.put(&meta, key, &Encoded::of(value).unwrap(), &limits).unwrap();
        }
        record
    }

    fn data() -> impl Strategy<Value = Data> {
        proptest::collection::btree_map("[a-e]{1,2}", "[a-z]{0,9}", 0..9)
    }

    /// What the keys must be, one at a time.
    fn expected(base: Option<&Data>, local: &Data, stored: &Data) -> Data {
        let mut out = stored.clone();
        let keys = base.into_iter().flatten().chain(local).chain(stored).map(|(key, _)| key);
        for key in keys {
            let here = local.get(key);
            if base.is_none_or(|base| base.get(key) != here) {
                match here {
                    Some(value) => out.insert(key.clone(), value.clone()),
                    None => out.remove(key),
                };
            }
        }
        out
    }

    proptest! {
        #[test]
        fn each_key_is_as_it_was_changed_last(
            base in proptest::option::of(data()), local in data(), stored in data(),
        ) {
            let was = base.as_ref().map(|base| record(Some("a"), 3, base));
            let merged =
                Record::rebased(was.as_ref(), &record(Some("a"), 4, &local), &record(Some("a"), 9, &stored)).unwrap();
            // Opening proves the form; a record put together key by key has the same bytes.
            let id = SessionId::from_bytes([3; 32]);
            let opened = Record::open(&id, &merged.seal(&id)).unwrap();
            let wanted = record(Some("a"), 10, &expected(base.as_ref(), &local, &stored));
            prop_assert_eq!(opened.seal(&id), wanted.seal(&id));
        }

        #[test]
        fn doing_it_twice_changes_nothing_more(base in data(), local in data(), stored in data()) {
            let (base, local) = (record(None, 3, &base), record(None, 4, &local));
            let once = Record::rebased(Some(&base), &local, &record(None, 9, &stored)).unwrap();
            let twice = Record::rebased(Some(&base), &local, &once).unwrap();
            prop_assert!(once.same_content(&twice));
            prop_assert_eq!(twice.version(), 11);
        }
    }

    #[test]
    fn owner_and_metadata_follow_whoever_changed_them() {
        let none = Data::new();
        let base = record(Some("a"), 3, &none);
        let merge = |local: &Record, stored: &Record| Record::rebased(Some(&base), local, stored).unwrap();
        assert_eq!(merge(&record(Some("a"), 4, &none), &record(Some("b"), 5, &none)).owner(), Some("b"));
        assert_eq!(merge(&record(Some("c"), 4, &none), &record(Some("b"), 5, &none)).owner(), Some("c"));
        assert_eq!(merge(&record(None, 4, &none), &record(Some("a"), 5, &none)).owner(), None);
        let longer = Meta { deadline: meta().deadline + 9, last_seen: 7, version: 5, ..meta() };
        let extended = base.with_meta(&longer);
        assert_eq!(merge(&base, &extended).deadline(), meta().deadline + 9);
        assert_eq!(merge(&extended, &base).deadline(), meta().deadline + 9);
    }
}
