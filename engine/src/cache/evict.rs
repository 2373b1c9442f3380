//! Eviction: which clean session leaves the map when the byte budget is exceeded. Dirty ones, tombstones and
//! sessions that somebody holds are never chosen.

use super::{Cache, ENTRY_OVERHEAD, EntryRef, SHARDS, stripe};
use crate::sync::Ordering;

/// Buckets looked at per attempt. Sampled LRU: the oldest of a handful is about as good as the oldest of all
/// once the cache is large, and needs no list that every hit would have to maintain.
const SAMPLE: usize = 24;
/// Shards tried before eviction gives up.
const TRIES: usize = SHARDS;

impl Cache {
    /// Evicts until at most `limit` bytes are in use, at most `max` sessions. Returns those evicted.
    pub(crate) fn evict(&self, limit: usize, max: usize) -> Vec<EntryRef> {
        let mut out = Vec::new();
        let mut fruitless = 0;
        while self.used() > limit && out.len() < max && fruitless < TRIES {
            let cursor = self.evict_cursor.fetch_add(1, Ordering::Relaxed);
            match self.evict_from(cursor % SHARDS, cursor) {
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
    fn evict_from(&self, shard: usize, seed: usize) -> Option<EntryRef> {
        let mut map = self.shards[shard].map.write();
        let buckets = map.num_buckets();
        if map.is_empty() || buckets == 0 {
            return None;
        }
        // A cheap mix, so that successive visits of a shard start at unrelated buckets.
        let start = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let mut oldest: Option<(u64, EntryRef)> = None;
        let mut seen = 0;
        for step in 0..buckets {
            let Some(entry) = map.get_bucket(start.wrapping_add(step) % buckets) else { continue };
            seen += 1;
            // One count means: only the map holds it, and under the write lock nobody can take another.
            if entry.is_unshared() && entry.is_clean() {
                let last_seen = entry.last_seen();
                if oldest.as_ref().is_none_or(|(o, _)| last_seen < *o) {
                    oldest = Some((last_seen, entry.clone()));
                }
            }
            if seen >= SAMPLE {
                break;
            }
        }
        let (_, victim) = oldest?;
        let hash = victim.id().bucket();
        let found = map.find_entry(hash, |e| e.is(&victim)).ok()?;
        self.removals[stripe(victim.id())].fetch_add(1, Ordering::SeqCst);
        // Still under the shard's lock: afterwards the session may be back in the map. Nobody else has the
        // entry, so nobody holds its lock.
        victim.remove_from(&self.owners);
        found.remove();
        drop(map);
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.used.fetch_sub(victim.record_bytes() + ENTRY_OVERHEAD, Ordering::Relaxed);
        Some(victim)
    }
}
