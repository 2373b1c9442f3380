//! Eviction: which clean session leaves the map when the byte budget is exceeded. Dirty ones, tombstones and
//! sessions that somebody holds are never chosen.
//!
//! Sessions without owner are found through a ring per shard, in the order in which they came: a sample of the
//! map would miss them when they are few among many, and they must be found, as nothing else may make room for
//! their like.

use hashbrown::HashTable;

use super::{Cache, ENTRY_OVERHEAD, EntryRef, Place, SHARDS, spot, stripe};
use crate::sync::Ordering;

/// Buckets looked at per attempt. Sampled LRU: the oldest of a handful is about as good as the oldest of all
/// once the cache is large, and needs no list that every hit would have to maintain.
const SAMPLE: usize = 24;
/// Sessions without owner looked at per attempt. Fewer will do: the ring has them about in the order of their age.
const RING_SAMPLE: usize = 8;
/// Shards tried before eviction gives up.
const TRIES: usize = SHARDS;

/// Who may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victims {
    Anyone,
    /// Sessions with an owner.
    Owned,
    /// Sessions without.
    Anonymous,
}

/// The least recently used of those offered, if it can go.
#[derive(Default)]
struct Oldest(Option<(u64, EntryRef)>);

impl Oldest {
    fn offer(&mut self, entry: &EntryRef) {
        // One count means: only the map holds it, and under the write lock nobody can take another. The one held
        // here is dropped before the next is looked at, or is that of another entry.
        if entry.is_unshared() && entry.is_clean() {
            let last_seen = entry.last_seen();
            if self.0.as_ref().is_none_or(|(oldest, _)| last_seen < *oldest) {
                self.0 = Some((last_seen, entry.clone()));
            }
        }
    }
}

impl Cache {
    /// Evicts while `over`, at most `max` sessions. Returns those evicted.
    pub(crate) fn evict(&self, victims: Victims, max: usize, over: impl Fn(&Self) -> bool) -> Vec<EntryRef> {
        let mut out = Vec::new();
        let mut fruitless = 0;
        while out.len() < max && fruitless < TRIES && over(self) {
            let cursor = self.evict_cursor.fetch_add(1, Ordering::Relaxed);
            match self.evict_from(cursor % SHARDS, cursor, victims) {
                Some(entry) => {
                    fruitless = 0;
                    out.push(entry);
                }
                None => fruitless += 1,
            }
        }
        out
    }

    /// Evicts the least recently used clean session of a sample of one shard.
    fn evict_from(&self, index: usize, seed: usize, victims: Victims) -> Option<EntryRef> {
        let shard = &self.shards[index];
        if victims == Victims::Anonymous && shard.ring.lock().0.is_empty() {
            return None;
        }
        let mut map = shard.map.write();
        let (_, victim) = match victims {
            Victims::Anonymous => shard.ring.lock().oldest(&map),
            Victims::Anyone | Victims::Owned => sample(&map, seed, victims),
        }?;
        let found = map.find_entry(victim.spot(), |e| e.is(&victim)).ok()?;
        self.removals[stripe(victim.id())].fetch_add(1, Ordering::SeqCst);
        // Still under the shard's lock: afterwards the session may be back in the map. Nobody else has the
        // entry, so nobody holds its lock.
        victim.remove_from(&self.owners);
        found.remove();
        drop(map);
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.usage.sub(victim.record_bytes() + ENTRY_OVERHEAD, victim.is_owned());
        Some(victim)
    }
}

fn sample(map: &HashTable<EntryRef>, seed: usize, victims: Victims) -> Option<(u64, EntryRef)> {
    let buckets = map.num_buckets();
    if map.is_empty() || buckets == 0 {
        return None;
    }
    // A cheap mix, so that successive visits of a shard start at unrelated buckets.
    let start = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let mut oldest = Oldest::default();
    let mut seen = 0;
    for step in 0..buckets {
        let Some(entry) = map.get_bucket(start.wrapping_add(step) % buckets) else { continue };
        seen += 1;
        if victims == Victims::Anyone || entry.is_owned() {
            oldest.offer(entry);
        }
        if seen >= SAMPLE {
            break;
        }
    }
    oldest.0
}

/// The sessions without owner of one shard by their places, the longest there first. Some may have left, or have
/// an owner by now: that is found out when their turn comes. Of two with one place the same is found twice, until it
/// is gone.
#[derive(Default)]
pub(super) struct Ring(pub(super) std::collections::VecDeque<Place>);

impl Ring {
    /// A session without owner at `place`.
    pub(super) fn find(map: &HashTable<EntryRef>, place: Place) -> Option<&EntryRef> {
        map.find(spot(place), |e| e.place() == place && !e.is_owned())
    }

    /// The least recently used of the first few. Those that stay go to the end.
    fn oldest(&mut self, map: &HashTable<EntryRef>) -> Option<(u64, EntryRef)> {
        let mut oldest = Oldest::default();
        let mut seen = 0;
        for _ in 0..self.0.len() {
            let place = self.0.pop_front()?;
            let Some(entry) = Self::find(map, place) else { continue };
            // The victim's turn comes again, and finds it gone.
            self.0.push_back(place);
            oldest.offer(entry);
            seen += 1;
            if seen >= RING_SAMPLE {
                break;
            }
        }
        oldest.0
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::cache::{Entry, shard_of};
    use crate::record::{Meta, Record};
    use crate::token::SessionId;

    #[test]
    fn sessions_that_a_shard_cannot_tell_apart_are_all_found_and_all_evicted() {
        let cache = Cache::new();
        let meta = Meta { idle_timeout: None, ..crate::record::tests::meta() };
        let ids = [1, 2, 3].map(|last| {
            let mut id = [7; 32];
            id[31] = last;
            // One of the three differs in the hash, in bits that neither its shard nor its place has.
            id[7] = if last == 3 { 8 } else { 7 };
            SessionId::from_bytes(id)
        });
        assert_eq!(shard_of(ids[0].bucket()), shard_of(ids[2].bucket()));
        assert_ne!(ids[0].bucket(), ids[2].bucket());
        for id in &ids {
            let entry = Entry::loaded(*id, Record::empty(&meta));
            assert!(matches!(cache.insert_loaded(&entry, cache.removals(id)), Ok(true)));
        }
        for id in &ids {
            assert!(cache.get(id).is_some_and(|entry| entry.id() == id));
        }
        assert!(cache.member(ids[2].bucket()).is_some_and(|entry| *entry.id() == ids[2]));
        let mut gone: Vec<_> =
            cache.evict(Victims::Anonymous, 9, |_| true).iter().map(|entry| *entry.id()).collect();
        gone.sort_unstable();
        assert_eq!(gone, ids);
        assert_eq!((cache.len(), cache.anonymous()), (0, 0));
    }
}
