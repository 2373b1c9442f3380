//! Every number and every byte position that defines the record format: the archived body and the envelope
//! around it. It holds no logic beyond packing and unpacking single fields.
//!
//! `docs/format.md` describes the same bytes for people; `tests/fixtures/record-v1.bin` pins them.

use std::mem::offset_of;
use std::num::NonZeroU64;

use rkyv::bytecheck::CheckBytes;
use rkyv::rend::{u16_le, u32_le, u64_le};
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Portable, Serialize};

/// First bytes of every sealed record.
pub(crate) const MAGIC: [u8; 4] = *b"SSLR";
/// Version of the envelope and the body together.
pub(crate) const FORMAT_VERSION: u8 = 1;
/// What the archive's shape depends on besides the version: the kind of rkyv pointers and its alignment.
/// Integers are little-endian by type. A build with other rkyv features has another fingerprint.
pub(crate) const LAYOUT_FINGERPRINT: u8 = {
    let pointer = size_of::<rkyv::primitive::ArchivedIsize>() as u8;
    let big_endian = <rkyv::primitive::ArchivedU16 as ByteOrder>::BIG_ENDIAN as u8;
    let aligned = (align_of::<rkyv::primitive::ArchivedU64>() == 8) as u8;
    pointer | big_endian << 4 | aligned << 5
};

/// The byte order that rkyv was built with.
trait ByteOrder {
    const BIG_ENDIAN: bool;
}

impl ByteOrder for rkyv::rend::u16_le {
    const BIG_ENDIAN: bool = false;
}
impl ByteOrder for rkyv::rend::unaligned::u16_ule {
    const BIG_ENDIAN: bool = false;
}
impl ByteOrder for rkyv::rend::u16_be {
    const BIG_ENDIAN: bool = true;
}
impl ByteOrder for rkyv::rend::unaligned::u16_ube {
    const BIG_ENDIAN: bool = true;
}
/// Envelope kind: the tag is an unkeyed xxh3-64. It detects damage and swapped rows, not forgery.
pub(crate) const KIND_XXH3: u8 = 0;
/// Envelope kind: the body is encrypted and authenticated with XChaCha20-Poly1305.
pub(crate) const KIND_XCHACHA20POLY1305: u8 = 1;
/// Envelope kind: the tag is a truncated HMAC-SHA-256.
pub(crate) const KIND_HMAC_SHA256: u8 = 2;

/// Offset of the format version in the envelope.
pub(crate) const VERSION_AT: usize = 4;
/// Offset of the layout fingerprint.
pub(crate) const LAYOUT_AT: usize = 5;
/// Offset of the envelope kind.
pub(crate) const KIND_AT: usize = 6;
/// Offset of the reserved byte, 0.
pub(crate) const RESERVED_AT: usize = 7;
/// Offset of the tag; the header before it is covered by the tag.
pub(crate) const TAG_AT: usize = 8;
/// Bytes of the unkeyed envelope's header. The body follows.
pub(crate) const HEADER_LEN: usize = 16;

/// Bytes that the headers of all kinds begin with.
pub(crate) const COMMON_LEN: usize = 8;
/// Bytes of a keyed envelope's header before nonce and tag: the common ones and the key id.
pub(crate) const KEYED_PREFIX_LEN: usize = COMMON_LEN + 4;

/// Bytes of one slot.
pub(crate) const SLOT_LEN: usize = 8;
/// Bytes of the root, the last thing in the body.
pub(crate) const ROOT_LEN: usize = 72;
/// Alignment of the body, and a divisor of its length.
pub(crate) const BODY_ALIGN: usize = 8;
/// No record is ever larger, whatever the configured limit: offsets then fit rkyv's 32-bit pointers.
pub(crate) const MAX_BODY_BYTES: usize = 16 << 20;
/// No key is ever longer, whatever the configured limit: the slot's field.
pub(crate) const MAX_KEY_BYTES: usize = u16::MAX as usize;
/// Greatest length of an owner.
pub(crate) const MAX_OWNER_BYTES: usize = 255;

/// Flag: the client keeps the cookie when the browser closes.
pub(crate) const FLAG_PERSISTENT: u32 = 1;
/// Flag: the idle timeout is the one of sessions without owner, and goes when an owner is set.
pub(crate) const FLAG_ANONYMOUS_IDLE: u32 = 2;
/// All flags of this version. Others must be 0.
pub(crate) const KNOWN_FLAGS: u32 = FLAG_PERSISTENT | FLAG_ANONYMOUS_IDLE;

const _: () = {
    assert!(size_of::<Slot>() == SLOT_LEN);
    assert!(size_of::<ArchivedRoot<'static>>() == ROOT_LEN);
    assert!(align_of::<ArchivedRoot<'static>>() == BODY_ALIGN);
    assert!(offset_of!(ArchivedRoot<'static>, version) == 0);
    assert!(META_LEN == 5 * size_of::<u64>() + 3 * size_of::<u32>());
    assert!(ROOT_LEN.is_multiple_of(BODY_ALIGN) && HEADER_LEN.is_multiple_of(BODY_ALIGN));
    assert!(TAG_AT + size_of::<u64>() == HEADER_LEN);
    assert!(MAGIC.len() == VERSION_AT && RESERVED_AT + 1 == COMMON_LEN && TAG_AT == COMMON_LEN);
    assert!(MAX_BODY_BYTES < i32::MAX as usize);
    assert!(MAX_OWNER_BYTES < MAX_KEY_BYTES);
};

/// Where one key and its value are in the heap. Slots are sorted by key; a slot's value ends where the next
/// slot's key begins, the last one's at the end of the heap.
#[derive(Clone, Copy, Archive, Serialize, Portable, CheckBytes)]
#[rkyv(as = Slot)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub(crate) struct Slot {
    /// Offset of the key in the heap.
    pub(crate) at: u32_le,
    /// Length of the key; its value follows it.
    pub(crate) key_len: u16_le,
    /// A [`Kind`](crate::value::Kind).
    pub(crate) kind: u8,
    /// 0.
    pub(crate) reserved: u8,
}

/// The body's root: metadata, then pointers to the slots and to the heap before it.
#[derive(Archive, Serialize)]
#[rkyv(attr(repr(C)))]
pub(crate) struct Root<'a> {
    pub(crate) version: u64_le,
    pub(crate) created_at: u64_le,
    pub(crate) last_seen: u64_le,
    pub(crate) deadline: u64_le,
    /// 0 = none.
    pub(crate) idle_timeout: u64_le,
    /// Whole seconds after `created_at`, plus 1; 0 = never.
    pub(crate) authenticated_after: u32_le,
    /// Whole seconds after `created_at`.
    pub(crate) issued_after: u32_le,
    pub(crate) flags: u32_le,
    /// Length of the owner, the first bytes of the heap; 0 = none.
    pub(crate) owner_len: u16_le,
    /// 0.
    pub(crate) reserved: u16_le,
    #[rkyv(with = InlineAsBox)]
    pub(crate) slots: &'a [Slot],
    #[rkyv(with = InlineAsBox)]
    pub(crate) heap: &'a [u8],
}

/// Bytes of the root that say what the metadata is: those before the length of the owner.
const META_LEN: usize = offset_of!(ArchivedRoot<'static>, owner_len);

/// The first bytes of the root of a record with this metadata.
pub(crate) fn meta_bytes(meta: &Meta) -> [u8; META_LEN] {
    let root = Root::new(meta, 0, &[], &[]);
    let words = [root.version, root.created_at, root.last_seen, root.deadline, root.idle_timeout];
    let halves = [root.authenticated_after, root.issued_after, root.flags];
    let mut bytes = [0; META_LEN];
    let (first, last) = bytes.split_at_mut(size_of_val(&words));
    for (bytes, word) in first.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_native().to_le_bytes();
    }
    for (bytes, half) in last.as_chunks_mut().0.iter_mut().zip(halves) {
        *bytes = half.to_native().to_le_bytes();
    }
    bytes
}

/// A session's metadata. Times are ms since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Number of the committed state.
    pub version: u64,
    /// When the session began.
    pub created_at: u64,
    /// When it was last used, as far as the record knows.
    pub last_seen: u64,
    /// When it ends in any case.
    pub deadline: u64,
    /// How long it may stay unused, in ms.
    pub idle_timeout: Option<NonZeroU64>,
    /// When its user last proved who they are. Kept in whole seconds after the session began, rounded down.
    pub authenticated_at: Option<NonZeroU64>,
    /// When its token was made. Kept in whole seconds after the session began, rounded down.
    pub issued_at: u64,
    /// Whether the client keeps the cookie when the browser closes.
    pub persistent: bool,
    /// Whether `idle_timeout` is the one that sessions without owner get, to be lifted when an owner is set.
    pub anonymous_idle: bool,
}

impl Meta {
    /// `at` in whole seconds after the session began. Times before it count as 0; 136 years is the most.
    fn seconds_after(&self, at: u64) -> u32 {
        u32::try_from(at.saturating_sub(self.created_at) / 1000).unwrap_or(u32::MAX)
    }

    fn flags(&self) -> u32 {
        let persistent = if self.persistent { FLAG_PERSISTENT } else { 0 };
        let anonymous = if self.anonymous_idle { FLAG_ANONYMOUS_IDLE } else { 0 };
        persistent | anonymous
    }
}

impl<'a> Root<'a> {
    pub(crate) fn new(meta: &Meta, owner_len: u16, slots: &'a [Slot], heap: &'a [u8]) -> Self {
        Self {
            version: meta.version.into(),
            created_at: meta.created_at.into(),
            last_seen: meta.last_seen.into(),
            deadline: meta.deadline.into(),
            idle_timeout: meta.idle_timeout.map_or(0, NonZeroU64::get).into(),
            authenticated_after: meta
                .authenticated_at
                .map_or(0, |at| meta.seconds_after(at.get()).saturating_add(1))
                .into(),
            issued_after: meta.seconds_after(meta.issued_at).into(),
            flags: meta.flags().into(),
            owner_len: owner_len.into(),
            reserved: 0.into(),
            slots,
            heap,
        }
    }
}

impl ArchivedRoot<'_> {
    #[inline]
    pub(crate) fn slots(&self) -> &[Slot] {
        self.slots.get()
    }

    #[inline]
    pub(crate) fn heap(&self) -> &[u8] {
        self.heap.get()
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta {
            version: self.version.into(),
            created_at: self.created_at.into(),
            last_seen: self.last_seen.into(),
            deadline: self.deadline.into(),
            idle_timeout: NonZeroU64::new(self.idle_timeout.into()),
            authenticated_at: self.authenticated_at(),
            issued_at: self.issued_at(),
            persistent: u32::from(self.flags) & FLAG_PERSISTENT != 0,
            anonymous_idle: u32::from(self.flags) & FLAG_ANONYMOUS_IDLE != 0,
        }
    }

    fn seconds_on(&self, after: u32) -> u64 {
        u64::from(self.created_at).saturating_add(u64::from(after) * 1000)
    }

    pub(crate) fn authenticated_at(&self) -> Option<NonZeroU64> {
        let after = u32::from(self.authenticated_after).checked_sub(1)?;
        NonZeroU64::new(self.seconds_on(after))
    }

    pub(crate) fn issued_at(&self) -> u64 {
        self.seconds_on(self.issued_after.into())
    }

    /// Where the slots' part of the heap begins.
    pub(crate) fn owner_len(&self) -> usize {
        u16::from(self.owner_len).into()
    }

    pub(crate) fn owner(&self) -> &[u8] {
        self.heap().get(..self.owner_len()).unwrap_or_default()
    }

    /// Start of slot `index`'s key in the heap; the heap's end for the index behind the last slot.
    pub(crate) fn start(&self, index: usize) -> usize {
        self.slots().get(index).map_or(self.heap().len(), |slot| slot.at.to_native() as usize)
    }

    pub(crate) fn key(&self, slot: &Slot) -> &[u8] {
        let at = slot.at.to_native() as usize;
        self.heap().get(at..at + usize::from(slot.key_len.to_native())).unwrap_or_default()
    }

    /// The value's bytes of slot `index`.
    pub(crate) fn value(&self, index: usize, slot: &Slot) -> &[u8] {
        let from = slot.at.to_native() as usize + usize::from(slot.key_len.to_native());
        self.heap().get(from..self.start(index + 1)).unwrap_or_default()
    }

    /// The slot of `key`, or the index where it would go.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.index(key).ok_or_else(|| self.slots().partition_point(|slot| self.key(slot) < key))
    }

    /// The slot of `key`.
    ///
    /// Lengths are compared first: they are in the slots, which follow each other in memory, while each key that is
    /// looked at is a place of its own.
    #[inline]
    pub(crate) fn index(&self, key: &[u8]) -> Option<usize> {
        let slots = self.slots();
        let is_as_long = |slot: &Slot| usize::from(slot.key_len.to_native()) == key.len();
        let is_scanned = slots.len() <= LINEAR_SLOTS
            || slots.len() <= SCANNED_SLOTS
                && slots.iter().filter(|slot| is_as_long(slot)).count() <= LINEAR_SLOTS / 4;
        if is_scanned {
            return slots.iter().position(|slot| is_as_long(slot) && self.key(slot) == key);
        }
        slots.binary_search_by(|slot| self.key(slot).cmp(key)).ok()
    }
}

/// Up to this many slots are scanned instead of searched.
const LINEAR_SLOTS: usize = 16;
/// Up to this many are if few keys are as long as the one that is looked for.
const SCANNED_SLOTS: usize = 128;

/// Length of the body with these many slots and bytes of heap.
pub(crate) const fn body_len(slots: usize, heap: usize) -> usize {
    (slots * SLOT_LEN + heap).next_multiple_of(BODY_ALIGN) + ROOT_LEN
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;

    const META: Meta = Meta {
        version: 1,
        created_at: 1_700_000_000_000,
        last_seen: 1_700_000_000_000,
        deadline: 1_700_086_400_000,
        idle_timeout: None,
        authenticated_at: None,
        issued_at: 1_700_000_000_000,
        persistent: true,
        anonymous_idle: false,
    };

    #[test]
    fn times_of_the_token_are_kept_in_whole_seconds() {
        let odd = Meta {
            authenticated_at: NonZeroU64::new(META.created_at + 1_999),
            issued_at: META.created_at + 2_001,
            ..META
        };
        let record = Record::empty(&odd);
        assert_eq!(record.authenticated_at(), NonZeroU64::new(META.created_at + 1_000));
        assert_eq!(record.issued_at(), META.created_at + 2_000);
        assert_eq!(record.with_meta(&record.meta()).meta(), record.meta(), "rounding happens once");
        let at_once =
            Meta { authenticated_at: NonZeroU64::new(META.created_at), anonymous_idle: true, ..META };
        assert_eq!(Record::empty(&at_once).meta(), at_once);
        let before = Meta { authenticated_at: NonZeroU64::new(1), issued_at: 0, ..META };
        let record = Record::empty(&before);
        assert_eq!(record.authenticated_at(), NonZeroU64::new(META.created_at));
        assert_eq!(record.issued_at(), META.created_at);
        let never = Meta { authenticated_at: NonZeroU64::new(u64::MAX), issued_at: u64::MAX, ..META };
        let record = Record::empty(&never);
        assert!(record.authenticated_at().is_some() && record.issued_at() > META.created_at);
    }
}
