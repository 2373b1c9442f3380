//! Changes that move nothing: other metadata, and a value as long as the one before it. The record is copied as it is, and
//! written over where it differs. Whether a change is of that kind, and within the limits, is decided elsewhere.

use std::mem::offset_of;

use super::Record;
use super::layout::{Meta, ROOT_LEN, SLOT_LEN, Slot, meta_bytes};
use crate::value::Encoded;

impl Record {
    /// The same data with other metadata, and with `value`, if there is one, for the value of the slot with that index. It
    /// is as long as that one and no archive of the application, which would have to be aligned.
    pub(super) fn patched(&self, meta: &Meta, value: Option<(usize, &Encoded)>) -> Self {
        let old = self.root();
        // The slots come first, the heap behind them.
        let value = value.and_then(|(index, value)| {
            let slot = old.slots().get(index)?;
            let at = slot.at.to_native() as usize + usize::from(slot.key_len.to_native());
            Some((index * SLOT_LEN + offset_of!(Slot, kind), old.slots().len() * SLOT_LEN + at, value))
        });
        let mut new = Self::copy_body(self.body());
        new.shared.with_arc_mut(|shared| {
            #[expect(clippy::expect_used, reason = "it has just been made")]
            let body = triomphe::Arc::get_mut(shared).expect("nobody else has it").slice_mut();
            if let Some((kind_at, at, value)) = value {
                write(body, kind_at, &[value.kind() as u8]);
                write(body, at, value.bytes());
            }
            write(body, body.len() - ROOT_LEN, &meta_bytes(meta));
        });
        new
    }
}

fn write(body: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = body.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::meta;
    use super::*;
    use crate::record::Limits;

    fn put(record: &Record, meta: &Meta, key: &str, text: &str) -> Record {
        record.put(meta, key, &Encoded::of(text).unwrap(), &Limits::default()).unwrap()
    }

    proptest! {
        /// Byte for byte what a record has that was put together anew.
        #[test]
        fn a_patched_record_is_the_one_that_is_made_anew(
            values in proptest::collection::vec("[a-z]{0,12}", 1..6),
            which in any::<prop::sample::Index>(),
            letter in "[A-Z]",
            owner in proptest::option::of("[a-z]{1,9}"),
            version in 1_u64..1 << 40,
            later in 0_u64..1 << 30,
            persistent: bool,
        ) {
            let before = meta();
            let after = Meta { version, last_seen: before.last_seen + later, persistent, ..before };
            let which = which.index(values.len());
            let build = |meta: &Meta, changed: Option<&str>| {
                let mut record = Record::empty(meta);
                record = record.with_owner(meta, owner.as_deref(), &Limits::default()).unwrap();
                for (i, value) in values.iter().enumerate() {
                    let value = changed.filter(|_| i == which).unwrap_or(value);
                    record = put(&record, meta, &format!("key{i}"), value);
                }
                record
            };
            let other = letter.repeat(values[which].len());
            let record = build(&before, None);
            let changed = put(&record, &after, &format!("key{which}"), &other);
            let anew = build(&after, Some(&other));
            prop_assert_eq!(changed.body(), anew.body());
            let touched = record.with_meta(&after);
            let (anew, again) = (build(&after, None), build(&before, None));
            prop_assert_eq!(touched.body(), anew.body());
            prop_assert_eq!(record.body(), again.body(), "what it was made of is as it was");
        }
    }

    #[test]
    fn a_value_of_another_kind_and_the_same_length_takes_its_kind_along() {
        let record = put(&Record::empty(&meta()), &meta(), "n", "12345678");
        let number = Encoded::of(&-1.5_f64).unwrap();
        assert_eq!(number.bytes().len(), 8);
        let was = record.body().len();
        let changed = record.put(&meta(), "n", &number, &Limits::default()).unwrap();
        assert_eq!(changed.get("n").and_then(|v| v.as_f64()), Some(-1.5));
        assert_eq!(changed.body().len(), was);
    }
}
