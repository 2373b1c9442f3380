//! Two records made one: the data of both under the owner and the metadata of the first. It decides nothing but
//! which value of a key that both have is kept.

use std::cmp::Ordering;

use super::edit::{Scratch, archive, check_size, offset, with_scratch};
use super::layout::{ArchivedRoot, Meta, Slot, body_len};
use super::{Limits, Record};
use crate::error::{Error, ErrorKind, Result};

/// Which record the next key comes from.
fn next(ours: &ArchivedRoot<'_>, i: usize, theirs: &ArchivedRoot<'_>, j: usize) -> Option<Ordering> {
    match (ours.slots().get(i), theirs.slots().get(j)) {
        (None, None) => None,
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (Some(a), Some(b)) => Some(ours.key(a).cmp(theirs.key(b))),
    }
}

impl Record {
    /// This record's owner, with the data of both. Of a key that both have, the value of `other` is kept, or
    /// this record's with `keep`.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] if it would have too many keys or bytes.
    ///
    /// # Complexity
    /// O(size of both): one copy and one allocation.
    pub(crate) fn merged(&self, meta: &Meta, other: &Self, keep: bool, limits: &Limits) -> Result<Self> {
        let (ours, theirs) = (self.root(), other.root());
        let (mut i, mut j, mut count, mut bytes) = (0, 0, 0, ours.owner_len());
        let mut plan = Vec::with_capacity(ours.slots().len() + theirs.slots().len());
        while let Some(order) = next(ours, i, theirs, j) {
            let from_ours = order == Ordering::Less || (order == Ordering::Equal && keep);
            let (root, index) = if from_ours { (ours, i) } else { (theirs, j) };
            plan.push((root, index));
            bytes += root.start(index + 1) - root.start(index);
            count += 1;
            i += usize::from(order != Ordering::Greater);
            j += usize::from(order != Ordering::Less);
        }
        if count > limits.max_keys.max(ours.slots().len()) {
            let message = format!("the record would have {count} keys, the limit is {}", limits.max_keys);
            return Err(Error::new(ErrorKind::Limit, message));
        }
        check_size(body_len(count, bytes), self.body().len(), limits)?;
        Ok(with_scratch(|Scratch { slots, heap, body }| {
            heap.extend_from_slice(ours.owner());
            for (root, index) in plan {
                let Some(slot) = root.slots().get(index) else { continue };
                slots.push(Slot { at: offset(heap.len()).into(), ..*slot });
                heap.extend_from_slice(
                    root.heap().get(root.start(index)..root.start(index + 1)).unwrap_or_default(),
                );
            }
            archive(&super::layout::Root::new(meta, ours.owner_len.into(), slots, heap), body)
        }))
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

    fn record(owner: Option<&str>, data: &BTreeMap<String, String>) -> Record {
        let limits = Limits::default();
        let mut record = Record::empty(&meta()).with_owner(&meta(), owner, &limits).unwrap();
        for (key, value) in data {
            record = record.put(&meta(), key, &Encoded::of(value).unwrap(), &limits).unwrap();
        }
        record
    }

    proptest! {
        #[test]
        fn merging_is_the_union(
            a in proptest::collection::btree_map("[a-f]{1,3}", "[a-z]{0,9}", 0..9),
            b in proptest::collection::btree_map("[a-f]{1,3}", "[A-Z]{0,9}", 0..9),
            keep: bool,
        ) {
            let (ours, theirs) = (record(Some("user:1"), &a), record(Some("somebody else"), &b));
            let merged = ours.merged(&meta(), &theirs, keep, &Limits::default()).unwrap();
            let (first, then) = if keep { (&b, &a) } else { (&a, &b) };
            let mut expected = first.clone();
            expected.extend(then.clone());
            // Opening proves the form; a record put together key by key has the same bytes.
            let id = SessionId::from_bytes([3; 32]);
            let opened = Record::open(&id, &merged.seal(&id)).unwrap();
            prop_assert_eq!(opened.seal(&id), record(Some("user:1"), &expected).seal(&id));
        }
    }

    #[test]
    fn a_merge_beyond_the_limits_is_refused() {
        let data = |from: u32| (from..from + 3).map(|i| (format!("k{i}"), "x".repeat(100))).collect();
        let (ours, theirs) = (record(None, &data(0)), record(None, &data(2)));
        let merge = |limits: &Limits| ours.merged(&meta(), &theirs, false, limits).map(|r| r.len());
        assert_eq!(merge(&Limits { max_keys: 5, ..Limits::default() }).unwrap(), 5);
        let error = merge(&Limits { max_keys: 4, ..Limits::default() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        let error = merge(&Limits { max_record_bytes: 600, ..Limits::default() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
    }
}
