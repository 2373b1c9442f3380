//! What the journal holds, by id: for each session the place of its newest state in a generation of segments. It
//! reads no segment and decides nothing.
//!
//! A generation is written until it is frozen, then drained into the store in the order of its ids, and dropped
//! whole. 256 shards by the first byte of the id: so their order is that of the ids, and growing one of them
//! moves few items. What was noted last may not be in its shard yet (`fresh.rs`): who looks, looks there first.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::disk::Segment;
use super::fresh::Fresh;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::token::SessionId;

const SHARDS: usize = 256;
/// Memory of an item, with its share of the table's free places and of the list of its owner.
pub(super) const ITEM_BYTES: usize = 112;

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) at: u32,
    pub(super) len: u32,
}

/// The newest state of a session in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Row(Place),
    Deleted,
    Quarantined,
}

/// A session and its newest state.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) id: SessionId,
    /// [`owner_hash`]; 0 for none.
    pub(super) owner: u64,
    pub(super) state: State,
}

#[derive(Default)]
struct Shard {
    items: HashTable<Item>,
    /// Ids by the hash of an owner they have, or had: who asks looks at the row.
    owners: BTreeMap<u64, SmallVec<[SessionId; 1]>>,
}

/// One generation.
pub(super) struct Generation {
    fresh: Fresh,
    shards: Box<[Mutex<Shard>]>,
    items: AtomicUsize,
    bytes: AtomicU64,
    /// Its segments, for who reads from them while they may already have been removed.
    files: Mutex<Vec<(u32, Arc<dyn Segment>)>>,
}

/// What an owner is found by.
pub(super) fn owner_hash(owner: Option<&str>) -> u64 {
    owner.map_or(0, |o| xxh3_64(o.as_bytes()) | 1)
}

/// Bytes of an id that its shard was not chosen by.
pub(super) fn hash(id: &SessionId) -> u64 {
    id.as_bytes().last_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}

impl Generation {
    pub(super) fn new() -> Self {
        Self {
            fresh: Fresh::default(),
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect(),
            items: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            files: Mutex::new(Vec::new()),
        }
    }

    fn shard(&self, id: &SessionId) -> Option<&Mutex<Shard>> {
        self.shards.get(usize::from(id.as_bytes()[0]))
    }

    /// Sessions it has a state of, or more: one whose newest state is not filed may count twice.
    pub(super) fn len(&self) -> usize {
        // In this order, so that one that is being filed is in one of them.
        let fresh = self.fresh.len();
        self.items.load(Ordering::Relaxed) + fresh
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its frames.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.store(self.bytes().saturating_add(bytes), Ordering::Relaxed);
    }

    pub(super) fn add_file(&self, number: u32, file: Arc<dyn Segment>) {
        self.files.lock().push((number, file));
    }

    pub(super) fn file(&self, number: u32) -> Option<Arc<dyn Segment>> {
        self.files.lock().iter().find(|(n, _)| *n == number).map(|(_, f)| Arc::clone(f))
    }

    /// Its files in the order of their numbers.
    pub(super) fn files_in_order(&self) -> Vec<Arc<dyn Segment>> {
        let mut files = self.files.lock().clone();
        files.sort_unstable_by_key(|(number, _)| *number);
        files.into_iter().map(|(_, file)| file).collect()
    }

    /// Its files with their numbers.
    pub(super) fn numbered(&self) -> Vec<(u32, Arc<dyn Segment>)> {
        self.files.lock().clone()
    }

    pub(super) fn segments(&self) -> Vec<u32> {
        self.files.lock().iter().map(|(n, _)| *n).collect()
    }

    /// Notes the newest state of `id`, whose owner has the hash `owner`.
    pub(super) fn note(&self, id: &SessionId, owner: u64, state: State) {
        self.fresh.note(Item { id: *id, owner, state }, |item| self.set(item));
    }

    /// Files what was noted before. Until then it is found by its id only.
    pub(super) fn settle(&self) {
        self.fresh.settle(|item| self.set(item));
    }

    /// Files the newest state of a session of which nothing newer was noted.
    pub(super) fn set(&self, new: Item) {
        let Some(shard) = self.shard(&new.id) else { return };
        let mut shard = shard.lock();
        let shard = &mut *shard;
        let before = match shard.items.find_mut(hash(&new.id), |item| item.id == new.id) {
            Some(item) => std::mem::replace(item, new).owner,
            None => {
                shard.items.insert_unique(hash(&new.id), new, |item| hash(&item.id));
                self.items.fetch_add(1, Ordering::Relaxed);
                0
            }
        };
        if new.owner != 0 && new.owner != before {
            let ids = shard.owners.entry(new.owner).or_default();
            if !ids.contains(&new.id) {
                ids.push(new.id);
            }
        }
    }

    pub(super) fn get(&self, id: &SessionId) -> Option<State> {
        if let Some(state) = self.fresh.get(id) {
            return Some(state);
        }
        let shard = self.shard(id)?.lock();
        shard.items.find(hash(id), |item| item.id == *id).map(|item| item.state)
    }

    /// Ids that may have the owner of this hash.
    pub(super) fn of_owner(&self, owner: u64) -> Vec<SessionId> {
        self.settle();
        let mut ids = Vec::new();
        for shard in &self.shards {
            ids.extend(shard.lock().owners.get(&owner).into_iter().flatten());
        }
        ids
    }

    /// The items of one shard in the order of their ids; `None` behind the last shard.
    pub(super) fn shard_in_order(&self, shard: usize) -> Option<Vec<(SessionId, State)>> {
        self.settle();
        let shard = self.shards.get(shard)?.lock();
        let mut items: Vec<_> = shard.items.iter().map(|item| (item.id, item.state)).collect();
        drop(shard);
        items.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        Some(items)
    }
}

/// The shard that `id` is in.
pub(super) fn shard_of(id: &SessionId) -> usize {
    usize::from(id.as_bytes()[0])
}
