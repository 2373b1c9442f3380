//! Room in the byte budget: who must leave, and who must wait, when a session comes in.
//!
//! Sessions without owner have a limit of their own. A newcomer of theirs makes its kind leave and nobody else; a
//! newcomer with an owner makes them leave when they are above their limit, and else whoever was used least
//! recently. A part of their limit is theirs in any case, so that a cache full of sessions with owners
//! does not turn each visit of a stranger into a wait for the writer.

use super::Core;
use crate::cache::{Cache, Victims};
use crate::error::{Error, ErrorKind, Result};
use crate::observer::Event;
use crate::sync::Ordering;

/// Sessions evicted at most for one that comes in: more than one, so that the budget is regained.
const EVICT_AT_ONCE: usize = 8;
/// Entries in the queue above which sessions without owner wait for the writer, so that those with one find it
/// at their service.
const BACKLOG: usize = 2048;
/// Bytes of an item in the wheel.
const WHEEL_ITEM: usize = 13;

/// The budget at one moment.
struct Room {
    limit: usize,
    anonymous_limit: usize,
    /// Kept for sessions without owner.
    reserve: usize,
    /// What the wheel holds for sessions that are gone.
    litter: usize,
}

impl Room {
    fn all(&self, cache: &Cache) -> bool {
        cache.used() + self.litter <= self.limit
    }

    fn anonymous(&self, cache: &Cache) -> bool {
        cache.anonymous() <= self.anonymous_limit
    }

    /// Whether sessions with owners are within what is theirs.
    fn owned(&self, cache: &Cache) -> bool {
        let anonymous = cache.anonymous();
        let owned = cache.used().saturating_sub(anonymous);
        owned + self.litter + anonymous.clamp(self.reserve, self.anonymous_limit) <= self.limit
    }
}

impl Core {
    fn room(&self) -> Room {
        let anonymous_limit = self.config.life.anonymous_limit;
        Room {
            limit: self.config.memory_limit,
            anonymous_limit,
            reserve: anonymous_limit / 8,
            litter: self.litter(),
        }
    }

    /// Bytes of the wheel's items whose sessions are gone or evicted. They are dropped when they fire.
    fn litter(&self) -> usize {
        self.wheel_len.load(Ordering::Relaxed).saturating_sub(self.cache.len()) * WHEEL_ITEM
    }

    /// Whether the wheel holds so many items of sessions that are gone that new ones must be filed close by.
    pub(super) fn is_littered(&self) -> bool {
        self.litter() > self.config.memory_limit / 16
    }

    /// Evicts if the budget is exceeded. Returns whether there is room for a session with or without an owner.
    pub(crate) fn evict(&self, owned: bool) -> bool {
        let room = self.room();
        let cache = &self.cache;
        if !owned && cache.anonymous() > room.anonymous_limit / 2 && self.queue.dirty() > BACKLOG {
            return false;
        }
        if room.all(cache) && room.anonymous(cache) && (!owned || room.owned(cache)) {
            return true;
        }
        if self.store.is_some() {
            if !owned || !room.anonymous(cache) {
                self.evict_while(Victims::Anonymous, |c| !room.all(c) || !room.anonymous(c));
            }
            if owned {
                let victims = if cache.anonymous() > room.reserve { Victims::Anyone } else { Victims::Owned };
                self.evict_while(victims, |c| !room.owned(c));
            }
        }
        if owned { room.owned(cache) } else { room.all(cache) && room.anonymous(cache) }
    }

    fn evict_while(&self, victims: Victims, over: impl Fn(&Cache) -> bool) {
        let evicted = self.cache.evict(victims, EVICT_AT_ONCE, over);
        self.counters.evicted.add(evicted.len() as u64);
        for entry in &evicted {
            self.notify(|| Event::Evicted { id: *entry.id() });
        }
    }

    /// Waits until the budget has room for another session. What fills it is either evictable or waits for the
    /// writer, so waiting for the writer is enough; what is in use by requests may exceed it.
    pub(crate) async fn make_room(&self, owned: bool) -> Result<()> {
        if self.evict(owned) {
            return Ok(());
        }
        if self.store.is_none() {
            let (whose, limit) = if owned || self.cache.anonymous() <= self.config.life.anonymous_limit {
                ("", self.config.memory_limit)
            } else {
                (" of sessions without owner", self.config.life.anonymous_limit)
            };
            let error = Error::new(
                ErrorKind::OutOfMemoryBudget,
                format!("the memory limit of {limit} bytes{whose} is used up"),
            );
            self.note_limit(&error, None);
            return Err(error);
        }
        if self.queue.dirty() > 0 {
            self.queue.flush().await?;
        }
        self.evict(owned);
        Ok(())
    }
}
