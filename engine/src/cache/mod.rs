//! The sharded map of cached sessions. It owns lookup, insertion, removal and the byte count; it knows no
//! clock, no store and no queue, and runs nobody's code under a lock.
//!
//! Memory: a session costs its record (a 16-byte header and the archived bytes), an [`Entry`] of 72 bytes
//! with its count, and 9 to 20 bytes of map slot, each allocation rounded up by the allocator, plus 12 bytes
//! in the wheel and, without owner, 4 in the ring of its shard; with an owner, 24 more for its place in the
//! index.

mod budget;
mod entry;
mod evict;

use hashbrown::HashTable;

pub(crate) use self::budget::Grown;
use self::budget::Usage;
pub(crate) use self::entry::{
    Amend, Answer, Claimed, Edited, Entry, EntryRef, Phase, Pick, Read, Rebased, Seen, WriteMode, revoked,
};
use self::evict::Ring;
pub(crate) use self::evict::Victims;
use crate::owner::OwnerIndex;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, RwLock};
use crate::token::SessionId;

/// Shards of the map. A power of two; more than enough for the cores of one machine, few enough that an
/// empty cache is small.
const SHARDS: usize = 64;
/// Stripes of the removal counters; see [`Cache::removals`].
const STRIPES: usize = 256;
/// What a cached session costs beside its record: entry, count, map slot, wheel item, ring and allocator headers.
pub(crate) const ENTRY_OVERHEAD: usize = 128;

/// One shard, on cache lines of its own so that neighbours' locks do not share one.
#[repr(align(128))]
struct Shard {
    map: RwLock<HashTable<EntryRef>>,
    /// Locked after the map.
    ring: Mutex<Ring>,
    hits: AtomicU64,
}

/// The map.
pub(crate) struct Cache {
    shards: Box<[Shard]>,
    /// Bytes of all entries in the map.
    usage: Usage,
    len: AtomicUsize,
    /// The sessions in the map by owner.
    pub(crate) owners: OwnerIndex,
    /// Counts removals per stripe of ids; see [`removals`](Self::removals).
    removals: Box<[AtomicU32]>,
    evict_cursor: AtomicUsize,
}

/// The shard of an id: bits that its place in the shard does not use.
#[inline]
fn shard_of(hash: u64) -> usize {
    usize::try_from((hash >> 40) & (SHARDS as u64 - 1)).unwrap_or(0)
}

/// What a shard knows of the hash of an id: enough to tell its sessions apart but for one pair in billions.
type Place = u32;

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low bits")]
fn place_of(hash: u64) -> Place {
    hash as Place
}

/// What a shard's table is asked with: its low bits choose the bucket, its top bits are in the control bytes.
#[inline]
fn spot(place: Place) -> u64 {
    u64::from(place) << 32 | u64::from(place)
}

impl EntryRef {
    #[inline]
    fn place(&self) -> Place {
        place_of(self.id().bucket())
    }

    #[inline]
    fn spot(&self) -> u64 {
        spot(self.place())
    }
}

/// Buckets above which a shard's table is too large for the caches that are near.
const LARGE: usize = 2048;

/// Reads the bucket that an entry of this hash is in or near: of a large table it is fetched while the control bytes
/// are, which say which bucket it is, and not after them.
#[inline]
fn touch_home(map: &HashTable<EntryRef>, hash: u64) {
    let buckets = map.num_buckets();
    if buckets >= LARGE
        && let Ok(at) = usize::try_from(hash & (buckets as u64 - 1))
    {
        std::hint::black_box(map.get_bucket(at).map(EntryRef::address));
    }
}

impl Cache {
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            map: RwLock::new(HashTable::new()),
            ring: Mutex::new(Ring::default()),
            hits: AtomicU64::new(0),
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            usage: Usage::default(),
            len: AtomicUsize::new(0),
            owners: OwnerIndex::new(),
            removals: (0..STRIPES).map(|_| AtomicU32::new(0)).collect(),
            evict_cursor: AtomicUsize::new(0),
        }
    }

    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[shard_of(hash)]
    }

    /// Finds the entry of `id`, gone or not. The count is cloned out, so nothing runs under the lock.
    #[inline]
    pub(crate) fn get(&self, id: &SessionId) -> Option<EntryRef> {
        let shard = self.shard(id.bucket());
        let spot = spot(place_of(id.bucket()));
        let map = shard.map.read();
        touch_home(&map, spot);
        let found = map.find(spot, |e| e.id() == id).cloned();
        drop(map);
        if found.is_some() {
            // Not an atomic increment: of two hits at the same instant one may go uncounted, and none waits.
            shard.hits.store(shard.hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        found
    }

    /// As [`get`](Self::get), for those who look without using the session: it counts as no hit.
    pub(crate) fn peek(&self, id: &SessionId) -> Option<EntryRef> {
        let hash = id.bucket();
        self.shard(hash).map.read().find(spot(place_of(hash)), |e| e.id() == id).cloned()
    }

    /// The entry that a member of the index stands for.
    pub(crate) fn member(&self, hash: u64) -> Option<EntryRef> {
        self.shard(hash).map.read().find(spot(place_of(hash)), |e| e.id().bucket() == hash).cloned()
    }

    /// Entries of shard `shard` with ids behind `after`, sorted, at most `limit`. `None` if there is no such
    /// shard.
    pub(crate) fn in_order(
        &self,
        shard: usize,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Option<Vec<EntryRef>> {
        let map = self.shards.get(shard)?.map.read();
        let mut found: Vec<_> = map.iter().filter(|e| after.is_none_or(|a| e.id() > a)).cloned().collect();
        drop(map);
        if found.len() > limit && limit > 0 {
            found.select_nth_unstable_by(limit - 1, |a, b| a.id().cmp(b.id()));
        }
        found.truncate(limit);
        found.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        Some(found)
    }

    /// The shard of an id.
    pub(crate) fn shard_of(id: &SessionId) -> usize {
        shard_of(id.bucket())
    }

    /// Finds an entry by the bucket hash alone, for the wheel. Two ids that share 64 bits are told apart by
    /// the tick they are armed for, and at worst one of them is expired when it is next looked at.
    pub(crate) fn get_by_bucket(&self, hash: u64, armed: u32) -> Option<EntryRef> {
        let armed_here = |e: &EntryRef| e.id().bucket() == hash && e.armed() == armed;
        self.shard(hash).map.read().find(spot(place_of(hash)), armed_here).cloned()
    }

    /// A counter that changes whenever an id of the same stripe leaves the map. A load that read the store
    /// while it changed may have read a row that has been superseded since, and must read again.
    pub(crate) fn removals(&self, id: &SessionId) -> u32 {
        self.removals[stripe(id)].load(Ordering::SeqCst)
    }

    /// Makes whoever has read the row of `id` read again: it has been deleted without having had an entry.
    pub(crate) fn note_removal(&self, id: &SessionId) {
        let _map = self.shard(id.bucket()).map.write();
        self.removals[stripe(id)].fetch_add(1, Ordering::SeqCst);
    }

    /// All removal counters, for a listing.
    pub(crate) fn all_removals(&self) -> Removals {
        Removals(self.removals.iter().map(|n| n.load(Ordering::SeqCst)).collect())
    }

    /// Adds `entry`, whose record is `bytes` long, unless its id is present; then the present one is returned.
    pub(crate) fn insert(&self, entry: &EntryRef, bytes: usize) -> Result<(), EntryRef> {
        let hash = entry.id().bucket();
        let mut map = self.shard(hash).map.write();
        if let Some(present) = map.find(entry.spot(), |e| e.id() == entry.id()) {
            return Err(present.clone());
        }
        map.insert_unique(entry.spot(), entry.clone(), EntryRef::spot);
        self.note_anonymous(entry, &map);
        drop(map);
        self.counted(entry, bytes);
        Ok(())
    }

    /// As [`insert`](Self::insert) for a row read from the store: refused (`Ok(false)`) if the removal
    /// counter has moved on from `seen`.
    pub(crate) fn insert_loaded(&self, entry: &EntryRef, seen: u32) -> Result<bool, EntryRef> {
        let hash = entry.id().bucket();
        let bytes = entry.record_bytes();
        let mut map = self.shard(hash).map.write();
        if let Some(present) = map.find(entry.spot(), |e| e.id() == entry.id()) {
            return Err(present.clone());
        }
        // Removals bump the counter under this same shard lock, so the comparison cannot be overtaken.
        if self.removals(entry.id()) != seen {
            return Ok(false);
        }
        map.insert_unique(entry.spot(), entry.clone(), EntryRef::spot);
        self.note_anonymous(entry, &map);
        entry.add_to(&self.owners);
        drop(map);
        self.counted(entry, bytes);
        Ok(true)
    }

    fn note_anonymous(&self, entry: &EntryRef, map: &HashTable<EntryRef>) {
        if !entry.is_owned() {
            self.shard(entry.id().bucket()).ring.lock().push(entry.place(), map);
        }
    }

    fn counted(&self, entry: &EntryRef, bytes: usize) {
        self.len.fetch_add(1, Ordering::Relaxed);
        self.usage.add(bytes + ENTRY_OVERHEAD, entry.is_owned());
    }

    /// Removes exactly this entry.
    pub(crate) fn remove(&self, entry: &EntryRef) -> bool {
        let hash = entry.id().bucket();
        let mut map = self.shard(hash).map.write();
        let Ok(found) = map.find_entry(entry.spot(), |e| e.is(entry)) else { return false };
        self.removals[stripe(entry.id())].fetch_add(1, Ordering::SeqCst);
        let (removed, _) = found.remove();
        drop(map);
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.usage.sub(removed.record_bytes() + ENTRY_OVERHEAD, removed.is_owned());
        true
    }

    /// Puts `new`, of the same id and with a record of `bytes` bytes, into the place of exactly `old`, which has
    /// none. Returns whether `old` was there.
    pub(crate) fn replace(&self, old: &EntryRef, new: &EntryRef, bytes: usize) -> bool {
        let hash = old.id().bucket();
        let mut map = self.shard(hash).map.write();
        let Some(place) = map.find_mut(old.spot(), |e| e.is(old)) else { return false };
        *place = new.clone();
        drop(map);
        self.filled(new, bytes);
        true
    }

    /// Entries in the map, tombstones included.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Lookups that found an entry.
    pub(crate) fn hits(&self) -> u64 {
        self.shards.iter().map(|s| s.hits.load(Ordering::Relaxed)).sum()
    }
}

/// The removal counters at some time.
pub(crate) struct Removals(Box<[u32]>);

impl Removals {
    pub(crate) fn of(&self, id: &SessionId) -> u32 {
        self.0[stripe(id)]
    }
}

fn stripe(id: &SessionId) -> usize {
    usize::from(id.as_bytes()[31])
}
