//! Changing a record: a new one is spliced from the old one's bytes, without decoding a value, in buffers
//! that each thread reuses, and lands in one allocation. A change that fails leaves nothing behind.

use std::cell::Cell;

use rkyv::rancor::Panic;
use rkyv::ser::allocator::SubAllocator;

use super::layout::{
    ArchivedRoot, MAX_BODY_BYTES, MAX_KEY_BYTES, MAX_OWNER_BYTES, Meta, Root, Slot, body_len,
};
use super::{Limits, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::value::{Encoded, Kind, archived};

/// Buffers kept by a thread are not larger than this, so that one huge record does not stay resident.
const KEEP_BYTES: usize = 256 << 10;

#[derive(Default)]
pub(super) struct Scratch {
    pub(super) slots: Vec<Slot>,
    pub(super) heap: Vec<u8>,
    pub(super) body: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> =
        const { Cell::new(Scratch { slots: Vec::new(), heap: Vec::new(), body: Vec::new() }) };
}

/// Lends the thread's buffers, emptied. While a thread is being torn down it has none, and new ones are made.
pub(super) fn with_scratch(build: impl FnOnce(&mut Scratch) -> Record) -> Record {
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    scratch.slots.clear();
    scratch.heap.clear();
    scratch.body.clear();
    let record = build(&mut scratch);
    if scratch.body.capacity() <= KEEP_BYTES {
        // Fails only during teardown, when there is nothing to keep.
        let _ = SCRATCH.try_with(|kept| kept.set(scratch));
    }
    record
}

/// Archives `root` by way of `body`.
pub(super) fn archive(root: &Root<'_>, body: &mut Vec<u8>) -> Record {
    body.reserve(body_len(root.slots.len(), root.heap.len()));
    // Writing to a `Vec` does not fail, nothing is allocated through rkyv, and MAX_BODY_BYTES keeps every
    // offset within its pointers, so `Panic` is never used.
    let written: std::result::Result<_, Panic> =
        rkyv::api::low::to_bytes_in_with_alloc(root, &mut *body, SubAllocator::empty());
    let Ok(_) = written;
    Record::copy_body(body)
}

fn shifted(slot: &Slot, delta: u32) -> Slot {
    Slot { at: slot.at.to_native().wrapping_add(delta).into(), ..*slot }
}

/// Brings every archive of the application to its alignment. The heap begins behind the slots, at a multiple of 8.
pub(super) fn place_archives(slots: &[Slot], heap: &mut [u8]) {
    for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.kind == Kind::Archived as u8) {
        let from = slot.at.to_native() as usize + usize::from(slot.key_len.to_native());
        let to = slots.get(index + 1).map_or(heap.len(), |next| next.at.to_native() as usize);
        if let Some(value) = heap.get_mut(from..to) {
            archived::place(value, from);
        }
    }
}

/// Refuses a body of `size` bytes unless it is within the limit, or at least no larger than it was.
pub(super) fn check_size(size: usize, was: usize, limits: &Limits) -> Result<()> {
    let limit = limits.max_record_bytes.min(MAX_BODY_BYTES);
    if size > limit && (size > was || size > MAX_BODY_BYTES) {
        return Err(Error::new(
            ErrorKind::Limit,
            format!("the record would have {size} bytes, the limit is {limit}"),
        ));
    }
    Ok(())
}

impl Record {
    /// A record with no data and no owner.
    #[must_use]
    pub fn empty(meta: &Meta) -> Self {
        with_scratch(|scratch| archive(&Root::new(meta, 0, &[], &[]), &mut scratch.body))
    }

    /// The same data with other metadata.
    pub(crate) fn with_meta(&self, meta: &Meta) -> Self {
        self.patched(meta, None)
    }

    /// The owner, without data.
    pub(crate) fn cleared(&self, meta: &Meta) -> Self {
        let old = self.root();
        with_scratch(|scratch| {
            archive(&Root::new(meta, old.owner_len.into(), &[], old.owner()), &mut scratch.body)
        })
    }

    /// The same data with another owner, or none.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] if the owner has more than 255 bytes or the record would grow beyond its limit,
    /// [`ErrorKind::InvalidKey`] if the owner is empty.
    pub(crate) fn with_owner(&self, meta: &Meta, owner: Option<&str>, limits: &Limits) -> Result<Self> {
        let old = self.root();
        if owner == Some("") {
            return Err(Error::new(ErrorKind::InvalidKey, "an owner must not be empty"));
        }
        let owner = owner.unwrap_or_default().as_bytes();
        let owner_len = match u16::try_from(owner.len()) {
            Ok(len) if owner.len() <= MAX_OWNER_BYTES => len,
            _ => {
                let len = owner.len();
                let message = format!("the owner has {len} bytes, the limit is {MAX_OWNER_BYTES}");
                return Err(Error::new(ErrorKind::Limit, message));
            }
        };
        let rest = old.heap().get(old.owner_len()..).unwrap_or_default();
        check_size(body_len(old.slots().len(), owner.len() + rest.len()), self.body().len(), limits)?;
        let delta = u32::from(owner_len).wrapping_sub(u16::from(old.owner_len).into());
        Ok(with_scratch(|Scratch { slots, heap, body }| {
            heap.extend_from_slice(owner);
            heap.extend_from_slice(rest);
            slots.extend(old.slots().iter().map(|slot| shifted(slot, delta)));
            place_archives(slots, heap);
            archive(&Root::new(meta, owner_len, slots, heap), body)
        }))
    }

    /// The same data with `key` set to `value`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] if the key is empty or too long, [`ErrorKind::Limit`] if the record would
    /// have too many keys or bytes. Both name the key, the limit and the actual size.
    ///
    /// # Complexity
    /// O(size of the record): one copy of it and one allocation.
    pub(crate) fn put(&self, meta: &Meta, key: &str, value: &Encoded, limits: &Limits) -> Result<Self> {
        let key_limit = limits.max_key_bytes.min(MAX_KEY_BYTES);
        let key_len = match u16::try_from(key.len()) {
            Ok(len) if key.len() <= key_limit => len,
            _ => {
                let message = format!("the key has {} bytes, the limit is {key_limit}", key.len());
                return Err(Error::new(ErrorKind::InvalidKey, message).with_key(key));
            }
        };
        if key.is_empty() {
            return Err(Error::new(ErrorKind::InvalidKey, "a key must not be empty"));
        }
        let old = self.root();
        let count = old.slots().len();
        let (index, replaced) = match old.find(key.as_bytes()) {
            Ok(index) => (index, 1),
            Err(_) if count >= limits.max_keys => {
                let message = format!("the record has {count} keys, the limit is {}", limits.max_keys);
                return Err(Error::new(ErrorKind::Limit, message).with_key(key));
            }
            Err(index) => (index, 0),
        };
        let entry_len = key.len() + value.bytes().len();
        let cut = old.start(index)..old.start(index + replaced);
        let heap_len = old.heap().len() - cut.len() + entry_len;
        check_size(body_len(count + 1 - replaced, heap_len), self.body().len(), limits)
            .map_err(|e| e.with_key(key))?;
        if replaced == 1 && cut.len() == entry_len && value.kind() != Kind::Archived {
            return Ok(self.patched(meta, Some((index, value))));
        }
        let slot = Slot {
            at: offset(cut.start).into(),
            key_len: key_len.into(),
            kind: value.kind() as u8,
            reserved: 0,
        };
        Ok(self.splice(meta, old, index, replaced, Some((slot, key.as_bytes(), value.bytes()))))
    }

    /// The same data without `key`; `None` if it is not there.
    pub(crate) fn remove(&self, meta: &Meta, key: &str) -> Option<Self> {
        let old = self.root();
        let index = old.index(key.as_bytes())?;
        Some(self.splice(meta, old, index, 1, None))
    }

    /// Refuses this record, which was made of `was` in several steps, if it is beyond the limits and larger than that.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`].
    pub(crate) fn check_growth(&self, was: &Self, limits: &Limits) -> Result<()> {
        check_size(self.body().len(), was.body().len(), limits)?;
        let count = self.len();
        if count > limits.max_keys && count > was.len() {
            let message = format!("the record would have {count} keys, the limit is {}", limits.max_keys);
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(())
    }

    /// Replaces `removed` entries (0 or 1) from `index` on by `entry`.
    fn splice(
        &self,
        meta: &Meta,
        old: &ArchivedRoot<'_>,
        index: usize,
        removed: usize,
        entry: Option<(Slot, &[u8], &[u8])>,
    ) -> Self {
        let (from, to) = (old.start(index), old.start(index + removed));
        with_scratch(|Scratch { slots, heap, body }| {
            heap.extend_from_slice(old.heap().get(..from).unwrap_or_default());
            slots.extend_from_slice(old.slots().get(..index).unwrap_or_default());
            if let Some((slot, key, value)) = entry {
                slots.push(slot);
                heap.extend_from_slice(key);
                heap.extend_from_slice(value);
            }
            let delta = offset(heap.len()).wrapping_sub(offset(to));
            slots.extend(old.slots().iter().skip(index + removed).map(|slot| shifted(slot, delta)));
            heap.extend_from_slice(old.heap().get(to..).unwrap_or_default());
            place_archives(slots, heap);
            archive(&Root::new(meta, old.owner_len.into(), slots, heap), body)
        })
    }
}

/// An offset in the heap: MAX_BODY_BYTES keeps it within 32 bits.
pub(super) fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
