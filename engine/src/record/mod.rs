//! Records: a session's metadata and data as one immutable allocation of archived bytes, the same in memory,
//! in a store and in a snapshot. It reads in place, splices and seals; it knows no store, no clock and no
//! locks.

mod access;
mod edit;
mod keyed;
mod layout;
mod merge;
mod patch;
mod rebase;
mod seal;
mod validate;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::num::NonZeroU64;

use triomphe::ThinArc;

pub(crate) use self::keyed::is_current;
use self::layout::ArchivedRoot;
pub(crate) use self::layout::MAX_BODY_BYTES;
pub use self::layout::Meta;
pub use self::seal::OpenError;
use crate::value::{Kind, ValueRef, wire};

/// Makes the shared allocation's bytes start at a multiple of 8 on every platform.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Align8;

/// Bytes of the allocation before the body: the reference count and the length.
const ALLOCATION_HEADER: usize = 16;

/// Bytes that [`Record::touch_lines`] reads: one of each line behind the first, which has the length.
const TOUCHED: [usize; 3] = [64, 128, 192];

/// A session's metadata and data at one moment: immutable, shared, read in place.
///
/// It is one pointer; a clone is one atomic increment.
#[derive(Clone)]
pub struct Record {
    /// Invariant: a body that [`validate`] accepts, whether it was opened or built here.
    shared: ThinArc<Align8, u8>,
}

/// What a record may hold. Checked when it is changed, not when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Greatest size of the archived record in bytes; 16 MiB is the most.
    pub max_record_bytes: usize,
    /// Greatest length of a key in bytes; 65,535 is the most.
    pub max_key_bytes: usize,
    /// Greatest number of keys.
    pub max_keys: usize,
}

/// See [`Record::times`].
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) last_seen: u64,
    pub(crate) deadline: u64,
    /// 0 = for ever.
    pub(crate) idle_timeout: u64,
}

/// See [`Record::look`].
pub(crate) enum Look {
    Absent,
    Scalar(ValueRef<'static>),
    At(usize),
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_record_bytes: 64 << 10, max_key_bytes: 256, max_keys: 1024 }
    }
}

impl Record {
    /// A record over a copy of `body`. The caller vouches for the invariant, or checks it next.
    fn copy_body(body: &[u8]) -> Self {
        Self { shared: ThinArc::from_header_and_slice(Align8, body) }
    }

    fn body(&self) -> &[u8] {
        &self.shared.slice
    }

    #[inline]
    fn root(&self) -> &ArchivedRoot<'static> {
        #[expect(clippy::expect_used, reason = "the body was validated when this record was made")]
        access::checked(self.body()).expect("a valid body")
    }

    /// The metadata.
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.root().meta()
    }

    /// Number of the committed state.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.root().version.into()
    }

    /// When the session was last used, in ms since the Unix epoch, as far as the record knows.
    #[must_use]
    pub fn last_seen(&self) -> u64 {
        self.root().last_seen.into()
    }

    /// When the session ends in any case, in ms since the Unix epoch.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        self.root().deadline.into()
    }

    /// How long the session may stay unused, in ms; 0 = for ever.
    #[must_use]
    pub fn idle_timeout_ms(&self) -> u64 {
        self.root().idle_timeout.into()
    }

    /// Reads a byte of each of the first cache lines, for a reader that will look for values: of a record that is in
    /// no cache, they are fetched while the root is, which is at the other end, and not after it.
    #[inline]
    pub(crate) fn touch_lines(&self) {
        for at in TOUCHED {
            std::hint::black_box(self.body().get(at).copied());
        }
    }

    /// Latest use, deadline and idle timeout, in ms, at the price of one.
    #[inline]
    pub(crate) fn times(&self) -> Times {
        let root = self.root();
        Times {
            last_seen: root.last_seen.into(),
            deadline: root.deadline.into(),
            idle_timeout: root.idle_timeout.into(),
        }
    }

    /// The value under `key` if it needs no bytes of the record, else where it is.
    #[inline]
    pub(crate) fn look(&self, key: &str) -> Look {
        let root = self.root();
        let Some(index) = root.index(key.as_bytes()) else { return Look::Absent };
        match value(root, index).map(ValueRef::detach) {
            None => Look::Absent,
            Some(Ok(scalar)) => Look::Scalar(scalar),
            Some(Err(_)) => Look::At(index),
        }
    }

    /// The value that [`look`](Self::look) found at `index` in this very record.
    #[inline]
    pub(crate) fn value_at(&self, index: usize) -> Option<ValueRef<'_>> {
        value(self.root(), index)
    }

    /// When the session's user last proved who they are, in ms since the Unix epoch.
    #[must_use]
    pub fn authenticated_at(&self) -> Option<NonZeroU64> {
        self.root().authenticated_at()
    }

    /// When the session's token was made, in ms since the Unix epoch.
    #[must_use]
    pub fn issued_at(&self) -> u64 {
        self.root().issued_at()
    }

    /// Whether the session has an owner.
    #[inline]
    pub(crate) fn has_owner(&self) -> bool {
        self.root().owner_len() != 0
    }

    /// The application's owner of the session.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        wire::utf8(self.root().owner()).ok().filter(|owner| !owner.is_empty())
    }

    /// Whether both belong to the same owner, or to nobody.
    pub(crate) fn same_owner(&self, other: &Self) -> bool {
        self.root().owner() == other.root().owner()
    }

    /// Whether both say the same but for the version, the latest use and the time at which the token was issued.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        let (a, b) = (self.root(), other.root());
        let meta = |r: &ArchivedRoot<'_>| Meta { version: 0, last_seen: 0, issued_at: 0, ..r.meta() };
        self.ptr_eq(other)
            || (meta(a) == meta(b)
                && a.owner_len() == b.owner_len()
                && a.heap() == b.heap()
                && a.slots().len() == b.slots().len()
                && a.slots()
                    .iter()
                    .zip(b.slots())
                    .all(|(x, y)| (x.at, x.key_len, x.kind) == (y.at, y.key_len, y.kind)))
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.root().slots.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the record takes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        ALLOCATION_HEADER + self.body().len()
    }

    /// The value under `key`, read in place.
    ///
    /// # Complexity
    /// O(log keys), without allocation.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<ValueRef<'_>> {
        let root = self.root();
        let index = root.index(key.as_bytes())?;
        value(root, index)
    }

    /// The entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ValueRef<'_>)> {
        let root = self.root();
        (0..root.slots().len()).filter_map(move |index| {
            let key = wire::utf8(root.key(root.slots().get(index)?)).ok()?;
            Some((key, value(root, index)?))
        })
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let root = self.root();
        root.slots().iter().filter_map(|slot| wire::utf8(root.key(slot)).ok())
    }

    /// Whether both are the same allocation.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.body().as_ptr(), other.body().as_ptr())
    }
}

#[inline]
fn value<'a>(root: &'a ArchivedRoot<'_>, index: usize) -> Option<ValueRef<'a>> {
    let slot = root.slots().get(index)?;
    wire::read(Kind::from_u8(slot.kind)?, root.value(index, slot)).ok()
}

/// Key names, kinds and sizes; never a value or the owner.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Data<'a>(&'a ArchivedRoot<'static>);

        impl fmt::Debug for Data<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut map = f.debug_map();
                for (index, slot) in self.0.slots().iter().enumerate() {
                    let kind = Kind::from_u8(slot.kind).map_or("unknown", Kind::name);
                    let size = self.0.value(index, slot).len();
                    map.entry(
                        &String::from_utf8_lossy(self.0.key(slot)),
                        &format_args!("{kind}, {size} bytes"),
                    );
                }
                map.finish()
            }
        }

        f.debug_struct("Record")
            .field("meta", &self.meta())
            .field("owner", &self.owner().map(str::len))
            .field("data", &Data(self.root()))
            .finish()
    }
}
